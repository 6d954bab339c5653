"""What a caller must be allowed to: one language for every framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .config import Requirement, requirement
from .errors import AuthenticationRequiredError, ConfigurationError, InsufficientScopeError
from .tokens import User

__all__ = ["AccessRule"]


class AccessRule:
    """What a caller must hold: scopes of a user, app roles, or either of the two.

    ``AccessRule("read", "write")`` lets in a user's token with both scopes; with
    ``any_of("read", "write")`` one is enough. ``AccessRule(roles=["Admin"])`` lets in whoever has
    the role, a user or an application. ``AccessRule("read", roles=["Read.All"])`` lets in a user
    who has the scope, and whoever has the role: a person or a daemon. Scopes never stand in for
    roles, nor roles for scopes.

    Args:
        scopes: bare names as they stand in the token, all of them; or one `any_of`.
        roles: app roles, all of them; or one `any_of`.

    Raises:
        ConfigurationError: nothing is demanded, or a name is none.
    """

    def __init__(
        self, *scopes: str | Requirement, roles: Sequence[str] | Requirement | None = None
    ) -> None:
        if not scopes and roles is None:
            raise ConfigurationError("name what is required: a scope, or roles=[…]")
        self.scopes = _requirement(scopes) if scopes else None
        """The scopes of which a user's token must hold all, or one."""
        self.roles = None if roles is None else requirement(roles, "roles")
        """The app roles of which a token must hold all, or one."""

    def check(self, scope: Mapping[str, Any]) -> None:
        """Let the caller of a request go on.

        Args:
            scope: the ASGI scope, as `OnBehalfOfMiddleware` hands it on.

        Raises:
            AuthenticationRequiredError: the caller is anonymous.
            InsufficientScopeError: the caller lacks what is required.
            ConfigurationError: no `OnBehalfOfMiddleware` is around this app.
        """
        if "user" not in scope:
            raise ConfigurationError("no OnBehalfOfMiddleware is around this app: add it")
        user = scope["user"]
        if not isinstance(user, User):
            raise AuthenticationRequiredError
        if self.scopes is not None and not user.is_app and self.scopes.met_by(user.scopes):
            return
        if self.roles is not None and self.roles.met_by(user.roles):
            return
        if self.scopes is not None:
            raise InsufficientScopeError(self.scopes.names)
        raise InsufficientScopeError((), "the token lacks a required app role")

    def __repr__(self) -> str:
        return f"AccessRule(scopes={self.scopes}, roles={self.roles})"


def _requirement(scopes: tuple[str | Requirement, ...]) -> Requirement:
    first = scopes[0]
    if isinstance(first, Requirement):
        if len(scopes) > 1:
            raise ConfigurationError("any_of(…) stands alone: for more, check several rules")
        return requirement(first, "scopes")
    names = [name for name in scopes if not isinstance(name, Requirement)]
    if len(names) != len(scopes):
        raise ConfigurationError("any_of(…) stands alone: for more, check several rules")
    return requirement(names, "scopes")
