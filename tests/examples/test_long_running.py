"""The example of long-running work: played with real processes, and its API in this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from taskiq import AsyncBroker, InMemoryBroker
from taskiq.message import BrokerMessage

from examples.long_running import partner
from examples.long_running.api import create_app
from examples.long_running.jobs import Jobs, Needed, State, Status
from examples.long_running.report import Step, format_report, is_good
from examples.long_running.worker import create_task, explain
from obo_asgi import (
    AccessDeniedError,
    CacheUnavailableError,
    DownstreamAPI,
    DownstreamError,
    InteractionRequiredError,
    KeysUnavailableError,
    OboError,
    OnBehalfOf,
    SessionExpiredError,
    SessionNotFoundError,
    TokenAcquisitionError,
)
from obo_asgi.testing import FakeEntra
from tests.servers.fixtures import need
from tests.servers.redis import RedisServer, why_no_redis

ROOT = Path(__file__).parents[2]
PLAY = [sys.executable, "-W", "error", "-m", "examples.long_running"]
PARTNER_API = "api://partner-api-id"
PARTNER_URL = "https://partner.example.com"


# The play


@pytest.fixture(scope="module")
def table() -> str:
    """What the play prints; it ends well, with every warning an error, and leaves nothing."""
    need(why_no_redis())
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    run = subprocess.run(PLAY, cwd=ROOT, env=env, capture_output=True, text=True, timeout=50)
    assert (0, "") == (run.returncode, run.stderr), run.stdout
    return run.stdout


@pytest.mark.parametrize(
    ("title", "outcome"),
    [
        ("alice starts a job; her token lives 5 s", "202, queued"),
        ("  the worker calls the partner's API", "as Alice"),
        ("  bob asks for her job", "404"),
        ("  alice's token is over: another job with it", "401, invalid_token"),
        ("  after that the worker calls again", "as Alice, with a newer access token"),
        ("  alice asks for her job", "done: 3 items of Alice's are done"),
        ("bob starts a job; MFA is demanded meanwhile", "sign_in_again: capolids"),
        ("alice starts a job, and is revoked meanwhile", "session_expired"),
    ],
)
def test_play_shows_what_comes_of_it(table: str, title: str, outcome: str) -> None:
    """A job outlives its user's token and acts as that user, as long as the user may."""
    row = rf"^{re.escape(title)} +{re.escape(outcome)}  ok$"
    assert re.search(row, table, re.M), table


def test_play_leaves_no_session(table: str) -> None:
    """Each job has one session in Redis, which is gone when the job has ended, however it did."""
    found = re.findall(r"^  its session in Redis +(.+)  ok$", table, re.M)
    assert ["there", "gone", "gone", "gone"] == found


def test_play_is_plain_text(table: str) -> None:
    """Where the output is no terminal, it holds no colour codes."""
    assert "\x1b" not in table
    assert table.endswith("\nAll is as it must be.\n")


def test_report_says_what_is_wrong() -> None:
    """A report in which one step is wrong is not good, and says where."""
    steps = [Step("one", "as it must be", is_good=True), Step("two", "not so", is_good=False)]
    assert (True, False) == (is_good(steps[:1]), is_good(steps))
    text = format_report(steps, colour=True)
    assert 1 == text.count("\x1b[31mWRONG\x1b[0m")
    assert text.endswith("Something is NOT as it must be.")


# The API


class BrokenBroker(InMemoryBroker):
    """A queue that takes nothing, and remembers the last message that it did not take."""

    message: BrokerMessage

    async def kick(self, message: BrokerMessage) -> None:
        self.message = message
        raise ConnectionError("no queue")


@dataclass(frozen=True)
class Wired:
    """The parts of an API whose worker is in the same process."""

    entra: FakeEntra
    obo: OnBehalfOf
    jobs: Jobs

    def client(self, broker: AsyncBroker | None = None) -> httpx.AsyncClient:
        """Return a client of the API; a job is done before its start is answered."""
        app = create_app(self.obo, broker or InMemoryBroker(await_inplace=True), self.jobs)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")


@pytest.fixture
async def wired(redis_server: RedisServer) -> AsyncIterator[Wired]:
    entra = FakeEntra()
    registration = entra.add_api(PARTNER_API, scopes=["process"])
    protected = OnBehalfOf(registration, http_client=entra.client())
    app = partner.create_app(protected, [])
    obo = OnBehalfOf(
        entra.registration(consent_redirect_uri="https://api.example.com/consented"),
        downstream={
            "partner": DownstreamAPI(base_url=PARTNER_URL, scopes=[f"{PARTNER_API}/process"])
        },
        http_client=entra.client(apps={PARTNER_URL: app}),
    )
    jobs = Jobs(Redis.from_url(redis_server.url, protocol=2), prefix="job:")
    async with protected, obo:
        yield Wired(entra, obo, jobs)
    await jobs.aclose()


@pytest.mark.anyio
async def test_start_answers_with_a_job(wired: Wired) -> None:
    """A started job has an id and a place to look for it, and its owner finds there what came."""
    alice = wired.entra.bearer("alice")
    async with wired.client() as client:
        started = await client.post("/start", json={"wait": 0}, headers=alice)
        job_id = started.json()["job"]
        found = await client.get(started.headers["Location"], headers=alice)
    assert (202, f"/status/{job_id}") == (started.status_code, started.headers["Location"])
    shown = {"job": job_id, "needed": None, "retry_after": None}
    assert {**shown, "status": "queued", "note": "a worker will take it"} == started.json()
    assert {**shown, "status": "done", "note": "3 items of Alice's are done"} == found.json()


