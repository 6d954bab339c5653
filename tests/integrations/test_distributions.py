"""What is published for each framework: one small wheel, in step with the core."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FRAMEWORKS = {
    "azure": "azure-core",
    "fastapi": "fastapi",
    "litestar": "litestar",
    "starlette": "starlette",
}
LINES = 120

pytestmark = pytest.mark.parametrize("name", list(FRAMEWORKS))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ZipFile]]:
    """The wheel of each distribution, built from a copy, without a network."""
    directory = tmp_path_factory.mktemp("distributions")
    ignored = shutil.ignore_patterns("__pycache__", "dist", "*.egg-info")
    unmeasured = {key: text for key, text in os.environ.items() if not key.startswith("COVERAGE")}
    builds = []
    for name in FRAMEWORKS:
        copy = shutil.copytree(ROOT / "integrations" / name, directory / name, ignore=ignored)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheels"]
        builds.append(subprocess.Popen(command, cwd=copy, env=unmeasured, stderr=subprocess.PIPE))
    for build in builds:
        _, said = build.communicate(timeout=30)
        assert 0 == build.returncode, said.decode()
    found = {name: next((directory / name / "wheels").glob("*.whl")) for name in FRAMEWORKS}
    opened = {name: ZipFile(path) for name, path in found.items()}
    yield opened
    for wheel in opened.values():
        wheel.close()


def metadata(wheel: ZipFile) -> Message:
    (path,) = [path for path in wheel.namelist() if path.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(path).decode())


def test_the_folders_are_the_distributions(name: str) -> None:
    """Every folder of an adapter is tested here, under its own name."""
    folders = {path.parent.name for path in ROOT.glob("integrations/*/pyproject.toml")}
    assert set(FRAMEWORKS) == folders
    project = tomllib.loads((ROOT / "integrations" / name / "pyproject.toml").read_text())
    assert f"obo-asgi-{name}" == project["project"]["name"]


def test_a_wheel_holds_its_module_alone(wheels: dict[str, ZipFile], name: str) -> None:
    """A wheel has the package, marked as typed, and its metadata: no tests, nothing of another."""
    paths = wheels[name].namelist()
    tops = {path.partition("/")[0] for path in paths}
    version = CORE["version"]

    assert {f"obo_asgi_{name}", f"obo_asgi_{name}-{version}.dist-info"} == tops
    assert f"obo_asgi_{name}/py.typed" in paths
    code = {path for path in paths if path.startswith(f"obo_asgi_{name}/")}
    assert set() == {path for path in code if not path.endswith((".py", "/py.typed"))}


def test_it_goes_in_step_with_the_core(wheels: dict[str, ZipFile], name: str) -> None:
    """An adapter demands exactly the core of its own version, and a framework of some age."""
    about = metadata(wheels[name])
    needed = [text for text in about.get_all("Requires-Dist", []) if "extra ==" not in text]

    assert CORE["version"] == about["Version"]
    (floor,) = set(needed) - {f"obo-asgi=={CORE['version']}"}
    assert re.fullmatch(rf"{FRAMEWORKS[name]}>=[0-9.]+", floor), "from one version on, all"
    assert CORE["requires-python"] == about["Requires-Python"]
    assert CORE["license"] == about["License-Expression"]
    assert f"obo-asgi-{name}" in (about.get_payload() or "")


def test_an_adapter_is_short(name: str) -> None:
    """Adapters translate words, never policy: whoever reads one reads a few lines of code."""
    (module,) = ROOT.glob(f"integrations/{name}/src/**/*.py")

    assert lines_of_code(module.read_text()) <= LINES


def lines_of_code(source: str) -> int:
    """Count lines without imports, docstrings, comments and empty lines."""
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    code = [number for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    return len(set(code) - left_out)
