"""What an OpenAPI document says of an API's callers: how they sign in, and what they must hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Final

from .config import AppRegistration, Requirement
from .protected_resource import ProtectedResource

__all__ = ["OpenAPISecurity"]

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_REFUSALS: Final = {
    "401": "No access token, or one that is not accepted",
    "403": "A permission is missing",
}


class OpenAPISecurity:
    """The security scheme of an API in OpenAPI's words: the authorization code flow with PKCE.

    Args:
        registration: the app registration of the API.
        required: what every operation demands; None for nothing in particular.
        resource: how the API describes itself (RFC 9728); it says what full scope names start with.
    """

    SCHEME: Final = "entra"
    """The name of the security scheme in the document."""

    def __init__(
        self,
        registration: AppRegistration,
        required: Requirement | None = None,
        resource: ProtectedResource | None = None,
    ) -> None:
        self._registration = registration
        self._required = required
        self._resource = resource

    def qualify(self, names: Iterable[str]) -> list[str]:
        """Return the scopes that clients ask for, of those that stand in a token."""
        if self._resource is not None:
            return list(self._resource.qualify(names))
        registration = self._registration
        uris = (audience for audience in registration.audiences or () if "://" in audience)
        base = next(uris, f"api://{registration.client_id}")
        return [f"{base}/{name}" for name in names]

    @property
    def required(self) -> list[str]:
        """The full names of the scopes that every operation demands."""
        return [] if self._required is None else self.qualify(self._required.names)

    def flow(self, names: Iterable[str] = ()) -> dict[str, Any]:
        """Return the authorization code flow, as an OAuth Flow Object of OpenAPI.

        Args:
            names: the scopes that are demanded anywhere besides, as they stand in a token.
        """
        registration, required = self._registration, self._required
        is_single = registration.tenant_id == registration.metadata_tenant
        tenant = registration.tenant_id if is_single else "organizations"
        base = f"{registration.authority}/{tenant}/oauth2/v2.0"
        known = list(dict.fromkeys([*(required.names if required else ()), *names]))
        scopes = dict(zip(self.qualify(known), known, strict=True))
        return {
            "authorizationUrl": f"{base}/authorize",
            "tokenUrl": f"{base}/token",
            "scopes": scopes or {self.qualify([".default"])[0]: "all that is registered"},
        }

    def secure(
        self, document: dict[str, Any], *, public: Collection[str] = (), optional: bool = False
    ) -> None:
        """Put the scheme into an OpenAPI document, and what each operation demands.

        Args:
            document: the document, which is changed. What an operation demands besides stands in
                its ``security`` under `SCHEME`, as `demands` returns it.
            public: the paths that need no token.
            optional: whether requests without a token are let in.
        """
        everywhere, found = self.demands(self._required), dict[str, None]()
        for path, operation in _operations(document):
            named = operation.get("security", [])
            own = [entry[self.SCHEME] for entry in named if self.SCHEME in entry]
            if path in public and not own:
                continue
            demanded = dict.fromkeys([*everywhere, *(name for names in own for name in names)])
            ways = [dict.fromkeys(way) for way in product(*(name.split() for name in demanded))]
            found |= {name: None for way in ways for name in way}
            others = [entry for entry in named if self.SCHEME not in entry] or [{}]
            entries = [
                {self.SCHEME: self.qualify(way), **other} for way in ways for other in others
            ]
            operation["security"] = [*entries, *([{}] if optional and not own else [])]
            for status, description in _REFUSALS.items():
                headers = {"WWW-Authenticate": {"schema": {"type": "string"}}}
                answer = {"description": description, "headers": headers}
                operation.setdefault("responses", {}).setdefault(status, answer)
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[self.SCHEME] = {"type": "oauth2", "flows": {"authorizationCode": self.flow(found)}}

    @staticmethod
    def demands(required: Requirement | None) -> list[str]:
        """Return what is demanded; the alternatives of an `any_of` as one, with spaces between."""
        if required is None:
            return []
        return [" ".join(required.names)] if required.any else list(required.names)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document.get("paths", {}).items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, operation