@pytest.mark.anyio
async def test_job_is_its_owners(wired: Wired) -> None:
    """Somebody else's job is not found, just as one that there never was."""
    async with wired.client() as client:
        started = await client.post("/start", json={"wait": 0}, headers=wired.entra.bearer("alice"))
        answers = [
            await client.get(path, headers=wired.entra.bearer("bob"))
            for path in (started.headers["Location"], "/status/none")
        ]
    assert [(404, answers[0].text)] * 2 == [(a.status_code, a.text) for a in answers]


@pytest.mark.anyio
async def test_api_demands_a_token(wired: Wired) -> None:
    """Without a token no job is started, and none is shown."""
    async with wired.client() as client:
        answers = [await client.post("/start"), await client.get("/status/none")]
    assert [401, 401] == [answer.status_code for answer in answers]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[]", 422),
        ('{"wait": -1}', 422),
        ('{"wait": 3601}', 422),
        ('{"wait": "x"}', 422),
    ],
)
async def test_start_refuses_bad_orders(wired: Wired, body: str, status: int) -> None:
    """How long a job waits has bounds, and an order that is none starts nothing."""
    async with wired.client() as client:
        answer = await client.post("/start", content=body, headers=wired.entra.bearer())
    assert (status, 0) == (answer.status_code, wired.entra.exchanges)


@pytest.mark.anyio
async def test_missing_consent_is_known_at_the_start(wired: Wired) -> None:
    """Who has not consented learns it at the start, with the page to do so, and not from a job."""
    wired.entra.withdraw_consent("alice", resource=PARTNER_API)
    async with wired.client() as client:
        answer = await client.post("/start", headers=wired.entra.bearer("alice"))
    assert (401, "consent_required") == (answer.status_code, answer.json()["error"])
    assert "consented" in answer.json()["consent_uri"]


@pytest.mark.anyio
async def test_session_ends_where_no_job_begins(wired: Wired) -> None:
    """If the queue takes no job, the caller may try again, and the session is ended."""
    broker = BrokenBroker()
    async with wired.client(broker) as client:
        answer = await client.post("/start", headers=wired.entra.bearer())
    [_, session_key, _] = json.loads(broker.message.message)["args"]
    assert (503, "5") == (answer.status_code, answer.headers["Retry-After"])
    assert session_key not in answer.text
    with pytest.raises(SessionNotFoundError):
        async with wired.obo.resume_session(session_key):
            pass


# The worker


@pytest.mark.anyio
async def test_worker_tells_of_a_lost_session(wired: Wired) -> None:
    """A job whose session was ended before its turn says so."""
    process = create_task(InMemoryBroker(), wired.obo, wired.jobs)
    await wired.jobs.add("1", "owner", State(Status.QUEUED, ""), seconds=60)
    await process("1", "no such key", 0)
    state = await wired.jobs.find("1", "owner")
    assert state is not None
    assert Status.SESSION_NOT_FOUND == state.status


@pytest.mark.anyio
async def test_worker_leaves_nothing_in_doubt(wired: Wired) -> None:
    """A job that meets a mistake in the program has failed, and its session is ended."""
    process = create_task(InMemoryBroker(), wired.obo, wired.jobs)
    await wired.jobs.add("2", "owner", State(Status.QUEUED, ""), seconds=60)
    downstream = await wired.obo.downstream_for(wired.entra.token())
    session_key = await downstream.start_session()
    with pytest.raises(TypeError):
        await process("2", session_key, None)  # type: ignore[arg-type]
    state = await wired.jobs.find("2", "owner")
    assert state is not None
    assert Status.FAILED == state.status
    with pytest.raises(SessionNotFoundError):
        async with wired.obo.resume_session(session_key):
            pass


@pytest.mark.anyio
async def test_job_that_nobody_does_is_lost(wired: Wired) -> None:
    """A job of which nothing is heard in time is lost, and one that has ended never is."""
    waiting, done = State(Status.WAITING, ""), State(Status.DONE, "")
    await wired.jobs.add("3", "owner", State(Status.QUEUED, ""), seconds=0)
    found = [await wired.jobs.find("3", "owner")]
    for state, seconds in ((waiting, 60.0), (waiting, 0.0), (done, 0.0)):
        await wired.jobs.set_state("3", state, seconds=seconds)
        found.append(await wired.jobs.find("3", "owner"))

    statuses = [state and state.status for state in found]
    assert [Status.LOST, Status.WAITING, Status.LOST, Status.DONE] == statuses


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (SessionNotFoundError(), Status.SESSION_NOT_FOUND, None),
        (SessionExpiredError(""), Status.SESSION_EXPIRED, None),
        (InteractionRequiredError(""), Status.SIGN_IN_AGAIN, None),
        (CacheUnavailableError("", retry_after=5), Status.RETRY_LATER, 5),
        (KeysUnavailableError("", retry_after=5), Status.RETRY_LATER, 5),
        (TokenAcquisitionError("", retry_after=3), Status.RETRY_LATER, 3),
        (TokenAcquisitionError(""), Status.FAILED, None),
        (AccessDeniedError(""), Status.FAILED, None),
        (DownstreamError("", api="partner", status_code=500), Status.FAILED, None),
    ],
)
def test_errors_have_their_status(error: OboError, status: Status, retry_after: int | None) -> None:
    """Each error has a status that says who does what: the worker, the user, or nobody."""
    state = explain(error)
    assert (status, retry_after) == (state.status, state.retry_after)


def test_owner_sees_what_is_needed() -> None:
    """The scopes, claims and page of a demand go to the job's owner as they came."""
    error = InteractionRequiredError("")
    error.scopes, error.claims_challenge = ("api://partner/process",), '{"access_token":{}}'
    error.consent_uri = "https://login.example.com/consent"
    needed = Needed(error.scopes, error.claims_challenge, error.consent_uri)
    assert needed == explain(error).needed
