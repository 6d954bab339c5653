"""Client credentials by their SourceType, as Microsoft.Identity.Web names them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from pydantic import SecretStr

from ..credentials import (
    ClientAssertion,
    ClientCertificate,
    ClientCredential,
    ClientSecret,
    ManagedIdentity,
    WorkloadIdentity,
    check_credentials,
)
from ..errors import ConfigurationError
from ._models import Credential
from ._problems import Path, Problems, meant

__all__ = ["build_credential"]

GROUP: Final = "obo_asgi.credentials"
"""The entry points of adapters: the name is the SourceType, the value a callable(mapping)."""


class _Wrong(Exception):
    """A key is wrong: the key, and the words that follow it."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(key, words)
        self.key = key
        self.words = words


class _Source(NamedTuple):
    keys: tuple[str, ...]
    build: Callable[[Credential], ClientCredential]


def build_credential(
    tree: Mapping[str, Any], path: Path, problems: Problems
) -> ClientCredential | None:
    """Return the credential of an item of ``ClientCredentials``, or note what is wrong with it."""
    if tree.get("SourceType") is None:
        problems.add((*path, "SourceType"), f"is missing: say one of {', '.join(_SOURCES)}")
        return None
    item = problems.validate(Credential, tree, path, {})
    if item is None:
        return None
    name = next((known for known in _SOURCES if known.lower() == item.source_type.lower()), None)
    try:
        if name is None:
            return _of_an_adapter(item.source_type, tree)
        return _build(name, item, tree, path, problems)
    except _Wrong as wrong:
        problems.add((*path, wrong.key), wrong.words)
    except ConfigurationError as error:
        problems.add(path, f": {error}")
    return None


def _build(
    name: str, item: Credential, tree: Mapping[str, Any], path: Path, problems: Problems
) -> ClientCredential | None:
    source = _SOURCES[name]
    strangers = [key for key in tree if key not in (*source.keys, "SourceType")]
    for key in strangers:
        owners = [other for other, its in _SOURCES.items() if key in its.keys]
        if owners:
            problems.add(
                (*path, key),
                f"is not for SourceType {name}: leave it out, or say SourceType {owners[0]}",
            )
        else:
            problems.add_unknown((*path, key), ("SourceType", *source.keys))
    return None if strangers else source.build(item)


def _of_an_adapter(name: str, tree: Mapping[str, Any]) -> ClientCredential:
    for known, words in _ELSEWHERE.items():
        if known.lower() == name.lower():
            raise _Wrong("SourceType", f": {known} {words}")
    found = _entry_point(name)
    if found is None:
        if name.lower() == "keyvault":
            raise _Wrong("SourceType", ": KeyVault needs pip install 'obo-asgi-azure[keyvault]'")
        near = meant(name, _SOURCES)
        hint = f"did you mean {near}?" if near else f"say one of {', '.join(_SOURCES)}"
        raise _Wrong("SourceType", f": {name!r} is not known: {hint}")
    credential = _call(found, name, {key: _plain(value) for key, value in tree.items()})
    return check_credentials(credential)[0]


def _entry_point(name: str) -> EntryPoint | None:
    points = entry_points(group=GROUP)
    return next((point for point in points if point.name.lower() == name.lower()), None)


def _call(point: EntryPoint, name: str, tree: dict[str, Any]) -> ClientCredential:
    try:
        make = point.load()
    except (ImportError, AttributeError) as error:
        problem = f": what {point.value} brings for {name} cannot be imported ({error})"
    else:
        credential: ClientCredential = make(tree)
        return credential
    raise _Wrong("SourceType", problem)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _needs(item: Credential, key: str, value: str | None, or_else: str = "") -> str:
    if value is None:
        raise _Wrong(key, f"is missing: SourceType {item.source_type} needs it{or_else}")
    return value


def _blame(key: str, make: Callable[[], ClientCredential]) -> ClientCredential:
    try:
        return make()
    except ConfigurationError as error:
        words = f": {error}"
    raise _Wrong(key, words)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _secret(item: Credential) -> ClientCredential:
    if item.client_secret is not None and item.client_secret_path is not None:
        raise _Wrong("ClientSecretPath", "and ClientSecret say two things: keep one of them")
    if item.client_secret_path is not None:
        path = item.client_secret_path
        return _blame("ClientSecretPath", lambda: ClientSecret.from_file(path))
    _needs(item, "ClientSecret", _reveal(item.client_secret), ", or ClientSecretPath")
    return _blame("ClientSecret", lambda: ClientSecret(_reveal(item.client_secret) or ""))


