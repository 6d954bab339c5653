"""The demo, running, and what talks to it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from examples.dashboard.world import World, start_world
from tests.browser import Browser, Page, open_browser


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with start_world(latency=0.01) as world:
        yield world


@pytest.fixture
def cold_world() -> Iterator[World]:
    with start_world() as world:
        yield world


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=world.ca_file)
    with httpx.Client(base_url=world.url, verify=context, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open_page() as page:
        yield page
