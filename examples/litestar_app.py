"""A Litestar app that shows its caller the orders that another API holds for them.

``python -m uvicorn examples.litestar_app:app`` serves it, as the environment says.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec
from litestar import Controller, Litestar, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from obo_asgi import AppRegistration, ClientSecret, Downstream, DownstreamAPI, OnBehalfOf, User
from obo_asgi_litestar import PUBLIC, OnBehalfOfPlugin, requires

NOBODY: Final = "00000000-0000-0000-0000-000000000000"  # until the environment says more
REGISTRATION: Final = AppRegistration(
    tenant_id=os.environ.get("TENANT_ID", NOBODY),
    client_id=os.environ.get("CLIENT_ID", NOBODY),
    client_credential=ClientSecret(os.environ.get("CLIENT_SECRET", "none")),
)
URL, SCOPES = "https://partnerapi.example.com", ["api://partner-api-id/read"]
PARTNER: Final = DownstreamAPI(base_url=URL, scopes=SCOPES)


class Order(msgspec.Struct):
    id: int
    item: str


class Orders(Controller):
    path = "/orders"

    @get()
    async def listing(self, downstream: NamedDependency[Downstream]) -> list[Order]:
        return await downstream["partner"].get("api/orders", into=list[Order])

    @post(guards=[requires("orders.write")])
    async def add(self, data: JSONBody[Order], downstream: NamedDependency[Downstream]) -> Order:
        return await downstream["partner"].post("api/orders", json=data, into=Order)


@get("/me", sync_to_thread=False)
def me(user: NamedDependency[User]) -> dict[str, str]:
    return {"name": user.display_name}


@get("/health", opt=PUBLIC, sync_to_thread=False)
def health() -> str:
    return "ok"


def create_app(obo: OnBehalfOf) -> Litestar:
    return Litestar([Orders, me, health], plugins=[OnBehalfOfPlugin(obo)])


app = create_app(OnBehalfOf(REGISTRATION, downstream={"partner": PARTNER}))
