"""The first example: what its page says that it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_prints_what_the_page_says() -> None:
    """The example runs as the page shows it, and prints the page's lines."""
    page = (ROOT / "docs/get-started.md").read_text(encoding="utf-8")
    (printed,) = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    example = ROOT / "examples/get_started.py"
    result = subprocess.run(
        [sys.executable, "-W", "error", example], capture_output=True, text=True, check=False
    )
    assert (printed, "") == (result.stdout, result.stderr)
