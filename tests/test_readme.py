"""The README: what it tells people to paste works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from obo_asgi import DownstreamAPI, OnBehalfOfMiddleware

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PASTED = next(block for block in BLOCKS if "asyncio.run" in block)
PRODUCTION = next(block for block in BLOCKS if "os.environ" in block)


def test_the_pasted_lines_run() -> None:
    """A newcomer pastes 25 lines and sees what the README says."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PASTED], capture_output=True, text=True, check=False
    )
    assert ("Hello Alice\n", "") == (result.stdout, result.stderr)
    assert 25 >= len([line for line in PASTED.splitlines() if line.strip()])


def test_the_production_lines_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration for production is accepted as it stands."""
    for name in ("TENANT_ID", "CLIENT_ID"):
        monkeypatch.setenv(name, "11111111-1111-4111-8111-111111111111")
    monkeypatch.setenv("CLIENT_SECRET", "secret")
    names: dict[str, object] = {"app": lambda scope, receive, send: None}
    exec(PRODUCTION, names)
    assert isinstance(names["app"], OnBehalfOfMiddleware)
    assert DownstreamAPI is names["DownstreamAPI"]


def test_every_linked_file_is_there() -> None:
    """No relative link or picture of the README is dead."""
    root = Path(__file__).parents[1]
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert [] == [target for target in targets if not (root / target).exists()]
