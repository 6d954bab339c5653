"""What a ``scope`` parameter asks for: one resource, and permissions on it."""

from __future__ import annotations

from dataclasses import dataclass

from .aadsts import EntraError
from .directory import GRAPH, App, Directory

_OPENID = ("openid", "profile", "email", "offline_access")


@dataclass(frozen=True)
class Asked:
    """A scope parameter, understood."""

    resource: App
    names: tuple[str, ...]
    """The permissions asked for by name; empty for ``.default``."""
    openid: frozenset[str]
    """The scopes of OpenID Connect among them."""
    text: tuple[str, ...]
    """The resource's scopes as they were written."""

    @property
    def is_default(self) -> bool:
        """Whether all that is granted is asked for."""
        return not self.names

    def qualify(self, granted: tuple[str, ...]) -> str:
        """Return the answer's ``scope``: what was granted and asked for, fully qualified."""
        base = self.text[0].rpartition("/")[0] or self.resource.identifier_uri
        granted_names = [f"{base}/{name}" for name in granted]
        default = [text for text in self.text if self.is_default]
        return " ".join([*sorted(self.openid - {"offline_access"}), *granted_names, *default])


def parse_scope(scope: str, directory: Directory, *, openid_only: bool = False) -> Asked:
    """Understand a scope parameter; scopes of OpenID Connect alone may stand for ``User.Read``.

    Raises:
        EntraError: it is empty, malformed, of several resources, or of an unknown one.
    """
    asked = parse_scopes(scope, directory, openid_only=openid_only)
    if len(asked) > 1:
        raise EntraError(700022)
    return asked[0]


def parse_scopes(scope: str, directory: Directory, *, openid_only: bool = False) -> list[Asked]:
    """Understand a scope parameter that may name several resources, as a consent page does.

    Raises:
        EntraError: it is empty, malformed, or of an unknown resource.
    """
    words = scope.split()
    openid = frozenset(word for word in words if word in _OPENID)
    texts = tuple(word for word in words if word not in _OPENID)
    if openid and openid_only and not texts:
        texts = ("User.Read",)
    if not texts:
        raise EntraError(28003)
    by_resource: dict[str, list[str]] = {}
    for text in texts:
        by_resource.setdefault(text.rpartition("/")[0] or GRAPH, []).append(text)
    return [_asked(uri, tuple(some), openid, directory) for uri, some in by_resource.items()]


def _asked(uri: str, texts: tuple[str, ...], openid: frozenset[str], directory: Directory) -> Asked:
    resource = directory.find_app(uri)
    if resource is None:
        text = f"The resource principal named {uri} was not found in the tenant."
        raise EntraError(500011, text=text)
    names = tuple(dict.fromkeys(text.rpartition("/")[2] for text in texts))
    if ".default" in names:
        if len(names) > 1:
            raise EntraError(70011, text=".default scope can't be combined with other scopes.")
        return Asked(resource, (), openid, texts)
    unknown = [name for name in names if name not in resource.scopes]
    if unknown:
        raise EntraError(70011, text=f"The scope '{unknown[0]}' does not exist on the resource.")
    return Asked(resource, names, openid, texts)
