"""What the environment says: the variables of the Azure SDKs, and ``OBO__SECTION__KEY``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from ._merge import overlay
from ._names import DOWNSTREAM, SECTIONS, Tree, bare, read_sections
from ._problems import Problems

__all__ = ["read_environment"]

PREFIX: Final = "OBO__"

_IDS: Final = {"AZURE_TENANT_ID": "TenantId", "AZURE_CLIENT_ID": "ClientId"}
_SECRET: Final = "AZURE_CLIENT_SECRET"
_CERTIFICATE: Final = "AZURE_CLIENT_CERTIFICATE_PATH"
_PASSWORD: Final = "AZURE_CLIENT_CERTIFICATE_PASSWORD"
_TOKEN_FILE: Final = "AZURE_FEDERATED_TOKEN_FILE"
_AUTHORITY: Final = "AZURE_AUTHORITY_HOST"
_PROOFS: Final = ("ClientSecret", "ClientSecretPath", "ClientCredentials")


def read_environment(environ: Mapping[str, str], below: Tree, problems: Problems) -> Tree:
    """Return what the environment puts over the sections of a file.

    Args:
        environ: the variables; empty ones count as not set.
        below: the sections of the file, whose spelling of names is taken over.
        problems: gathers what is wrong, and which variable a value came from.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    over = _nested_variables(given, below, problems)
    azure_ad = _azure_variables(given, over.get("AzureAd", {}), below.get("AzureAd", {}), problems)
    if azure_ad:
        over["AzureAd"] = azure_ad
    return over


def _azure_variables(given: Mapping[str, str], over: Tree, below: Tree, problems: Problems) -> Tree:
    found: Tree = {}
    for variable, key in _IDS.items():
        if variable in given and key not in over:
            found[key] = given[variable].strip()
            problems.variables["AzureAd", key] = variable
    # AKS sets these two in the pod, so they fill in what nobody has said.
    if _AUTHORITY in given and "Instance" not in {**below, **over}:
        host = given[_AUTHORITY].strip()
        found["Instance"] = host if "://" in host else f"https://{host}"
        problems.variables["AzureAd", "Instance"] = _AUTHORITY
    if not any(key in over for key in _PROOFS):
        proofs = _proofs(given, problems)
        if not proofs and _TOKEN_FILE in given and not any(key in below for key in _PROOFS):
            proofs = [{"SourceType": "WorkloadIdentity"}]
        if proofs:
            found["ClientCredentials"] = proofs
    return {**found, **over}


def _proofs(given: Mapping[str, str], problems: Problems) -> list[Tree]:
    path = ("AzureAd", "ClientCredentials")
    proofs: list[Tree] = []
    if _SECRET in given:
        problems.variables[(*path, 0, "ClientSecret")] = _SECRET
        proofs.append({"SourceType": "ClientSecret", "ClientSecret": SecretStr(given[_SECRET])})
    if _CERTIFICATE in given:
        problems.variables[(*path, len(proofs), "CertificateDiskPath")] = _CERTIFICATE
        proof: Tree = {"SourceType": "Path", "CertificateDiskPath": given[_CERTIFICATE].strip()}
        if _PASSWORD in given:
            proof["CertificatePassword"] = SecretStr(given[_PASSWORD])
        proofs.append(proof)
    return proofs


def _nested_variables(given: Mapping[str, str], below: Tree, problems: Problems) -> Tree:
    raw: Tree = {}
    for variable, text in sorted(given.items()):
        if not variable.upper().startswith(PREFIX):
            continue
        keys = variable[len(PREFIX) :].split("__")
        section = SECTIONS.get(bare(keys[0]))
        if section is None or not all(keys):
            problems.add((variable,), f"is not known: write {PREFIX}AZUREAD__TENANTID and the like")
            continue
        keys[0] = section
        if section == DOWNSTREAM and len(keys) > 1:
            names = _api_names(keys[1], below.get(DOWNSTREAM, {}))
            if len(names) > 1:
                problems.add((variable,), f"may mean {' or '.join(names)}: rename one of them")
                continue
            keys[1] = names[0]
        if not _put(raw, keys, _value(text)):
            problems.add((variable,), "says something that another variable says too: keep one")
    found = read_sections(raw, problems)
    _note_variables(given, found, below, problems)
    return {
        section: overlay(section, tree, below.get(section, {})) for section, tree in found.items()
    }


def _note_variables(given: Mapping[str, str], found: Tree, below: Tree, problems: Problems) -> None:
    """Note which variable each value came from."""
    names = {bare(name): name for name in given if name.upper().startswith(PREFIX)}

    def walk(value: Any, path: tuple[str | int, ...], spoken: str) -> None:
        variable = names.get(bare(spoken))
        if variable is not None:
            problems.variables[path] = variable
        if isinstance(value, dict):
            for key, item in value.items():
                step = int(key) if str(key).isdecimal() else key
                walk(item, (*path, step), f"{spoken}__{key}")

    for section, tree in found.items():
        for spelling, name in SECTIONS.items():
            if name == section:
                walk(tree, (section,), f"{PREFIX}{spelling}")


def _api_names(written: str, below: Tree) -> list[str]:
    """Return the file's names that may be meant; upper case is how variables are written."""
    found = [name for name in below if bare(name) == bare(written)]
    return found or [written.lower() if written.isupper() else written]


def _put(tree: Tree, keys: list[str], value: Any) -> bool:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            return False
    if keys[-1] in tree:
        return False
    tree[keys[-1]] = value
    return True


def _value(text: str) -> Any:
    """Return sections, and lists of them, that are written as JSON; other text as it is."""
    if text.lstrip().startswith("{") or text.lstrip().replace(" ", "").startswith("[{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
