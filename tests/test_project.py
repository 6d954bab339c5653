"""The project itself: its scripts and its pins."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SCRIPTS = ["bench", "check", "demo", "docs", "floors", "install", "test"]
ADAPTERS = ["azure", "fastapi", "litestar", "starlette"]
PIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+]*")
INDEX = re.compile(rb"(extra-)?index[-_]url|/[s]imple/", re.I)


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def pins() -> dict[str, str]:
    return {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines("constraints.txt"))
    }


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def core_requirements() -> list[str]:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    return dependencies


def extra_requirements() -> list[str]:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    return [requirement for extra in extras.values() for requirement in extra]


def names_in(file: str) -> list[str]:
    return [line for line in lines(file) if line and not line.startswith("#")]


def dev_requirements() -> list[str]:
    return names_in("requirements-dev.txt")


def peer_requirements() -> list[str]:
    return names_in("benchmarks/requirements.txt")


def is_installed(name: str) -> bool:
    return any(metadata.Distribution.discover(name=name))


def installed_with(requirement: Requirement) -> Iterator[Requirement]:
    """Give the requirements of an installed distribution that hold here, in this environment."""
    for extra in requirement.extras or {""}:
        for line in metadata.requires(requirement.name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                yield needed


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_run(name: str) -> None:
    """A script is executable and asks for nothing but a plain sh."""
    script = ROOT / "scripts" / name

    assert os.access(script, os.X_OK)
    assert "#!/bin/sh" == script.read_text(encoding="utf-8").splitlines()[0]


def test_ci_can_be_run() -> None:
    """What CI runs is executable and calls the scripts that people call, without arguments."""
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert ["./scripts/check", "./scripts/test"] == [
        line for line in lines(".ci/run") if line.startswith("./")
    ]


def test_constraints_are_plain_pins() -> None:
    """Every line of constraints.txt is a plain `name==version`, and each name is there once."""
    names = [canonicalize_name(line.partition("==")[0]) for line in lines("constraints.txt")]

    assert [] == [line for line in lines("constraints.txt") if not PIN.fullmatch(line)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("line", dev_requirements() + peer_requirements())
def test_requirements_are_names(line: str) -> None:
    """A requirements file names what is needed and leaves the versions to constraints.txt."""
    assert re.fullmatch(r"[a-z0-9-]+", line)


@pytest.mark.parametrize(
    "line", core_requirements() + extra_requirements() + dev_requirements() + peer_requirements()
)
def test_a_requirement_has_a_pin(line: str) -> None:
    """What the core, an extra, a developer or a benchmark requires has a pin, which fits it."""
    requirement = Requirement(line)

    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_that_comes_along_has_a_pin() -> None:
    """Whatever a requirement brings with it is pinned too, so that no release breaks an install."""
    peers = [name for name in peer_requirements() if is_installed(name)]  # by scripts/bench alone
    waiting = [
        Requirement(line)
        for line in core_requirements() + extra_requirements() + dev_requirements() + peers
    ]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        key = f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}"
        if key not in seen:
            seen.add(key)
            waiting.extend(installed_with(requirement))

    assert set() == {key.partition("[")[0] for key in seen} - set(pins())


def test_no_file_names_an_index() -> None:
    """No file in git names an index to install from."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    files = [ROOT / name for name in listing.stdout.split("\0") if name]

    assert [] == [file for file in files if file.is_file() and INDEX.search(file.read_bytes())]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_tested_with_the_oldest_version_that_it_supports(name: str) -> None:
    """The floor in an adapter's metadata is the version that its tests run with, and no other."""
    metadata = tomllib.loads((ROOT / "integrations" / name / "pyproject.toml").read_text())
    core, framework = map(Requirement, metadata["project"]["dependencies"])
    floors = dict(line.split("==") for line in lines("floors.txt"))

    assert ("obo-asgi", f"=={project()['version']}") == (core.name, str(core.specifier))
    assert f">={floors[framework.name]}" == str(framework.specifier)
