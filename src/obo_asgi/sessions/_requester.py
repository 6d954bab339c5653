"""Who makes the request that is being handled, if one is: a session opens to its owner alone."""

from __future__ import annotations

from contextvars import ContextVar

from ..tokens import User


class Requester:
    """The caller of a request.

    Args:
        user: who calls; None for an anonymous caller.
    """

    __slots__ = ("is_over", "user")

    def __init__(self, user: User | None) -> None:
        self.user = user
        self.is_over = False
        """Whether the request is: a task that it has left behind is a worker like any other."""


requester: ContextVar[Requester | None] = ContextVar("obo_asgi_requester", default=None)


def may_use(tenant_id: str, owner: str) -> bool:
    """Tell whether a user's session may be used here: in that user's request, or in none."""
    present = requester.get()
    if present is None or present.is_over:
        return True
    user = present.user
    return user is not None and not user.is_app and (user.tid, user.oid) == (tenant_id, owner)
