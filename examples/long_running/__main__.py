"""``python -m examples.long_running``: play the example, and say what was seen."""

from __future__ import annotations

import signal
import sys

from tests.servers.redis import why_no_redis

from .play import play
from .report import format_report, is_good


def main() -> int:
    """Play the example and return the exit status."""
    if reason := why_no_redis():
        print(f"The example needs a Redis: {reason}.", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    print(
        "An API and a worker run in two processes, with sessions and the queue on a real Redis;\n"
        "the sign-in service and the partner's API run here.\n",
        flush=True,
    )
    try:
        steps = play()
    except KeyboardInterrupt:
        return 130
    print(format_report(steps, colour=sys.stdout.isatty()))
    return 0 if is_good(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
