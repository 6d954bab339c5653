"""The public names: listed, sorted, complete, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import obo_asgi
import obo_asgi.cache
import obo_asgi.challenges
import obo_asgi.errors

PROMISED = [  # what people are told to import
    *("ANY_TENANT", "APIClient", "AccessToken", "AppRegistration", "ClientAssertion"),
    *("ClientCertificate", "ClientSecret", "Downstream", "DownstreamAPI", "ErrorResponse"),
    *("ManagedIdentity", "OnBehalfOf", "OnBehalfOfMiddleware", "Part", "ProtectedResource"),
    *("RequestOptions", "SCOPE_KEY", "TokenCache", "User", "WorkloadIdentity", "any_of"),
    *("downstream_from", "error_response"),
]
ELSEWHERE = [  # frameworks, optional clients, and what is slow to import
    *("aiocache", "aiohttp", "fastapi", "httpx2", "litestar", "msal", "pydantic", "pytest"),
    *("quart", "redis", "requests", "sqlalchemy", "starlette", "uvicorn"),
]
PUBLIC = [obo_asgi, obo_asgi.cache, obo_asgi.challenges]
NAMES = [pytest.param(module, name, id=name) for module in PUBLIC for name in module.__all__]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_sorted_and_without_repetition(module: ModuleType) -> None:
    """``__all__`` is in plain sorted order, each name once."""
    assert sorted(set(module.__all__)) == module.__all__


def test_all_is_complete() -> None:
    """What the package imports under a public name is in ``__all__``, and nothing else."""
    names = [
        name
        for name, value in vars(obo_asgi).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    ]

    assert sorted(names) == obo_asgi.__all__


@pytest.mark.parametrize("name", [*PROMISED, *obo_asgi.errors.__all__])
def test_what_is_promised_can_be_imported(name: str) -> None:
    """Each documented name, and each error of the tree, comes from the package itself."""
    assert name in obo_asgi.__all__


def assigned_docs(path: Path) -> dict[str, str]:
    """Give the texts that stand below the assignments of a module."""
    docs = {}
    for node, below in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
        match node, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                docs[name] = text
    return docs


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_public_name_has_a_docstring(module: ModuleType, name: str) -> None:
    """A class or function has a docstring of its own; a constant has a text below it."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        doc = vars(value)["__doc__"] if inspect.isclass(value) else value.__doc__
    else:
        docs = [assigned_docs(path) for path in Path(obo_asgi.__file__).parent.glob("*.py")]
        doc = next(found[name] for found in docs if name in found)

    assert doc
    assert not doc.startswith(f"{name}(")  # a dataclass without a docstring is given its signature


@pytest.mark.parametrize("name", obo_asgi.errors.__all__)
def test_an_error_is_shown_where_it_is_found(name: str) -> None:
    """Public classes say in their ``__module__`` where they really are."""
    cls = getattr(obo_asgi, name)

    assert cls is getattr(importlib.import_module(cls.__module__), name)


def test_the_import_brings_nothing_that_is_optional_or_slow() -> None:
    """`import obo_asgi` loads no framework, no other client, no MSAL, no aiocache."""
    installed = {name for name in ELSEWHERE if importlib.util.find_spec(name)}
    assert {"aiocache", "httpx2", "msal", "pydantic", "pytest", "redis", "starlette"} <= installed

    code = "import json, sys, obo_asgi; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in json.loads(output)}

    assert "obo_asgi" in loaded
    assert set() == loaded & set(ELSEWHERE)


def test_the_import_makes_no_noise() -> None:
    """`import obo_asgi` writes nothing and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import obo_asgi"], capture_output=True, check=True
    )

    assert (b"", b"") == (done.stdout, done.stderr)
