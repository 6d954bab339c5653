"""Keys as .NET has them: in any case; and with underscores, as TOML and Python have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from ._models import API, AzureAd, Section, TokenCacheSection
from ._problems import Path, Problems, meant

__all__ = ["DOWNSTREAM", "SECTIONS", "Tree", "bare", "canonical", "read_sections"]

Tree = dict[str, Any]

DOWNSTREAM: Final = "DownstreamApis"
SECTIONS: Final = {
    "azuread": "AzureAd",
    "downstreamapis": DOWNSTREAM,
    "downstreamapi": DOWNSTREAM,
    "downstream": DOWNSTREAM,
    "tokencache": "TokenCache",
}
_MODELS: Final[dict[str, type[Section]]] = {"AzureAd": AzureAd, "TokenCache": TokenCacheSection}


def bare(key: str) -> str:
    """Return a key in the form that is compared."""
    return key.replace("_", "").replace("-", "").lower()


def read_sections(tree: Mapping[str, Any], problems: Problems) -> Tree:
    """Return our sections of a file with the keys' own spelling; other sections are not ours."""
    found: Tree = {}
    others = []
    for key, value in tree.items():
        name = SECTIONS.get(bare(str(key)))
        if name is None:
            others.append(str(key))
        elif value is not None:
            if not isinstance(value, Mapping):
                problems.add((str(key),), "must be a section of keys and values")
            elif name in found:
                problems.add((str(key),), f"is a second {name}: put all into one section")
            else:
                found[name] = _section(name, value, str(key), problems)
    for key in others:
        near = meant(key, set(SECTIONS.values()), 0.8)
        if near is not None and near not in found:
            problems.add((key,), f"is not known: did you mean {near}?")
    return found


def _section(name: str, tree: Mapping[str, Any], key: str, problems: Problems) -> Tree:
    if name != DOWNSTREAM:
        return canonical(tree, _MODELS[name], (name,), problems)
    known = {bare(alias) for alias in _aliases(API)}
    apis: Tree = {}
    seen: dict[str, str] = {}
    for api, value in ((str(given), value) for given, value in tree.items()):
        if value is None:
            continue
        if isinstance(value, Mapping):
            if api.lower() in seen:
                problems.add((name, api), f"is there twice, as {seen[api.lower()]} too: rename one")
            seen[api.lower()] = api
            apis[api] = canonical(value, API, (name, api), problems)
        elif bare(api) in known:
            problems.add(
                (key, api), "stands outside of any API: give the API a name, DownstreamApis.<name>"
            )
        else:
            problems.add((name, api), "must be a section with BaseUrl and Scopes")
    return apis


def canonical(
    tree: Mapping[str, Any], model: type[Section], path: Path, problems: Problems
) -> Tree:
    """Return a section with the keys' own spelling, its secrets wrapped; null is left out."""
    names = {bare(alias): alias for alias in _aliases(model)} | model.spellings
    secrets = {
        field.alias for field in model.model_fields.values() if "SecretStr" in str(field.annotation)
    }
    found: Tree = {}
    for key, value in tree.items():
        name = names.get(bare(str(key)), str(key))
        if value is None or bare(name) in model.ignored:
            continue
        if name in found:
            problems.add((*path, name), "is there twice: keep one of them")
        value = _wrapped(value) if name in secrets else value
        if name in model.nested:
            value = _nested(value, model.nested[name], (*path, name), problems)
        found[name] = value
    return found


def _nested(value: Any, model: type[Section], path: Path, problems: Problems) -> Any:
    if isinstance(value, list | tuple):
        return [
            canonical(item, model, (*path, index), problems) if isinstance(item, Mapping) else item
            for index, item in enumerate(value)
        ]
    if not isinstance(value, Mapping):
        return value
    if all(str(key).isdecimal() for key in value):  # a list, as .NET has it in the environment
        return {
            key: canonical(item, model, (*path, int(key)), problems)
            if isinstance(item, Mapping)
            else item
            for key, item in value.items()
        }
    return canonical(value, model, path, problems)


def _wrapped(value: Any) -> Any:
    """Hide strings, also those in a list or a mapping."""
    if isinstance(value, str):
        return SecretStr(value)
    if isinstance(value, list | tuple):
        return [_wrapped(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _wrapped(item) for key, item in value.items()}
    return value


def _aliases(model: type[Section]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
