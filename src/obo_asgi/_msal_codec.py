"""MSAL as a codec: it writes requests and reads answers, does no I/O and keeps nothing.

Its HTTP client is a seam of its constructor: ours either returns the answer that was recorded for
this call, or raises `NeedsIO` with the request. Whoever drives it sends that request, records the
answer, and calls MSAL again from the start. MSAL itself is imported by `build_msal`, which is slow
at the first time and belongs into a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ._http import Fetched
from .config import AppRegistration

if TYPE_CHECKING:
    from msal import ConfidentialClientApplication

__all__ = ["Call", "NeedsIO", "build_msal", "request_of", "result_of"]

CLIENT_CAPABILITIES: Final = ["cp1"]
"""We handle claims challenges (continuous access evaluation)."""

Call = Callable[["ConfidentialClientApplication"], dict[str, Any]]
"""A call of an MSAL client, which is made twice: up to its request, and with the answer."""


class NeedsIO(BaseException):
    """MSAL wants this request sent."""

    def __init__(self, url: str, data: Mapping[str, str], headers: Mapping[str, str]) -> None:
        super().__init__()
        self.url = url
        self.data = data
        self.headers = headers


_recorded: ContextVar[Fetched | None] = ContextVar("obo_asgi_recorded_answer", default=None)


class _RecordedAnswers:
    """MSAL's HTTP client: hands out the recorded answer of this call, or asks for I/O."""

    def post(
        self, url: str, *, data: Mapping[str, str], headers: Mapping[str, str], **_: object
    ) -> _MSALResponse:
        answer = _recorded.get()
        if answer is None:
            raise NeedsIO(url, data, headers)
        return _MSALResponse(answer)

    def get(self, url: str, **_: object) -> _MSALResponse:
        return self.post(url, data={}, headers={})


class _MSALResponse:
    def __init__(self, answer: Fetched) -> None:
        self.status_code = answer.status_code
        self.text = answer.body.decode()
        self.headers: Mapping[str, str] = {}

    def raise_for_status(self) -> None:
        """MSAL calls this for 5xx answers, which never get here."""


class _NoHTTPCache(dict[str, object]):
    """MSAL's HTTP cache, storing nothing: its throttling would be shared by all users."""

    def __setitem__(self, key: str, value: object) -> None:
        pass


def build_msal(
    registration: AppRegistration, tenant_id: str, document: dict[str, Any]
) -> ConfidentialClientApplication:
    """Build MSAL's client for a tenant.

    Args:
        registration: our app registration.
        tenant_id: where tokens are asked for.
        document: the tenant's OpenID metadata, in place of the discovery that MSAL would do.
    """
    from msal import ConfidentialClientApplication, TokenCache

    class NoTokenCache(TokenCache):  # type: ignore[misc]
        """Keeps nothing; tokens are ours to keep."""

        def add(self, event: object, now: object = None) -> None:
            pass

    recorded = _recorded.set(Fetched(200, {}, msgspec.json.encode(document)))
    try:
        return ConfidentialClientApplication(
            registration.client_id,
            client_credential=registration.client_credential.reveal(),
            authority=f"{registration.authority}/{tenant_id}",
            instance_discovery=False,
            client_capabilities=CLIENT_CAPABILITIES,
            token_cache=NoTokenCache(),
            http_client=_RecordedAnswers(),
            http_cache=_NoHTTPCache(),
        )
    finally:
        _recorded.reset(recorded)


def request_of(msal: ConfidentialClientApplication, call: Call) -> NeedsIO:
    """Run MSAL up to the request that it wants sent."""
    try:
        call(msal)
    except NeedsIO as request:
        return request.with_traceback(None)
    raise RuntimeError("MSAL answered without asking the token endpoint")


def result_of(
    msal: ConfidentialClientApplication, call: Call, answer: Fetched
) -> Mapping[str, Any]:
    """Run MSAL to its end with the answer that came; empty if it cannot read the answer."""
    recorded = _recorded.set(answer)
    try:
        return call(msal)
    except (ValueError, TypeError, KeyError, OverflowError):  # such as an ID token that is none
        return {}
    finally:
        _recorded.reset(recorded)
