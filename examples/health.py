"""Health for Kubernetes: /livez, /readyz and /stats beside a Starlette app's own routes."""

from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from obo_asgi import OboError, OnBehalfOf, OnBehalfOfMiddleware

PUBLIC = ["/livez", "/readyz"]  # for probes inside the cluster; /stats wants a token


def create_app(obo: OnBehalfOf) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette):  # type: ignore[no-untyped-def]  # short, as an example
        await obo.warm_up()  # a wrong tenant or path fails the start, not a user
        yield

    async def livez(request: Request) -> JSONResponse:
        return JSONResponse({"alive": True})  # a restart mends nothing that is outside

    async def readyz(request: Request) -> JSONResponse:
        readiness = obo.readiness()
        if not readiness.ready:  # no traffic comes that would fetch what is missing
            with suppress(OboError):
                await obo.warm_up()
            readiness = obo.readiness()
        return JSONResponse(asdict(readiness), 200 if readiness.ready else 503)

    async def stats(request: Request) -> JSONResponse:
        return JSONResponse(obo.stats())

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/stats", stats)],
        middleware=[Middleware(OnBehalfOfMiddleware, obo=obo, public_paths=PUBLIC)],
        lifespan=lifespan,
    )
