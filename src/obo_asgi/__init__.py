"""Call other APIs as the user who called yours: OAuth 2.0 On-Behalf-Of for ASGI apps."""

from .access import AccessRule
from .cache import TokenCache, new_cache_key
from .config import ANY_TENANT, AppRegistration, DownstreamAPI, Requirement, any_of
from .credentials import (
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    ManagedIdentity,
    WorkloadIdentity,
)
from .downstream import APIClient, Downstream, Part, RequestOptions
from .errors import (
    AccessDeniedError,
    AssertionRejectedError,
    AuthenticationRequiredError,
    CacheUnavailableError,
    ConfigurationError,
    DownstreamError,
    DownstreamTimeoutError,
    ExpiredTokenError,
    InsufficientScopeError,
    InteractionRequiredError,
    InvalidTokenError,
    KeysUnavailableError,
    OboError,
    SessionConflictError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionUnreadableError,
    TokenAcquisitionError,
)
from .middleware import SCOPE_KEY, OnBehalfOfMiddleware, downstream_from
from .on_behalf_of import OnBehalfOf
from .openapi import OpenAPISecurity
from .protected_resource import ProtectedResource
from .readiness import Readiness
from .responses import ErrorResponse, error_response
from .tokens import AccessToken, User

__all__ = [
    "ANY_TENANT",
    "APIClient",
    "AccessDeniedError",
    "AccessRule",
    "AccessToken",
    "AppRegistration",
    "AssertionRejectedError",
    "AuthenticationRequiredError",
    "CacheUnavailableError",
    "ClientAssertion",
    "ClientCertificate",
    "ClientSecret",
    "ConfigurationError",
    "Downstream",
    "DownstreamAPI",
    "DownstreamError",
    "DownstreamTimeoutError",
    "ErrorResponse",
    "ExpiredTokenError",
    "InsufficientScopeError",
    "InteractionRequiredError",
    "InvalidTokenError",
    "KeysUnavailableError",
    "ManagedIdentity",
    "OboError",
    "OnBehalfOf",
    "OnBehalfOfMiddleware",
    "OpenAPISecurity",
    "Part",
    "ProtectedResource",
    "Readiness",
    "RequestOptions",
    "Requirement",
    "SCOPE_KEY",
    "SessionConflictError",
    "SessionExpiredError",
    "SessionNotFoundError",
    "SessionUnreadableError",
    "TokenAcquisitionError",
    "TokenCache",
    "User",
    "WorkloadIdentity",
    "any_of",
    "downstream_from",
    "error_response",
    "new_cache_key",
]
