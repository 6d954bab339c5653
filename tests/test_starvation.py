"""One API's hung calls take nothing from another API, nor from the sign-in service."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from obo_asgi import DownstreamAPI, OnBehalfOf
from obo_asgi._types import Receive, Scope, Send
from obo_asgi.testing import FakeEntra, serve

HUNG: Final = 300
"""More than the default client opens connections to one host."""


async def quick(scope: Scope, receive: Receive, send: Send) -> None:
    assert "http" == scope["type"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


class Hanging:
    """An API that answers nobody."""

    def __init__(self) -> None:
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert "http" == scope["type"]
        self.waiting += 1
        await asyncio.Event().wait()


@pytest.mark.anyio
async def test_hung_calls_leave_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """While 300 calls to one API hang, another API and new exchanges answer, and then all end."""
    entra, hanging = FakeEntra(), Hanging()
    entra.add_api("api://partner", scopes=["read"])
    with (
        entra.serve() as sign_in,
        serve(hanging, tls=False) as partner,
        serve(quick, tls=False) as graph,
    ):
        monkeypatch.setenv("SSL_CERT_FILE", sign_in.ca_file)
        obo = OnBehalfOf(
            entra.registration(),
            downstream={
                "partner": DownstreamAPI(base_url=partner.url, scopes=["api://partner/read"]),
                "graph": DownstreamAPI(base_url=graph.url, scopes=["User.Read"]),
            },
        )
        async with obo:
            alice = await obo.downstream_for(entra.token("alice"))
            hung = [asyncio.create_task(alice["partner"].get("x")) for _ in range(HUNG)]
            while hanging.waiting < 200:
                await asyncio.sleep(0.01)
            bob = await obo.downstream_for(entra.token("bob"))
            answers = [await bob["graph"].get("me") for _ in range(20)]
            still_hung = [task.done() for task in hung]
            for task in hung:
                task.cancel()
            await asyncio.gather(*hung, return_exceptions=True)
            assert 200 == (await bob["graph"].get("me")).status_code

    assert [200] * 20 == [answer.status_code for answer in answers]
    assert [False] * HUNG == still_hung
