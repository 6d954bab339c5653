"""The docs site: how the tests build it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def built_site(factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return where the site stands, built by the first worker for all, and what MkDocs said."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    shared = factory.getbasetemp().parent if is_worker else factory.getbasetemp()
    directory, said = shared / "site", shared / "site.txt"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            said.write_text(_build(directory), encoding="utf-8")
    return directory, said.read_text(encoding="utf-8")


def _build(directory: Path) -> str:
    """Build the site into a directory, strictly, and return what MkDocs said."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert 0 == result.returncode, result.stdout
    return result.stdout
