"""obo-asgi for the Azure SDKs: `credential_from(request)`, and `KeyVaultCertificate`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol, Self

from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.credentials_async import AsyncTokenCredential

import obo_asgi
from obo_asgi import ClientCertificate, ConfigurationError, Downstream

__all__ = ["KeyVaultCertificate", "UserCredential", "credential_from"]


class HasScope(Protocol):
    """A request or WebSocket of Starlette, FastAPI, Litestar, …"""

    @property
    def scope(self) -> Any: ...


class UserCredential:
    """The user of one request, as azure-core's `AsyncTokenCredential` and `AsyncSupportsTokenInfo`.

    It raises obo_asgi's errors: the SDKs let them through, and the middleware answers them. An
    SDK's client keeps the token that it got: make one for each request.
    """

    def __init__(self, downstream: Downstream, api: str | None = None) -> None:
        self._downstream = downstream
        self._api = None if api is None else downstream[api]

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """Return the user's token; claims challenges can be met whatever `enable_cae` says.

        Raises:
            TokenAcquisitionError: no token; `AccessDeniedError` for another tenant than the user's.
            ConfigurationError: no API of that resource is configured.
        """
        token = await self._acquire(scopes, claims, tenant_id)
        return AccessToken(token.token, int(token.expires_at))

    async def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        """As `get_token`, and with when it is worth asking again."""
        asked = options or {}
        token = await self._acquire(scopes, asked.get("claims"), asked.get("tenant_id"))
        return AccessTokenInfo(token.token, int(token.expires_at), refresh_on=int(token.refresh_at))

    async def close(self) -> None:
        """Nothing is to be closed: it ends with its request."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        """As `close`."""

    async def _acquire(
        self, scopes: tuple[str, ...], claims: str | None, tenant_id: str | None
    ) -> obo_asgi.AccessToken:
        if tenant_id and tenant_id.lower() != self._downstream.tenant_id.lower():
            raise obo_asgi.AccessDeniedError(
                "a token of another tenant than the user's is asked for: the resource is not in it",
                error="access_denied",
            )
        if self._api is None:
            return await self._downstream.acquire_token(scopes, claims=claims)
        return await self._api.acquire_token(claims=claims)


def credential_from(
    source: HasScope | Mapping[str, Any] | Downstream, api: str | None = None
) -> UserCredential:
    """Return the credential with which an Azure SDK or msgraph-sdk acts as the user.

    Args:
        source: the request, its ASGI scope, or a `Downstream`, also of a session or of the app.
        api: the configured API whose token, with its configured scopes, the SDK gets whatever it
            asks for. If left out the SDK gets the scopes that it asks for, as long as a configured
            API has that resource; services name a resource too, in their challenges.

    Raises:
        AuthenticationRequiredError: the caller is anonymous.
        ConfigurationError: no API has this name, or no middleware is around this app.
    """
    if isinstance(source, Downstream):
        return UserCredential(source, api)
    scope: Any = getattr(source, "scope", source)  # a request of Starlette is a mapping too
    return UserCredential(obo_asgi.downstream_from(scope), api)


def KeyVaultCertificate(
    vault_url: str,
    name: str,
    *,
    credential: AsyncTokenCredential,
    send_x5c: bool = False,
    refresh: float = 3600,
    **options: Any,
) -> ClientCertificate:
    """Return a client certificate in Key Vault, looked at again as `from_source` says.

    Args:
        vault_url: such as ``https://my-vault.vault.azure.net``.
        name: of the certificate, whose secret of the same name holds its key: exportable.
        credential: may read that secret (role "Key Vault Secrets User"); yours to close.
        send_x5c: send the certificate itself with each assertion.
        refresh: seconds between two looks.
        options: further arguments of `azure.keyvault.secrets.aio.SecretClient`.

    Raises:
        ConfigurationError: azure-keyvault-secrets is not installed, or an argument is wrong.
    """
    try:
        from azure.keyvault.secrets.aio import SecretClient
    except ImportError:
        raise ConfigurationError(
            "KeyVaultCertificate needs Key Vault's client: pip install 'obo-asgi-azure[keyvault]'"
        ) from None
    if not vault_url.startswith("https://") or not name:
        raise ConfigurationError("KeyVaultCertificate('https://….vault.azure.net', '<name>', …)")

    async def load() -> bytes:
        async with SecretClient(vault_url, credential, **options) as client:
            secret = await client.get_secret(name)
        value = (secret.value or "").encode()
        return value if b"-----BEGIN" in value else base64.b64decode(value)

    return ClientCertificate.from_source(load, send_x5c=send_x5c, refresh=refresh)


def _certificate_from_settings(settings: Mapping[str, Any]) -> ClientCertificate:
    """Return the certificate that an item of ``ClientCredentials`` names: SourceType KeyVault."""
    known = {"SourceType", "KeyVaultUrl", "KeyVaultCertificateName", "SendX5C"}
    known.add("ManagedIdentityClientId")
    strangers = sorted(set(settings) - known)
    if strangers:
        raise ConfigurationError(f"{strangers[0]} is not for SourceType KeyVault: leave it out")
    for key in ("KeyVaultUrl", "KeyVaultCertificateName"):
        if not isinstance(settings.get(key), str):
            raise ConfigurationError(f"{key} is missing: SourceType KeyVault needs it")
    try:
        import azure.identity.aio  # noqa: F401 (a start without it fails now)
    except ImportError:
        raise ConfigurationError(
            "SourceType KeyVault needs azure-identity: pip install 'obo-asgi-azure[keyvault]'"
        ) from None
    return KeyVaultCertificate(
        settings["KeyVaultUrl"],
        settings["KeyVaultCertificateName"],
        credential=_BriefCredential(settings.get("ManagedIdentityClientId")),
        send_x5c=settings.get("SendX5C", False) in (True, "true", "True"),
    )


class _BriefCredential:
    """Azure's default credential, open for one token only: nobody has to close it."""

    def __init__(self, managed_identity_client_id: str | None) -> None:
        self._options = (
            {"managed_identity_client_id": managed_identity_client_id}
            if managed_identity_client_id
            else {}
        )

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        from azure.identity.aio import DefaultAzureCredential

        async with DefaultAzureCredential(**self._options) as credential:
            return await credential.get_token(*scopes, **options)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        """As `close`."""
