"""Swagger UI in a browser: a person signs in and calls the FastAPI example from its docs page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi_swagger import patch_fastapi  # type: ignore[import-untyped]

from examples.fastapi_app import create_app
from obo_asgi import DownstreamAPI, OnBehalfOf, OnBehalfOfMiddleware
from obo_asgi.testing import FakeEntra, serve
from tests.browser import Page

ROOT = Path(__file__).parents[2]
PARTNER = "https://partner.example.com"
DOCS = "/offline-docs"
ASSETS = [f"/swagger/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css")]
ICON = "/swagger/favicon-32x32.png"


async def orders(scope: Any, receive: Any, send: Any) -> None:
    """A partner's API: tells for whom its token is, and which scopes it holds."""
    user = scope["user"]
    body = {"owner": user.display_name, "orders": ["A-17", "B-4"], "scopes": user.scopes}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@pytest.fixture
def docs_url() -> Iterator[str]:
    """Serve the example over TLS with Swagger UI from a package instead of a CDN."""
    entra = FakeEntra()
    with entra.serve():
        partner = OnBehalfOf(
            entra.add_api("api://partner", scopes=["read"]), http_client=entra.client()
        )
        obo = OnBehalfOf(
            entra.registration(),
            downstream={"partner": DownstreamAPI(base_url=PARTNER, scopes=["api://partner/read"])},
            required_scopes=["access_as_user"],
            http_client=entra.client(apps={PARTNER: OnBehalfOfMiddleware(orders, partner)}),
        )
        app = create_app(
            obo, swagger_client_id=entra.client_id("spa"), public_paths=[DOCS, *ASSETS, ICON]
        )
        redirect = app.swagger_ui_oauth2_redirect_url
        app.docs_url = app.swagger_ui_oauth2_redirect_url = None  # as patch_fastapi wants it
        patch_fastapi(
            app,
            DOCS,
            redirect_from_root_to_docs=False,
            oauth2_redirect_url=redirect,
            init_oauth=app.swagger_ui_init_oauth,
        )
        with serve(app) as server:
            yield f"{server.url}{DOCS}"


@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
def test_person_signs_in_and_tries_an_operation(docs_url: str, page: Page, tmp_path: Path) -> None:
    """Authorize by PKCE, Execute, and there is what the partner's API says to the very person."""
    page.resize(1280, 1400)
    page.open(docs_url)
    page.click(".scheme-container button.authorize")
    assert "access_as_user" in page.see(".scopes")
    page.click(".auth-btn-wrapper button.authorize")
    page.popup().click("button[value=alice]")
    page.wait_for("document.querySelector('.auth-container')?.innerText.includes('Logout')")
    page.click(".auth-btn-wrapper .btn-done")
    page.click("#operations-default-orders_orders_get .opblock-summary-control")
    wait_until_still(page, "#operations-default-orders_orders_get button.execute")
    page.click("#operations-default-orders_orders_get button.execute")
    assert "200" in page.see(".live-responses-table tbody .response-col_status")
    body = page.see(".live-responses-table .highlight-code")
    assert '"owner": "Alice"' in body
    assert "A-17" in body
    hosts = page.evaluate(
        """[...new Set(performance.getEntries().filter((entry) => entry.name.includes("://"))
            .map((entry) => new URL(entry.name).hostname))]"""
    )
    assert ["localhost"] == hosts
    assert [] == page.errors
    wait_until_still(page, ".live-responses-table")
    save_screenshot(page, tmp_path)


def wait_until_still(page: Page, selector: str) -> None:
    """Wait until an element has stayed where it is for a while, such as one that unfolds."""
    page.see(selector)
    page.wait_for(
        f"""(() => {{
            const y = document.querySelector({json.dumps(selector)}).getBoundingClientRect().y;
            window.still = y === window.seenAt ? window.still + 1 : 0;
            window.seenAt = y;
            return window.still > 9;
        }})()"""
    )


def save_screenshot(page: Page, directory: Path) -> None:
    """Save what the page shows, and in docs/assets if ``OBO_ASGI_SCREENSHOTS`` is set."""
    target = ROOT / "docs/assets" if os.environ.get("OBO_ASGI_SCREENSHOTS") else directory
    page.save_screenshot(target / "swagger.png")
    assert (target / "swagger.png").stat().st_size > 10_000
