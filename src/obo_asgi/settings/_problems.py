"""What is wrong, as one sentence for each key; no sentence shows a value of pydantic's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import ConfigurationError

__all__ = ["Path", "Problems", "dotted", "meant"]

Path = tuple[str | int, ...]
"""The keys that lead to a value, such as ``("AzureAd", "ClientCredentials", 0)``."""

_M = TypeVar("_M", bound=BaseModel)

_ARGUMENTS: Final = {
    "tenant_id": "TenantId",
    "client_id": "ClientId",
    "audiences": "Audiences",
    "allowed_tenants": "AllowedTenants",
    "authority": "Instance",
    "issuer": "Issuer",
    "consent_redirect_uri": "ConsentRedirectUri",
    "required_scopes": "RequiredScopes",
    "app_roles": "AppRoles",
    "base_url": "BaseUrl",
    "scopes": "Scopes",
    "timeout": "Timeout",
    "headers": "Headers",
    "serve_app_callers": "ServeAppCallers",
}
_ARGUMENT: Final = re.compile(rf"\b({'|'.join(_ARGUMENTS)})\b(?![.-])")
_WORDS: Final = {
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be a section of keys and values",
    "model_type": "must be a section of keys and values",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


class Problems:
    """Gathers what is wrong, so that all of it can be said at once."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}
        self.variables: dict[Path, str] = {}
        """The environment variables that values come from, by the path of the value."""

    def add(self, path: Path, words: str) -> None:
        """Note what is wrong with a key: ``": …"``, or words that go on after its name."""
        variable = self.variables.get(path)
        name = dotted(path) + (f" ({variable})" if variable else "")
        gap = "" if words[0] in ":=" else " "
        self._sentences[f"{name}{gap}{words}"] = None

    def add_error(self, path: Path, error: ConfigurationError, *, audience: bool = False) -> None:
        """Note what an argument's own check says, in the words of the settings.

        Args:
            path: of the section whose key the message starts with, or of the key itself.
            error: the refusal.
            audience: whether the section says ``Audience``, not ``Audiences``.
        """
        names = {**_ARGUMENTS, "audiences": "Audience"} if audience else _ARGUMENTS
        message = str(error).replace("allowed_tenants=ANY_TENANT", 'allowed_tenants: "*"')
        first = _ARGUMENT.match(message)
        rest = message[first.end() :] if first else message
        rest = _ARGUMENT.sub(lambda match: names[match[1]], rest)
        if first is None:
            self.add(path, f": {rest}")
            return
        key = names[first[1]]
        self.add(path if path[-1] == key else (*path, key), rest.lstrip())

    def validate(
        self, model: type[_M], tree: Mapping[str, Any], path: Path, hints: Mapping[str, str]
    ) -> _M | None:
        """Return the section that a tree is, or note what is wrong and return None."""
        try:
            return model.model_validate(tree)
        except ValidationError as error:
            found = [(item["type"], item["loc"], item["msg"]) for item in _details(error)]
        for kind, where, message in found:
            inner = getattr(model, "nested", {}).get(where[0], model) if len(where) > 1 else model
            known = [field.alias or name for name, field in inner.model_fields.items()]
            self._add_pydantic(kind, (*path, *where), message, known, hints)
        return None

    def _add_pydantic(
        self, kind: str, path: Path, message: str, known: Iterable[str], hints: Mapping[str, str]
    ) -> None:
        key = str(path[-1])
        if kind == "extra_forbidden":
            self.add_unknown(path, known, hints)
        elif kind == "missing":
            self.add(path, f"is missing{hints.get(f'{key}?', '')}")
        elif kind == "value_error":  # of a validator of ours
            self.add(path, message.removeprefix("Value error, "))
        else:
            self.add(path, _WORDS.get(kind, f": {message}"))

    def add_unknown(
        self, path: Path, known: Iterable[str], hints: Mapping[str, str] | None = None
    ) -> None:
        """Note a key that nobody knows, and what may be meant."""
        key = str(path[-1])
        hint = {name.lower(): text for name, text in (hints or {}).items()}.get(key.lower())
        near = meant(key, known)
        if hint is None:
            hint = f"did you mean {near}?" if near else f"leave it out; known are {_listed(known)}"
        self.add(path, f"is not known: {hint}")

    def check(self) -> None:
        """Raise if there are any.

        Raises:
            ConfigurationError: one sentence for each, on a line of its own.
        """
        if self._sentences:
            raise ConfigurationError("\n".join(self._sentences))


def meant(key: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the name that is most like a key, if one is like it."""
    by_name = {name.lower(): name for name in known}
    bare = key.replace("_", "").lower()
    near = difflib.get_close_matches(bare, by_name, n=1, cutoff=cutoff)
    return by_name[near[0]] if near else None


def dotted(path: Path) -> str:
    """Return a path as it is written: ``AzureAd.ClientCredentials[0].SourceType``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def _details(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
