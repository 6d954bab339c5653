"""Plays the example with real processes on a real Redis, and checks what it claims."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import jwt
from redis import Redis

from obo_asgi import ClientSecret, OnBehalfOf, new_cache_key
from obo_asgi.testing import FakeEntra, serve
from tests.servers.redis import start_redis

from . import partner
from .api import SESSION_SECONDS
from .jobs import UNFINISHED, Status
from .partner import Call
from .processes import run_module
from .report import Step, is_good
from .wiring import PREFIX

PARTNER_API: Final = "api://partner-api-id"
USER_TOKEN_SECONDS: Final = 5
TOKEN_SECONDS: Final = 12
"""Too short for two calls with one token: none is handed out in its last 10 seconds."""
_SECONDS: Final = 30.0
_LATER: Final = TOKEN_SECONDS - 10 + 1
_PAUSE: Final = 0.05
_END: Final = sorted(set(Status) - UNFINISHED)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """What runs."""

    entra: FakeEntra
    calls: list[Call]
    """Those that came to the partner's API."""
    redis: Redis
    client: httpx.Client
    """Calls the API."""
    give_up_at: float
    """The monotonic time at which the play has taken too long."""

    def wait_for(self, what: str, look: Callable[[], T | None]) -> T:
        """Return what there is to see, as soon as there is something.

        Raises:
            TimeoutError: the play has taken too long.
        """
        while (seen := look()) is None:
            if time.monotonic() > self.give_up_at:
                raise TimeoutError(f"in vain the play has waited for {what}")
            time.sleep(_PAUSE)
        return seen


def play() -> list[Step]:
    """Play it; if something goes wrong, what the processes have printed is printed."""
    with tempfile.TemporaryDirectory(prefix="long-running-") as name:
        directory = Path(name)
        try:
            with start_world(directory) as world:
                steps = _play(world)
        except Exception:
            _show_output(directory)
            raise
        if not is_good(steps):
            _show_output(directory)
    return steps


@contextmanager
def start_world(directory: Path) -> Iterator[World]:
    """Start Redis, FakeEntra and the partner's API, then the API and the worker; stop them at last.

    Args:
        directory: where Redis keeps its data, and what the processes print goes.
    """
    give_up_at = time.monotonic() + _SECONDS
    entra, calls = FakeEntra(), list[Call]()
    with ExitStack() as stack:
        redis_url = stack.enter_context(start_redis(directory)).url
        ca_file = stack.enter_context(entra.serve()).ca_file
        registration = entra.add_api(PARTNER_API, scopes=["process"])
        obo = OnBehalfOf(registration, required_scopes=["process"], http_client=entra.client())
        partner_url = stack.enter_context(serve(partner.create_app(obo, calls))).url
        environment = {
            **_settings(entra),
            "PARTNER_URL": partner_url,
            "PARTNER_SCOPE": f"{PARTNER_API}/process",
            "REDIS_URL": redis_url,
            "CACHE_KEYS": new_cache_key(),
            "SSL_CERT_FILE": ca_file,
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        port = _free_port()
        api = ["uvicorn", "--factory", "examples.long_running.api:create_api", "--port", str(port)]
        worker = ["taskiq", "worker", "examples.long_running.worker:create_worker"]
        for name, arguments in {"api": api, "worker": [*worker, "--workers", "1"]}.items():
            output = directory / f"{name}.log"
            stack.enter_context(run_module(*arguments, environment=environment, output=output))
        redis = stack.enter_context(Redis.from_url(redis_url))
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(base_url=url, trust_env=False))
        entra.token_lifetime = TOKEN_SECONDS
        world = World(entra, calls, redis, client, give_up_at)
        world.wait_for("the API", lambda: _status_of(client))
        yield world


def _play(world: World) -> list[Step]:
    scenes = _Scenes(world)
    scenes.outlive_a_token()
    scenes.revoke_a_user()
    return scenes.steps


