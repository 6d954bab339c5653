"""Packages from npm, each installed once for all runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def why_not_installed(
    package: str, file: str, *, programs: tuple[str, ...] = ("npm",)
) -> str | None:
    """Return why a package is not there, or None if it is; installs it at first.

    Args:
        package: its name and version, such as ``@azure/msal-browser@5.30.0``.
        file: what is needed of it, a path below ``node_modules``.
        programs: what has to be on the ``PATH``.
    """
    for program in programs:
        if shutil.which(program) is None:
            return f"no {program} on PATH"
    home = _home(package)
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed(package, file).exists():
            quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]
            try:
                answer = subprocess.run(
                    ["npm", "install", *quiet, "--prefix", str(home), package],
                    capture_output=True,
                    text=True,
                    timeout=50,
                )
            except subprocess.TimeoutExpired:
                return f"npm takes too long to install {package}"
            if answer.returncode:
                return f"npm cannot install {package}: {answer.stderr[-500:]}"
    return None


def installed(package: str, file: str) -> Path:
    """Return where a file of an installed package is."""
    return _home(package) / "node_modules" / file


def _home(package: str) -> Path:
    """Return where a package is installed, named without its scope."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parent = Path(cache_home)
    if not os.access(parent if parent.exists() else parent.parent, os.W_OK):
        parent = Path(tempfile.gettempdir()) / f"cache-{os.geteuid()}"
    name = package.rpartition("/")[2].replace("@", "-")
    return parent / "obo-asgi-tests" / name
