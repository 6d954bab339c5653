"""``python -m examples.dashboard``: serve the demo, or play it once without a browser."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from .once import play
from .report import format_report
from .world import start_world


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.dashboard", description=main.__doc__)
    parser.add_argument(
        "--once", action="store_true", help="play it without a browser, print what was seen, exit"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="where the page is served; any free port if left out"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        if options.once:
            return _play_once(options.port)
        _serve(options.port)
    except KeyboardInterrupt:
        return 130 if options.once else 0


def _play_once(port: int) -> int:
    with start_world(port=port) as world:
        print(
            "Sign-in service, web API, Graph and partner API run over TLS; the first and the\n"
            f"last two take {world.entra.latency * 1000:.0f} ms for each answer.\n"
        )
        report = play(world)
    print(format_report(report, colour=sys.stdout.isatty()))
    return 0 if report.is_good else 1


def _serve(port: int) -> NoReturn:
    with start_world(port=port) as world:
        print(
            f"\n  Open {world.url}\n\n"
            "Your browser will warn you, once: the certificate is the demo's own, made a moment\n"
            "ago for this machine. Go on anyway (Advanced, then Proceed or Accept the Risk).\n"
            "Ctrl-C ends the demo.",
            flush=True,
        )
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
