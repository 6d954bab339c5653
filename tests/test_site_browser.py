"""The docs site, read by a person in a browser."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import Browser, Page, open_browser
from tests.site import ROOT, built_site

pytestmark = pytest.mark.timeout(180)  # the build alone takes ten seconds of an idle core

POLICY = "default-src 'self' 'unsafe-inline' data:"


class Handler(SimpleHTTPRequestHandler):
    """Files, with a policy by which the browser refuses every other host and says so."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open_page() as page:
        page.resize(1280, 860)
        yield page


def test_every_page_opens_and_every_link_is_answered(site: Path, url: str, page: Page) -> None:
    """No page has an error in its console or asks another host, and no link within is dead."""
    requests = page.record_requests()
    links = set()
    for file in sorted(site.rglob("index.html")):
        page.open(url + file.relative_to(site).as_posix().removesuffix("index.html"))
        page.wait_for("document.readyState === 'complete' && typeof __md_get === 'function'")
        links |= set(page.evaluate("[...document.links].map(link => link.href.split('#')[0])"))
    assert [] == page.errors
    assert [] == [request for request in requests if not request.startswith((url, "data:"))]

    inside = sorted(link for link in links if link.startswith(url))
    with httpx.Client(trust_env=False) as client:
        assert [] == [link for link in inside if client.get(link).status_code != 200]


def test_the_search_finds_a_public_name(url: str, page: Page) -> None:
    """The search runs in the browser, by the site's own index."""
    requests = page.record_requests()
    page.open(url)
    page.wait_for("document.readyState === 'complete'")
    page.click(".md-search__input")
    page.evaluate(
        """(() => {
            const field = document.querySelector(".md-search__input");
            field.value = "fake_downstream";
            field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
            field.dispatchEvent(new InputEvent("input", { bubbles: true }));
        })()"""
    )
    assert "fake_downstream" in page.see(".md-search-result__list")
    assert [] == [
        request for request in requests if not request.startswith((url, "data:", "blob:"))
    ]
    assert [] == page.errors


def test_both_themes(url: str, page: Page, tmp_path: Path) -> None:
    """The button switches between a light and a dark theme, which stays on the next page."""
    directory = ROOT / "docs/assets" if os.environ.get("OBO_ASGI_SCREENSHOTS") else tmp_path
    page.open(url)
    page.wait_for("document.body?.dataset.mdColorScheme === 'default'")
    for theme, scheme in (("light", "default"), ("dark", "slate")):
        for name, path in (("home", ""), ("guide", "several-apis/")):
            page.open(url + path)
            page.wait_for(f"document.body?.dataset.mdColorScheme === '{scheme}'")
            page.wait_for("[...document.images].every(image => image.complete)")
            picture = directory / f"site-{name}-{theme}.png"
            page.save_screenshot(picture)
            assert picture.stat().st_size > 10_000
        if theme == "light":
            page.click("[data-md-component=palette] label:not([hidden])")
            page.wait_for("document.body?.dataset.mdColorScheme === 'slate'")
    assert [] == page.errors


def test_phone_width(url: str, page: Page) -> None:
    """On a phone no page is wider than the screen."""
    page.resize(360, 740)
    for path in ("", "get-started/", "several-apis/", "reference/app/", "examples/"):
        page.open(url + path)
        page.wait_for("document.readyState === 'complete'")
        assert (path, 360) == (path, page.evaluate("document.documentElement.scrollWidth"))


def test_a_tab_shows_its_framework(url: str, page: Page) -> None:
    """The home page has the same in the words of each framework, one at a time."""
    page.open(url)
    page.wait_for("document.readyState === 'complete'")
    assert "OnBehalfOfMiddleware(web_api, obo)" in page.see(".tabbed-block:nth-child(1)")
    assert ["Any ASGI app", "Starlette", "FastAPI", "Litestar"] == page.evaluate(
        "[...document.querySelectorAll('.tabbed-labels label')].map(label => label.innerText)"
    )
    page.click(".tabbed-labels label:nth-child(3)")
    assert "protect(app, obo" in page.see(".tabbed-block:nth-child(3)")
