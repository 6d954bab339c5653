"""MSAL as a codec: it writes requests and reads answers, does no I/O and keeps nothing.

Its HTTP client is a seam of its constructor: ours either returns the answer that was recorded for
this call, or raises `NeedsIO` with the request. Whoever drives it sends that request, records the
answer, and calls MSAL again from the start. MSAL itself is imported by what builds its clients,
which is slow at the first time and belongs into a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ._http import Fetched
from .config import AppRegistration

if TYPE_CHECKING:
    from msal import ConfidentialClientApplication, ManagedIdentityClient

__all__ = ["CAPABILITIES_CLAIMS", "Call", "NeedsIO", "build_managed_identity", "build_msal", "run"]

CLIENT_CAPABILITIES: Final = ["cp1"]
"""We handle claims challenges (continuous access evaluation)."""

CAPABILITIES_CLAIMS: Final = '{"access_token":{"xms_cc":{"values":["cp1"]}}}'
"""The same as a claims request, for the grant with which MSAL does not send it by itself."""

Call = Callable[[], dict[str, Any]]
"""A call of an MSAL client, which is made once up to each request, and once with all answers."""


class NeedsIO(BaseException):
    """MSAL wants this request sent."""

    def __init__(self, method: str, url: str, request: Mapping[str, Any]) -> None:
        super().__init__()
        self.method = method
        self.url = url
        self.params: Mapping[str, str] | None = request.get("params")
        self.data: Mapping[str, str] | None = request.get("data")
        self.headers: Mapping[str, str] = request.get("headers") or {}


_recorded: ContextVar[Sequence[Fetched]] = ContextVar("obo_asgi_recorded_answers", default=())


class _RecordedAnswers:
    """MSAL's HTTP client: hands out the recorded answers of this run, then asks for I/O."""

    def post(self, url: str, **request: Any) -> _MSALResponse:
        return self._answer("POST", url, request)

    def get(self, url: str, **request: Any) -> _MSALResponse:
        return self._answer("GET", url, request)

    def _answer(self, method: str, url: str, request: Mapping[str, Any]) -> _MSALResponse:
        recorded = _recorded.get()
        if not recorded:
            raise NeedsIO(method, url, request)
        _recorded.set(recorded[1:])
        return _MSALResponse(recorded[0])


class _MSALResponse:
    def __init__(self, answer: Fetched) -> None:
        self.status_code = answer.status_code
        self.text = answer.body.decode(errors="replace")
        self.headers = answer.headers

    def raise_for_status(self) -> None:
        """MSAL calls this for 5xx answers, which never get here."""


class _NoHTTPCache(dict[str, object]):
    """MSAL's HTTP cache, storing nothing: its throttling would be shared by all users."""

    def __setitem__(self, key: str, value: object) -> None:
        pass


def build_msal(
    registration: AppRegistration, tenant_id: str, document: dict[str, Any]
) -> ConfidentialClientApplication:
    """Build MSAL's client for a tenant; the client credential comes with each call.

    Args:
        registration: our app registration.
        tenant_id: where tokens are asked for.
        document: the tenant's OpenID metadata, in place of the discovery that MSAL would do.
    """
    from msal import ConfidentialClientApplication

    recorded = _recorded.set([Fetched(200, {}, msgspec.json.encode(document))])
    try:
        client = ConfidentialClientApplication(
            registration.client_id,
            authority=f"{registration.authority}/{tenant_id}",
            instance_discovery=False,
            client_capabilities=CLIENT_CAPABILITIES,
            **_keeping_nothing(),
        )
    finally:
        _recorded.reset(recorded)
    # Past MSAL's throttling, which has nothing to remember and yet takes a third of its time.
    client.http_client.post = _RecordedAnswers().post
    return client


def build_managed_identity(
    *, client_id: str | None, resource_id: str | None, object_id: str | None
) -> ManagedIdentityClient:
    """Build MSAL's client for a managed identity; the system-assigned one if nothing is named."""
    from msal import (
        ManagedIdentityClient,
        SystemAssignedManagedIdentity,
        UserAssignedManagedIdentity,
    )

    names = {"client_id": client_id, "resource_id": resource_id, "object_id": object_id}
    is_named = any(names.values())
    identity = UserAssignedManagedIdentity(**names) if is_named else SystemAssignedManagedIdentity()
    return ManagedIdentityClient(identity, **_keeping_nothing())


def _keeping_nothing() -> dict[str, Any]:
    """Return the arguments that keep MSAL's clients from doing I/O and from keeping anything."""
    from msal import TokenCache

    class NoTokenCache(TokenCache):  # type: ignore[misc]  # MSAL has no type hints
        """Keeps nothing; tokens are ours to keep."""

        def add(self, event: object, now: object = None) -> None:
            pass

    return {
        "token_cache": NoTokenCache(),
        "http_client": _RecordedAnswers(),
        "http_cache": _NoHTTPCache(),
    }


def run(call: Call, answers: Sequence[Fetched]) -> NeedsIO | Mapping[str, Any]:
    """Run a call of MSAL with the answers that have come so far.

    Returns:
        The next request that MSAL wants sent, or its result; empty if it cannot read an answer.
    """
    recorded = _recorded.set(answers)
    try:
        return call()
    except NeedsIO as request:
        return request.with_traceback(None)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):  # a bad ID token, say
        return {}
    finally:
        _recorded.reset(recorded)
