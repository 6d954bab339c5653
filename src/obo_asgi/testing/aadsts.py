"""Entra's error numbers (AADSTS) and the JSON bodies that carry them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Final, NamedTuple

from ._asgi import Response, json_response

_GRANT: Final = "invalid_grant"
_CLIENT: Final = "invalid_client"
_INTERACTION: Final = "interaction_required"
_REQUEST: Final = "invalid_request"
_RESOURCE: Final = "invalid_resource"
_SCOPE: Final = "invalid_scope"
_UNAUTHORIZED: Final = "unauthorized_client"
_UNAVAILABLE: Final = "temporarily_unavailable"

STEP_UP_CLAIMS: Final = json.dumps(
    {
        "access_token": {
            "capolids": {"essential": True, "values": ["0b7d9b4d-1f0f-4f0f-9a52-3d53cf4a5a3e"]}
        }
    },
    separators=(",", ":"),
)
"""The claims challenge that comes with a demand for multi-factor authentication."""


class Row(NamedTuple):
    """How Entra answers with one error number."""

    status: int
    error: str
    suberror: str | None
    has_claims: bool
    text: str


def _row(
    error: str, text: str, suberror: str | None = None, *, status: int = 400, claims: bool = False
) -> Row:
    return Row(status, error, suberror, claims, text)


def _step_up(error: str, text: str, suberror: str = "basic_action") -> Row:
    return _row(error, text, suberror, claims=True)


def _client(text: str) -> Row:
    return _row(_CLIENT, text, status=401)


def _transient(text: str, status: int = 503) -> Row:
    return _row(_UNAVAILABLE, text, status=status)


AADSTS: Final[dict[int, Row]] = {
    # consent
    65001: _row(_GRANT, "The user or administrator has not consented.", "consent_required"),
    65004: _row(_GRANT, "User declined to consent to access the app.", "consent_required"),
    90094: _row(_GRANT, "An administrator must grant the permission.", "consent_required"),
    9002341: _row(_GRANT, "User is required to permit single sign-on."),
    # step-up and Conditional Access
    50076: _step_up(
        _GRANT, "Due to a configuration change you must use multi-factor authentication."
    ),
    50079: _step_up(_INTERACTION, "You must enroll in multi-factor authentication."),
    50074: _step_up(_INTERACTION, "Strong authentication is required."),
    50072: _step_up(_INTERACTION, "You must enroll in multi-factor authentication to proceed."),
    50078: _step_up(_GRANT, "Presented multi-factor authentication has expired."),
    50158: _step_up(_INTERACTION, "External security challenge not satisfied."),
    50097: _step_up(_INTERACTION, "Device authentication is required.", "additional_action"),
    53000: _step_up(_INTERACTION, "Device is not in required state.", "additional_action"),
    53001: _step_up(_INTERACTION, "Device is not domain joined.", "additional_action"),
    53002: _row(_INTERACTION, "The app is not an approved app.", "additional_action"),
    53003: _row(_GRANT, "Blocked by Conditional Access policies.", "message_only"),
    530032: _row(_GRANT, "Blocked by the tenant's security policy.", "message_only"),
    530035: _row(_GRANT, "Blocked by security defaults.", "message_only"),
    53004: _row(_INTERACTION, "MFA registration is blocked by risk.", "additional_action"),
    53011: _row(_GRANT, "User blocked due to risk on home tenant.", "message_only"),
    50131: _row(_INTERACTION, "Conditional Access failed.", "additional_action"),
    50005: _row(_INTERACTION, "The platform is not supported by device policy.", "message_only"),
    # the assertion
    50013: _row(_GRANT, "Assertion failed signature validation."),
    500131: _row(_GRANT, "Assertion audience does not match the app presenting the assertion."),
    500133: _row(_GRANT, "Assertion is not within its valid time range."),
    50027: _row(_GRANT, "JWT token is invalid or malformed."),
    240002: _row(_GRANT, "Input id_token cannot be used as jwt-bearer grant."),
    900384: _row(_GRANT, "JWT token failed signature validation."),
    # the session
    50173: _row(_GRANT, "The provided grant has been revoked.", "bad_token"),
    50133: _row(_GRANT, "Session is invalid due to expiration or password change.", "bad_token"),
    50132: _row(_GRANT, "The session is not valid after a password change.", "bad_token"),
    50089: _row(_GRANT, "Flow token expired.", "token_expired"),
    54005: _row(_GRANT, "OAuth2 Authorization code was already redeemed."),
    70000: _row(_GRANT, "Provided grant is invalid or malformed.", "bad_token"),
    70008: _row(_GRANT, "The provided grant has expired due to inactivity.", "token_expired"),
    70043: _row(_GRANT, "The refresh token has expired by sign-in frequency.", "token_expired"),
    700082: _row(_GRANT, "The refresh token has expired due to inactivity.", "token_expired"),
    700084: _row(_GRANT, "The refresh token was issued to a SPA and is expired.", "token_expired"),
    501481: _row(_GRANT, "The Code_Verifier does not match the code_challenge."),
    # the user
    50057: _row(_GRANT, "The user account is disabled."),
    50053: _row(_GRANT, "The account is locked."),
    50055: _row(_GRANT, "The password is expired.", "user_password_expired"),
    50020: _row(_GRANT, "User account does not exist in this tenant; use a different account."),
    50034: _row(_GRANT, "The user account does not exist in the directory."),
    50058: _row(_INTERACTION, "A silent sign-in request was sent but no user is signed in."),
    50105: _row(_GRANT, "The signed in user is not assigned to a role for the application."),
    90072: _row(_GRANT, "The external account must be added to the tenant first."),
    16000: _row(_INTERACTION, "Select another account that exists in the tenant."),
    16003: _row(_GRANT, "The user has not been explicitly added to the tenant."),
    700020: _row(_INTERACTION, "The grant requires interaction."),
    # throttling and failures
    50196: _row(_GRANT, "The server terminated an operation: a request loop was detected."),
    90055: _transient("Server busy: too many requests from the tenant.", status=429),
    50033: _transient("A transient error has occurred. Please try again."),
    90033: _transient("A transient error has occurred in the directory service."),
    90006: _transient("External server retryable error."),
    90024: _transient("Request budget exceeded: a transient error has occurred."),
    90012: _transient("Request timed out.", status=504),
    50000: _row("server_error", "There was an error issuing a token.", status=500),
    # the app registration
    7000215: _client("Invalid client secret provided: send the secret value, not the secret id."),
    7000222: _client("The provided client secret keys are expired."),
    700027: _client("The certificate used to sign the client assertion is not registered."),
    700030: _client("The certificate's subject is not authorized."),
    700021: _client("The application of the client assertion does not match 'client_id'."),
    700023: _client("Client assertion audience claim does not match Realm issuer."),
    700024: _client("Client assertion is not within its valid time range."),
    70021: _client("No matching federated identity record found for presented assertion."),
    700211: _client("No matching federated identity record found for the assertion's issuer."),
    700212: _client("No matching federated identity record found for the assertion's audience."),
    700213: _client("No matching federated identity record found for the assertion's subject."),
    7000218: _client("The request must contain 'client_assertion' or 'client_secret'."),
    70002: _client("Error validating credentials."),
    700025: _client("Client is public so neither client_assertion nor client_secret may be sent."),
    50012: _client("Authentication failed: the client assertion is invalid."),
    700016: _row(_UNAUTHORIZED, "Application was not found in the directory."),
    7000112: _row(_UNAUTHORIZED, "Application is disabled."),
    7000114: _row(_UNAUTHORIZED, "Application is not allowed to make on-behalf-of calls."),
    # the request
    50194: _row(_REQUEST, "Application is not configured as a multi-tenant application."),
    9001023: _row(_REQUEST, "The grant type is not supported over /common or /consumers."),
    500011: _row(_RESOURCE, "The resource principal was not found in the tenant."),
    50001: _row(_RESOURCE, "The resource is disabled or was not found."),
    650057: _row(_RESOURCE, "Invalid resource: it is not listed in the requested permissions."),
    65005: _row(_RESOURCE, "The required resource access is misconfigured."),
    70011: _row(_SCOPE, "The provided value for the input parameter 'scope' is not valid."),
    28003: _row(_SCOPE, "The provided value for the input parameter 'scope' cannot be empty."),
    700022: _row(_SCOPE, "The scope is for more than one resource."),
    70003: _row("unsupported_grant_type", "The grant type is not supported."),
    700054: _row("unsupported_response_type", "The response_type is not enabled or is missing."),
    90014: _row(_REQUEST, "The required field is missing from the request."),
    900144: _row(_REQUEST, "The request body lacks a required parameter."),
    9002313: _row(_REQUEST, "Invalid request: it is malformed or invalid."),
    9002325: _row(_REQUEST, "Proof Key for Code Exchange is required for public clients."),
    50011: _row(_REQUEST, "The redirect URI does not match those configured for the application."),
    500112: _row(_CLIENT, "The reply address does not match the one of the code.", status=401),
    90002: _row(_REQUEST, "Tenant not found: check that the tenant id is correct."),
}
"""The known numbers with their HTTP status, OAuth error, suberror and whether claims come along."""


class EntraError(Exception):
    """The answer to a request that Entra refuses.

    Args:
        number: a number of `AADSTS`.
        claims: the claims challenge, as JSON text; None: what the number calls for; "": none.
        retry_after: seconds for the ``Retry-After`` header.
        text: a more precise description.
    """

    def __init__(
        self,
        number: int,
        *,
        claims: str | None = None,
        retry_after: int | None = None,
        text: str | None = None,
    ) -> None:
        super().__init__(number)
        self.number = number
        self.row = AADSTS[number]
        self.claims = STEP_UP_CLAIMS if claims is None and self.row.has_claims else claims
        self.retry_after = retry_after
        self.text = text or self.row.text

    @property
    def message(self) -> str:
        """The description without the ids of this very answer."""
        return f"AADSTS{self.number}: {self.text}"

    def response(self, authority: str, correlation_id: str | None) -> Response:
        """Answer as Entra's token endpoint does; a missing correlation id is made up."""
        trace_id, correlation_id = str(uuid.uuid4()), correlation_id or str(uuid.uuid4())
        timestamp = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        body: dict[str, object] = {
            "error": self.row.error,
            "error_description": f"{self.message} Trace ID: {trace_id} "
            f"Correlation ID: {correlation_id} Timestamp: {timestamp}",
            "error_codes": [self.number],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": f"{authority}/error?code={self.number}",
        }
        if self.row.suberror:
            body["suberror"] = self.row.suberror
        if self.claims:
            body["claims"] = self.claims
        headers = {"x-ms-request-id": trace_id}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return json_response(body, status=self.row.status, headers=headers)
