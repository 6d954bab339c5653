"""Python processes that run while a block does, and end with it whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_END_SECONDS: Final = 15.0


@contextmanager
def run_module(*arguments: str, environment: Mapping[str, str], output: Path) -> Iterator[None]:
    """Run ``python -m`` with these arguments.

    Args:
        arguments: the module's name, and its own arguments.
        environment: what is added to the environment, in which nobody measures coverage.
        output: the file that what it prints goes to.
    """
    inherited = {k: value for k, value in os.environ.items() if not k.startswith("COVERAGE")}
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 (our own arguments)
            [sys.executable, "-m", *arguments],
            cwd=_ROOT,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # a Ctrl-C is for us, who then end it
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except BaseException:  # it hangs, or a second Ctrl-C came
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
