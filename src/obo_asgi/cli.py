"""The command ``obo-asgi``: looks for faults, makes keys, and runs a sign-in service for tests."""

# No `from __future__ import annotations`: Typer reads annotations, and is imported inside.

import asyncio
import codecs
import io
import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

from .doctor import Check, examine, failed

if TYPE_CHECKING:
    import typer

    from .protected_resource import ProtectedResource
    from .settings import Settings

__all__ = ["main"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

_MISSING: Final = "the command needs an extra: pip install 'obo-asgi[cli]'"
_COLORS: Final = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "blue"}
_MAX_TOKEN: Final = 64 * 1024
_PLAIN: Final = {"→": "->", "…": "..."}


def main() -> None:
    """Run the command."""
    codecs.register_error("obo_asgi.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="obo_asgi.plain")
    logging.getLogger("obo_asgi").addHandler(logging.NullHandler())  # the checks say it
    try:
        _app()()
    except ModuleNotFoundError:  # Typer, or what a command or Typer itself imports later
        _refuse(_MISSING)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return in ASCII what an output cannot hold, as files and pipes of Windows cannot."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in wrong), error.end


def _app() -> "typer.Typer":
    import typer

    app = typer.Typer(
        name="obo-asgi",
        help="OAuth 2.0 On-Behalf-Of with Microsoft Entra ID: find faults, make keys.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # they show local variables
    )

    @app.command()
    def doctor(
        settings: Annotated[
            Path | None,
            typer.Option(help="The settings file; the environment alone if left out."),
        ] = None,
        token: Annotated[
            str | None,
            typer.Option(help="Explain an access token: its file, or - for stdin."),
        ] = None,
        exchange: Annotated[
            bool, typer.Option("--exchange", help="Also exchange the token for each API.")
        ] = False,
        resource: Annotated[
            str | None,
            typer.Option(
                help="The resource that the API advertises (RFC 9728): is it an audience?"
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    ) -> None:
        """Check the settings, the sign-in service, the APIs and the caches; say what to do."""
        if exchange and token is None:
            _refuse("--exchange needs --token")
        raise typer.Exit(_doctor(settings, resource, _read_token(token), exchange, as_json))

    @app.command("new-cache-key")
    def new_cache_key() -> None:
        """Print a new key for TokenCache(keys=[…])."""
        from .cache import new_cache_key as new_key

        typer.echo(new_key())

    @app.command("fake-entra")
    def fake_entra(
        config: Annotated[Path, typer.Option(help="Who and what exists (TOML).")],
        host: Annotated[str, typer.Option(help="The IPv4 address to listen at.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8443,
        ca_file: Annotated[
            Path | None, typer.Option(help="Where to write the certificate of its CA (PEM).")
        ] = None,
    ) -> None:
        """Serve a pretend Entra ID over HTTPS until SIGINT or SIGTERM. For tests alone."""
        raise typer.Exit(_fake_entra(config, host, port, ca_file))

    return app


def _refuse(message: str) -> NoReturn:
    print(f"obo-asgi: {message}", file=sys.stderr)
    raise SystemExit(USAGE)


def _read_token(source: str | None) -> str | None:
    """Read the token; only the start of what is far too long, which is refused as a token."""
    if source is None:
        return None
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_TOKEN)
        else:
            with Path(source).open("rb") as file:
                data = file.read(_MAX_TOKEN)
        return data.decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        # Not the path: it may be the token itself, given by mistake.
        _refuse(f"--token takes a file, or - for stdin; it cannot be read ({type(error).__name__})")


def _doctor(
    source: Path | None, resource: str | None, token: str | None, exchange: bool, as_json: bool
) -> int:
    advertised = _advertised(resource)
    try:
        arguments = _read_settings(source).arguments()
    except ValueError as error:  # ConfigurationError is one
        checks, status = _refused_settings(error), USAGE
    else:
        checks = asyncio.run(
            examine(arguments, resource=advertised, token=token, exchange=exchange)
        )
        status = FAILED if failed(checks) else OK
    _show(checks, status, as_json)
    return status


def _advertised(resource: str | None) -> "ProtectedResource | None":
    from .errors import ConfigurationError
    from .protected_resource import ProtectedResource

    try:
        return ProtectedResource(resource=resource) if resource else None
    except ConfigurationError as error:
        _refuse(f"--resource: {error}")


def _read_settings(source: Path | None) -> "Settings":
    from .settings import read_settings

    return read_settings(source)


def _refused_settings(error: ValueError) -> list[Check]:
    from .errors import ConfigurationError

    # Any other error may quote the values that it is about.
    known = isinstance(error, ConfigurationError)
    message = str(error) if known else f"they cannot be read ({type(error).__name__})"
    remedy = "correct the settings, and run this again"
    return [Check("settings", "failed", line, remedy) for line in message.splitlines()]


def _show(checks: list[Check], status: int, as_json: bool) -> None:
    import typer

    if as_json:
        found = [
            {
                "name": check.name,
                "outcome": check.outcome,
                "message": check.message,
                "remedy": check.remedy,
            }
            for check in checks
        ]
        typer.echo(json.dumps({"ok": status == OK, "checks": found}, indent=2))
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        outcome = typer.style(f"{check.outcome:<7}", fg=_COLORS[check.outcome])
        remedy = f" → {check.remedy}" if check.remedy else ""
        typer.echo(f"{outcome}  {check.name:<{width}}  {check.message}{remedy}")


def _fake_entra(config: Path, host: str, port: int, ca_file: Path | None) -> int:
    from .errors import ConfigurationError
    from .testing.process import configured, description

    ended = threading.Event()
    try:
        service = configured(config)
        with service.entra.serve(port=port, host=host, public_url=service.public_url) as server:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: ended.set())
            if ca_file is not None:
                ca_file.write_bytes(Path(server.ca_file).read_bytes())
            print(description(service, str(ca_file or server.ca_file)), flush=True)
            while not ended.wait(1):  # on Windows a wait without an end is deaf to signals
                pass
    except ConfigurationError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"it cannot listen at {host}:{port}, or write the CA file: {error.strerror}")
    return OK


if __name__ == "__main__":
    main()