def _certificate_file(item: Credential) -> ClientCredential:
    path = _needs(item, "CertificateDiskPath", item.certificate_disk_path)
    _check_password(item)
    return _blame(
        "CertificateDiskPath",
        lambda: ClientCertificate.from_file(
            path, password=_reveal(item.certificate_password), send_x5c=item.send_x5c
        ),
    )


def _certificate_text(item: Credential) -> ClientCredential:
    _needs(item, "Base64EncodedValue", _reveal(item.base64_encoded_value))
    _check_password(item)
    return _blame(
        "Base64EncodedValue",
        lambda: ClientCertificate(
            _decode(item.base64_encoded_value),
            password=_reveal(item.certificate_password),
            send_x5c=item.send_x5c,
        ),
    )


def _decode(value: SecretStr | None) -> bytes:
    try:
        return base64.b64decode("".join((_reveal(value) or "").split()), validate=True)
    except (binascii.Error, ValueError):
        pass  # so that the error does not hold the text
    raise _Wrong("Base64EncodedValue", "must be a PFX or PEM file in base64")


def _check_password(item: Credential) -> None:
    if _reveal(item.certificate_password) == "":
        raise _Wrong("CertificatePassword", "is empty: leave it out")


def _assertion_file(item: Credential) -> ClientCredential:
    path = item.signed_assertion_file_disk_path
    if path is None:  # as Microsoft.Identity.Web: what AZURE_FEDERATED_TOKEN_FILE says
        return WorkloadIdentity()
    return _blame("SignedAssertionFileDiskPath", lambda: ClientAssertion.from_file(path))


def _workload(item: Credential) -> ClientCredential:
    path = item.signed_assertion_file_disk_path
    return _blame("SignedAssertionFileDiskPath", lambda: WorkloadIdentity(path))


def _managed_identity(item: Credential) -> ClientCredential:
    given = {
        "client_id": item.managed_identity_client_id,
        "object_id": item.managed_identity_object_id,
        "resource_id": item.managed_identity_resource_id,
        "audience": item.token_exchange_url,
    }
    said = {name: value for name, value in given.items() if value is not None}
    keys = dict(zip(given, _MANAGED, strict=True))
    key = next((keys[name] for name in said if name != "audience"), "TokenExchangeUrl")
    try:
        return ManagedIdentity(**said)
    except ConfigurationError as error:
        message = str(error)
    if "audience" in message:
        key = "TokenExchangeUrl"
    raise _Wrong(key, f": {message}")


_MANAGED: Final = (
    "ManagedIdentityClientId",
    "ManagedIdentityObjectId",
    "ManagedIdentityResourceId",
    "TokenExchangeUrl",
)
_BASE64: Final = _Source(
    ("Base64EncodedValue", "CertificatePassword", "SendX5C"), _certificate_text
)
_SOURCES: Final[dict[str, _Source]] = {
    "ClientSecret": _Source(("ClientSecret", "ClientSecretPath"), _secret),
    "Path": _Source(("CertificateDiskPath", "CertificatePassword", "SendX5C"), _certificate_file),
    "Base64Encoded": _BASE64,
    "Certificate": _BASE64,
    "SignedAssertionFilePath": _Source(("SignedAssertionFileDiskPath",), _assertion_file),
    "SignedAssertionFromManagedIdentity": _Source(_MANAGED, _managed_identity),
    "WorkloadIdentity": _Source(("SignedAssertionFileDiskPath",), _workload),
}
_WINDOWS: Final = (
    "reads the certificate store of Windows: export the certificate with its key, and say "
    "SourceType Path with CertificateDiskPath"
)
_CODE: Final = (
    "is code of .NET: in code of yours make "
    "OnBehalfOf(AppRegistration(client_credential=ClientAssertion(sign), …), …)"
)
_ELSEWHERE: Final = {
    "StoreWithThumbprint": _WINDOWS,
    "StoreWithDistinguishedName": _WINDOWS,
    "AutoDecryptKeys": "decrypts tokens and signs nobody in: leave this item out",
    "CustomSignedAssertion": _CODE,
    "SignedAssertionFromVault": _CODE,
}