class _Scenes:
    """The scenes, and the steps that they have taken so far."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.steps: list[Step] = []

    def outlive_a_token(self) -> None:
        """A job of alice's goes on when her token is over; meanwhile others do what they do."""
        world = self._world
        token = world.entra.token("alice", lifetime=USER_TOKEN_SECONDS)
        token_ends_at = jwt.decode(token, options={"verify_signature": False})["exp"]
        answer, session = self._start(token, wait=USER_TOKEN_SECONDS + 1)
        outcome = f"{answer.status_code}, {answer.json()['status']}"
        title = f"alice starts a job; her token lives {USER_TOKEN_SECONDS} s"
        self._note(title, outcome, "202, queued")
        location = answer.headers["Location"]
        self._await_status(location, "alice", {"waiting"})
        [first] = world.calls
        self._note("  the worker calls the partner's API", f"as {first.name}", "as Alice")
        self._note("  its session in Redis", self._whereabouts(session), "there")
        status = world.client.get(location, headers=world.entra.bearer("bob")).status_code
        self._note("  bob asks for her job", str(status), "404")

        self._step_up()

        world.wait_for("the token's end", lambda: time.time() > token_ends_at or None)
        answer = world.client.post("/start", headers={"Authorization": f"Bearer {token}"})
        outcome = f"{answer.status_code}, {answer.json().get('error')}"
        self._note("  alice's token is over: another job with it", outcome, "401, invalid_token")
        state = self._await_status(location, "alice", _END)
        [first, second] = [call for call in world.calls if call.oid == first.oid]
        is_late = second.at > token_ends_at
        is_newer = second.token_id != first.token_id and second.token_ends_at > first.token_ends_at
        token = "a newer access token" if is_newer else "the same access token"
        outcome = f"{'' if is_late else 'too early, '}as {second.name}, with {token}"
        title, wanted = "  after that the worker calls again", "as Alice, with a newer access token"
        self._note(title, outcome, wanted)
        outcome = f"{state['status']}: {state['note']}"
        self._note("  alice asks for her job", outcome, "done: 3 items of Alice's are done")
        self._note("  its session in Redis", self._whereabouts(session), "gone")

    def _step_up(self) -> None:
        """The worker meets a demand that only the user can meet: it is passed on, and shown."""
        entra = self._world.entra
        answer, session = self._start(entra.token("bob"), wait=_LATER)
        location = answer.headers["Location"]
        self._await_status(location, "bob", {"waiting"})
        entra.require_mfa("bob", PARTNER_API)
        state = self._await_status(location, "bob", _END)
        claims = json.loads((state["needed"] or {}).get("claims") or "{}")
        outcome = f"{state['status']}: {', '.join(claims.get('access_token', {}))}"
        title = "bob starts a job; MFA is demanded meanwhile"
        self._note(title, outcome, "sign_in_again: capolids")
        self._note("  its session in Redis", self._whereabouts(session), "gone")

    def revoke_a_user(self) -> None:
        """With the user's sessions at the sign-in service, the job's session ends."""
        entra = self._world.entra
        answer, session = self._start(entra.token("alice"), wait=_LATER)
        location = answer.headers["Location"]
        self._await_status(location, "alice", {"waiting"})
        entra.revoke("alice")
        state = self._await_status(location, "alice", _END)
        title = "alice starts a job, and is revoked meanwhile"
        self._note(title, state["status"], "session_expired")
        self._note("  its session in Redis", self._whereabouts(session), "gone")

    def _start(self, token: str, *, wait: float) -> tuple[httpx.Response, set[bytes]]:
        """Start a job; return the answer, and the name of its session in Redis."""
        before = self._sessions()
        headers = {"Authorization": f"Bearer {token}"}
        answer = self._world.client.post("/start", json={"wait": wait}, headers=headers)
        answer.raise_for_status()
        return answer, self._sessions() - before

    def _await_status(self, location: str, user: str, wanted: Collection[str]) -> dict[str, Any]:
        """Ask for a job, each time with a new token, until its status is one of these."""

        def ask() -> dict[str, Any] | None:
            answer = self._world.client.get(location, headers=self._world.entra.bearer(user))
            state: dict[str, Any] = answer.raise_for_status().json()
            return state if state["status"] in wanted else None

        return self._world.wait_for(f"the status {' or '.join(wanted)}", ask)

    def _sessions(self) -> set[bytes]:
        """Return the names of sessions in Redis: nothing else of the library's is kept so long."""
        redis = self._world.redis
        names = redis.scan_iter(f"{PREFIX}obo:*")
        return {name for name in names if redis.ttl(name) > SESSION_SECONDS / 2}

    def _whereabouts(self, session: set[bytes]) -> str:
        """Say whether a session is in Redis; it must be one."""
        kept = self._world.redis.exists(*session) if len(session) == 1 else len(session)
        return {0: "gone", 1: "there"}.get(kept, f"{len(session)} of them")

    def _note(self, title: str, outcome: str, wanted: str) -> None:
        self.steps.append(Step(title, outcome, outcome == wanted))


def _settings(entra: FakeEntra) -> dict[str, str]:
    """Return the environment variables that tell the API's registration."""
    registration = entra.registration()
    credential, issuer = registration.client_credential, registration.issuer
    assert isinstance(credential, ClientSecret)
    assert issuer is not None
    return {
        "TENANT_ID": registration.tenant_id,
        "CLIENT_ID": registration.client_id,
        "CLIENT_SECRET": credential.reveal(),
        "AUTHORITY": registration.authority,
        "ISSUER": issuer,
    }


def _free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _status_of(client: httpx.Client) -> int | None:
    """Return the status that a call without a token gets; None while nobody answers."""
    try:
        return client.get("/status/none").status_code
    except httpx.TransportError:
        return None


def _show_output(directory: Path) -> None:
    for log in sorted(directory.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text(errors='replace')}", file=sys.stderr)
