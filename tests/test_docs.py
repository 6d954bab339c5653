"""The pages: their Python runs as it stands, in order, against stand-ins for what surrounds it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import obo_asgi
from obo_asgi import DownstreamAPI, OnBehalfOf
from obo_asgi.testing import FakeEntra, fake_downstream

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@dataclasses.dataclass
class UserData:
    displayName: str


@dataclasses.dataclass
class Data:
    owner: str


@dataclasses.dataclass
class Settings:
    theme: str


@dataclasses.dataclass
class DataRequest:
    name: str


@dataclasses.dataclass
class ProcessResult:
    done: bool


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the app that a page protects."""


async def partner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


class Queue:
    """A queue between an API and its workers; what comes out is of the `obo` of the page."""

    def __init__(self, obo: OnBehalfOf, token: str) -> None:
        self._obo = obo
        self._token = token

    async def put(self, message: object) -> None:
        """Take a message."""

    async def get(self) -> str:
        downstream = await self._obo.downstream_for(self._token)
        return await downstream.start_session(apis=["partner"])


def surroundings() -> dict[str, Any]:
    """Return the names that a page takes for granted."""
    entra = FakeEntra()
    entra.add_api("api://partner", scopes=["read"])
    registration = entra.registration()
    api = DownstreamAPI(base_url="https://partner.example.com", scopes=["api://partner/read"])
    client = entra.client(apps={"https://partner.example.com": partner})
    downstream = {"partner": api, "graph": DownstreamAPI(scopes=["User.Read"])}
    answers = httpx.MockTransport(lambda request: httpx.Response(200))
    obo = OnBehalfOf(registration, downstream=downstream, http_client=client)
    return {
        "__name__": __name__,  # frameworks look up the module of a handler
        **{name: getattr(obo_asgi, name) for name in obo_asgi.__all__},
        **{cls.__name__: cls for cls in (UserData, Data, Settings, DataRequest, ProcessResult)},
        "app": app,
        "httpx": httpx,
        "obo": obo,
        "queue": Queue(obo, entra.token()),
        "downstream": fake_downstream(
            graph={"me": {"displayName": "Alice"}},
            partner={
                "api/users/me": {},
                "api/process": {"done": True},
                "api/export": b"data",
                "api/data": {"owner": "Alice"},
                "api/settings": {"theme": "dark"},
                "api/report": {"owner": "app"},
            },
            sql={},
        ),
        "client": httpx.AsyncClient(transport=answers),
        "tenant_id": registration.tenant_id,
        "client_id": registration.client_id,
        "secret": "secret",
        "sign": lambda: "assertion",
        "read_from_vault": lambda: b"",
        "handle": len,
        "log": lambda *facts: None,
        "sign_in_again": lambda claims: None,
        "open_in_browser": lambda url: None,
    }


def blocks(page: Path) -> Iterator[Any]:
    """Give the Python blocks of a page, compiled; tracebacks name the page and the line."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```python\n(.*?)^\1```", text, re.M | re.S):
        lines = text[: match.start(2)].count("\n")
        source = "\n" * lines + textwrap.dedent(match[2])
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        yield compile(source, page, "exec", flags=flags, dont_inherit=True)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT / "docs").with_suffix("").as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
async def test_the_python_of_a_page_runs(page: Path) -> None:
    """Every block runs, one after the other, with what the page takes for granted."""
    names = surroundings()
    for block in blocks(page):
        result = eval(block, names)
        if inspect.isawaitable(result):
            await result


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """No relative link of a page is dead."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [] == [target for target in targets if not (page.parent / target).exists()]
