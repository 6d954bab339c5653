"""The docs site: complete, whole, and without anything from another host."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from tests.site import ROOT, built_site

pytestmark = pytest.mark.timeout(180)  # the build alone takes ten seconds of an idle core

HOST = "https://site.invalid/"
PUBLIC = [
    *("obo_asgi", "obo_asgi.cache.redis", "obo_asgi.cache.sql", "obo_asgi.cache.cosmos"),
    *("obo_asgi.challenges", "obo_asgi.testing"),
    *("obo_asgi_starlette", "obo_asgi_fastapi", "obo_asgi_litestar", "obo_asgi_azure"),
]
LOADED = {"src", "srcset", "poster", "data"}  # attributes whose URL a browser fetches by itself
CSS_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""")
JS_URL = re.compile(r"""["'`](https?://[a-z0-9.-]+\.[a-z]+)""")
PYTHON_FENCE = re.compile(r"^ *```python( notest)?$", re.M)
# Where Material's scripts would ask for diagrams and a repository's stars, and namespaces.
ASLEEP = {
    *("https://unpkg.com", "https://api.github.com", "https://gitlab.com", "https://github.com"),
    *("http://www.w3.org", "https://www.w3.org"),
}


class Html(HTMLParser):
    """What a page names and where it points."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids += [values[name] for name in ("id", "name") if name in values]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "href" in values:
            self.resources.append(values["href"])
        self.resources += [values[name] for name in LOADED if tag != "meta" and name in values]


class Site(NamedTuple):
    """The built site."""

    directory: Path
    said: str
    pages: dict[str, Html]

    def path_of(self, url: str) -> Path:
        path = self.directory / unquote(urlsplit(url).path).lstrip("/")
        return path / "index.html" if path.is_dir() else path

    def url_of(self, page: str) -> str:
        return urljoin(HOST, page.removesuffix("index.html"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory, said = built_site(tmp_path_factory)
    pages = {
        file.relative_to(directory).as_posix(): Html(file.read_text(encoding="utf-8"))
        for file in directory.rglob("*.html")
    }
    return Site(directory, said, pages)


def public_names() -> Iterator[tuple[ModuleType, str]]:
    """Give the public names, without what an adapter passes on from the core."""
    core = importlib.import_module("obo_asgi")
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            if module is core or getattr(core, name, None) is not getattr(module, name):
                yield module, name


def test_the_site_is_built_without_a_warning(site: Site) -> None:
    """MkDocs, its plugins and Python have nothing to complain of."""
    assert [] == [line for line in site.said.splitlines() if re.search("warning|error", line, re.I)]


def test_every_page_is_there(site: Site) -> None:
    """Each Markdown file in docs/ is a page."""
    names = {
        file.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for file in (ROOT / "docs").rglob("*.md")
    }
    expected = {
        f"{name.removesuffix('index').rstrip('/')}/index.html".lstrip("/") for name in names
    }
    assert expected == set(site.pages) - {"404.html"}


def test_every_link_leads_somewhere(site: Site) -> None:
    """Each link, picture, script and anchor within the site is there."""
    dead = []
    for page, html in site.pages.items():
        for target in html.links + html.resources:
            url = urljoin(site.url_of(page), target)
            if not url.startswith(HOST):
                continue
            path = site.path_of(url)
            found = site.pages.get(path.relative_to(site.directory).as_posix())
            anchor = unquote(urlsplit(url).fragment)
            if not path.is_file() or (anchor and found is not None and anchor not in found.ids):
                dead.append((page, target))
    assert [] == dead


def test_no_link_leaves_for_a_file_of_the_repository(site: Site) -> None:
    """What a page links to is a page of the site or on the web."""
    schemes = {urlsplit(link).scheme for html in site.pages.values() for link in html.links}
    assert schemes <= {"", "https", "http"}


def test_nothing_comes_from_another_host(site: Site) -> None:
    """Pages and style sheets load only what is in the site."""
    foreign = [
        (page, url)
        for page, html in site.pages.items()
        for url in html.resources
        if urlsplit(url).netloc
    ]
    for file in site.directory.rglob("*.css"):
        urls = CSS_URL.findall(file.read_text(encoding="utf-8"))
        foreign += [(file.name, url) for url in urls if urlsplit(url).netloc]
    assert [] == foreign


def test_scripts_know_no_other_host(site: Site) -> None:
    """Scripts name no host but those that Material asks for what no page has."""
    hosts = set()
    for file in site.directory.rglob("*.js"):
        hosts |= set(JS_URL.findall(file.read_text(encoding="utf-8")))
    assert set() == hosts - ASLEEP
    for file in site.directory.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text
        assert 'data-md-component="source"' not in text


def test_every_public_name_is_in_the_reference_once(site: Site) -> None:
    """Each public name has one entry, and nothing else has one."""
    files = (ROOT / "docs/reference").glob("*.md")
    entries = [
        name
        for file in files
        for name in re.findall(r"^::: (\S+)", file.read_text(encoding="utf-8"), re.M)
    ]
    names = [f"{module.__name__}.{name}" for module, name in public_names()]
    assert sorted(names) == sorted(entries)

    anchors = Counter(name for html in site.pages.values() for name in html.ids)
    assert [] == [name for name in names if anchors[name] != 1]


def test_blocks_that_do_not_run_are_python_too(site: Site) -> None:
    """The fence "python notest" is highlighted like any other, and its mark is not to be seen."""
    for file in (ROOT / "docs").glob("*.md"):
        name = "index.html" if file.stem == "index" else f"{file.stem}/index.html"
        text = (site.directory / name).read_text(encoding="utf-8")
        fences = PYTHON_FENCE.findall(file.read_text(encoding="utf-8"))
        assert (file.name, len(fences)) == (file.name, text.count('"language-python highlight"'))
        assert "python notest" not in text


def test_no_markup_is_left_over(site: Site) -> None:
    """No page shows what Markdown, a snippet or mkdocstrings should have replaced."""
    for file in site.directory.rglob("*.html"):
        text = re.sub(r"<[^>]+>", "", file.read_text(encoding="utf-8"))
        assert [] == re.findall(r"^(?:```|:::|===? \"|--8<--|\{ ?\.md).*", text, re.M)
