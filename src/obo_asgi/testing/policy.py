"""What users may do: consent, multi-factor authentication, and revoked sign-ins."""

from __future__ import annotations

from typing import NamedTuple

from .directory import App, User, stable_guid


class _Triple(NamedTuple):
    """Which consents a rule is about; None stands for all."""

    user: str | None
    client: str | None
    resource: str | None
    scope: str | None

    def covers(self, user: User, client: App, resource: App, scope: str) -> bool:
        names = (user.name, client.client_id, resource.client_id, scope)
        return all(rule in (None, name) for rule, name in zip(self, names, strict=True))


class Consents:
    """Consent by user, client app, resource and scope; what was said last holds.

    Everything that a resource declares is consented until something else is said.
    """

    def __init__(self) -> None:
        self._rules: dict[_Triple, bool] = {}

    def say(
        self,
        granted: bool,
        *,
        user: str | None,
        client: App | None,
        resource: App | None,
        scope: str | None = None,
    ) -> None:
        """Grant or withdraw; None means every user, client app, resource or scope."""
        rule = _Triple(user, _client_id(client), _client_id(resource), scope)
        rules = {known: value for known, value in self._rules.items() if known != rule}
        self._rules = {**rules, rule: granted}

    def granted(self, user: User, client: App, resource: App) -> tuple[str, ...]:
        """Return the scopes of a resource that a user lets a client app have."""
        rules = list(reversed(self._rules.items()))
        return tuple(
            scope
            for scope in resource.scopes
            if next(
                (value for rule, value in rules if rule.covers(user, client, resource, scope)), True
            )
        )


class StepUp:
    """Where multi-factor authentication is demanded, and who has done it."""

    def __init__(self) -> None:
        self._demands: set[tuple[str | None, str | None]] = set()
        self._done: set[str] = set()

    def require(self, user: str | None, resource: App | None) -> None:
        """Demand it of a user (None: everybody) for a resource (None: each)."""
        self._demands.add((user, _client_id(resource)))

    def waive(self, user: str | None, resource: App | None) -> None:
        """Take back what was demanded of this user for this resource."""
        self._demands.discard((user, _client_id(resource)))

    def complete(self, user: str) -> None:
        """Let a user's sign-ins from now on count as multi-factor."""
        self._done.add(user)

    def demanded(self, user: User, resource: App) -> bool:
        """Tell whether a token of this user for this resource needs it."""
        return any(
            name in (None, user.name) and client_id in (None, resource.client_id)
            for name, client_id in self._demands
        )

    def methods(self, user: str) -> tuple[str, ...]:
        """Return how a user signs in now (``amr``)."""
        return ("pwd", "mfa") if user in self._done else ("pwd",)


class Sessions:
    """The sign-in session of each user (``sid``), and those that were revoked."""

    def __init__(self) -> None:
        self._generation: dict[str, int] = {}

    def current(self, user: User) -> str:
        """Return the id of the session that a new sign-in belongs to."""
        return self._id(user, self._generation.get(user.name, 0))

    def revoke(self, user: str) -> None:
        """End the sessions of a user; the next sign-in starts a new one."""
        self._generation[user] = self._generation.get(user, 0) + 1

    def is_revoked(self, user: User, session_id: object) -> bool:
        """Tell whether a session has been ended."""
        generations = range(self._generation.get(user.name, 0))
        return any(session_id == self._id(user, generation) for generation in generations)

    @staticmethod
    def _id(user: User, generation: int) -> str:
        return stable_guid("session", user.oid, str(generation))


def _client_id(app: App | None) -> str | None:
    return None if app is None else app.client_id
