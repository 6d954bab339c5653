"""Secrets: shown to nobody, and refused where they are plainly the wrong thing."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from obo_asgi import (
    AppRegistration,
    ClientAssertion,
    ClientCertificate,
    ClientSecret,
    ConfigurationError,
    ManagedIdentity,
    WorkloadIdentity,
)
from obo_asgi._types import Secret, is_guid
from tests.test_certificates import KEY, LEAF, key_pem, pem, pfx

GUID = "11111111-1111-4111-8111-111111111111"
VALUE = "very~secret.value"

REGISTRATION = AppRegistration(
    tenant_id=GUID, client_id=GUID, client_credential=ClientSecret(VALUE)
)


def test_a_secret_is_revealed_on_demand_only() -> None:
    """The value comes back, exactly as it came, when it is asked for by name."""
    assert VALUE == ClientSecret(VALUE).reveal()


@pytest.mark.parametrize("holder", [Secret(VALUE), ClientSecret(VALUE), REGISTRATION], ids=str)
@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__])
def test_a_secret_is_not_shown(holder: object, show: Callable[[object], str]) -> None:
    """No way to print a secret, or what holds it, shows its value."""
    shown = show(holder)

    assert VALUE not in shown
    assert "***" in shown


@pytest.mark.parametrize("holder", [Secret(VALUE), ClientSecret(VALUE), REGISTRATION], ids=str)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(holder: object, protocol: int) -> None:
    """Pickling a secret, or what holds it, fails and says why without saying the value."""
    with pytest.raises(TypeError, match="is not pickled") as caught:
        pickle.dumps(holder, protocol)

    assert VALUE not in str(caught.value)


PASSWORD = "correct horse battery staple"
PEM = key_pem(KEY, PASSWORD.encode()) + pem(LEAF)


def sign() -> str:
    return VALUE


CREDENTIALS = [
    pytest.param(ClientSecret(VALUE), "ClientSecret('***')", id="secret"),
    pytest.param(
        ClientSecret.from_file("/run/secret"),
        "ClientSecret.from_file('/run/secret')",
        id="secret file",
    ),
    pytest.param(
        ClientCertificate(PEM, password=PASSWORD), "ClientCertificate('***')", id="certificate"
    ),
    pytest.param(
        ClientCertificate(pfx(KEY, LEAF, PASSWORD.encode()), password=PASSWORD),
        "ClientCertificate('***')",
        id="PFX",
    ),
    pytest.param(
        ClientCertificate.from_file("/run/api.pem", password=PASSWORD),
        "ClientCertificate.from_file('/run/api.pem')",
        id="certificate file",
    ),
    pytest.param(ClientAssertion(sign), "ClientAssertion(…)", id="callable"),
    pytest.param(
        ClientAssertion.from_file("/run/token"),
        "ClientAssertion.from_file('/run/token')",
        id="assertion file",
    ),
    pytest.param(WorkloadIdentity(), "WorkloadIdentity()", id="AKS"),
    pytest.param(
        WorkloadIdentity("/run/token"), "WorkloadIdentity('/run/token')", id="federated token"
    ),
    pytest.param(ManagedIdentity(), "ManagedIdentity()", id="managed identity"),
]
credentials = pytest.mark.parametrize(("credential", "expected"), CREDENTIALS)


def registration_with(credential: Any) -> AppRegistration:
    return AppRegistration(tenant_id=GUID, client_id=GUID, client_credential=credential)


@credentials
def test_a_credential_names_itself_and_no_more(credential: Any, expected: str) -> None:
    """However it is printed, a credential says its kind and its file, never its content."""
    shown = {repr(credential), str(credential), f"{credential}", f"{credential!r}"}

    assert {expected} == shown
    assert expected in repr(registration_with(credential))
    assert expected in repr(registration_with([credential, ClientSecret(VALUE)]))


@credentials
def test_no_part_of_a_credential_shows_a_secret(credential: Any, expected: str) -> None:
    """Nor do its attributes, as debuggers and error trackers print them."""
    with pytest.raises(TypeError):
        vars(credential)
    names = [name for kind in type(credential).__mro__ for name in getattr(kind, "__slots__", ())]
    shown = [repr(getattr(credential, name)) for name in names]

    assert [] == [
        text for text in shown for word in (VALUE, PASSWORD, "PRIVATE KEY") if word in text
    ]


@credentials
def test_no_credential_is_pickled_or_copied(credential: Any, expected: str) -> None:
    """A credential, alone, in a registration or as its parts, cannot leave the process."""
    certificate = getattr(credential, "certificate", None)
    registration = registration_with([credential])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for holder in (credential, registration, *([certificate] if certificate else [])):
            with pytest.raises(TypeError, match="pickle") as caught:
                pickle.dumps(holder, protocol)
            assert PASSWORD not in str(caught.value)
    for spread in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="is not pickled"):
            spread(credential)
    with pytest.raises(TypeError, match="is not pickled"):
        dataclasses.asdict(registration)


@pytest.mark.parametrize("spread", [copy.copy, copy.deepcopy], ids=lambda f: f.__name__)
def test_a_secret_is_not_copied(spread: Callable[[object], object]) -> None:
    """The copy protocol, which is pickle's, is refused as well."""
    with pytest.raises(TypeError, match="is not pickled"):
        spread(ClientSecret(VALUE))


def test_vars_shows_no_secret() -> None:
    """A secret has no ``__dict__``, and the registration's holds the hidden form."""
    with pytest.raises(TypeError):
        vars(ClientSecret(VALUE))

    assert VALUE not in str(vars(REGISTRATION))


def test_a_registration_is_not_turned_into_plain_values() -> None:
    """`dataclasses.asdict` would copy the secret into a dict, so it fails."""
    with pytest.raises(TypeError, match="is not pickled"):
        dataclasses.asdict(REGISTRATION)


def test_two_secrets_are_never_compared_by_value() -> None:
    """Equality of secrets is identity, so that no comparison leaks by its timing."""
    secret = ClientSecret(VALUE)

    assert secret == secret
    assert secret != ClientSecret(VALUE)


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param("", "ClientSecret is empty", id="empty"),
        pytest.param("  \n", "ClientSecret is empty", id="blank"),
        pytest.param(None, "environment variable", id="None"),
        pytest.param(b"bytes", "ClientSecret is empty", id="bytes"),
        pytest.param(GUID, "looks like the secret's id", id="the secret's id"),
        pytest.param(GUID.upper(), "looks like the secret's id", id="the id in capitals"),
    ],
)
def test_a_wrong_client_secret_is_refused(value: Any, fragment: str) -> None:
    """What cannot be a secret's value is refused at once with what to do."""
    with pytest.raises(ConfigurationError, match=fragment):
        ClientSecret(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GUID, True),
        ("ABCDEF01-2345-6789-abcd-ef0123456789", True),
        (GUID + "\n", False),
        (f"{{{GUID}}}", False),
        (GUID.replace("-", ""), False),
        (GUID[:-1], False),
        (GUID[:-1] + "g", False),
        (GUID[:-1] + "١", False),
        (GUID.encode(), False),
        (None, False),
        ("", False),
    ],
)
def test_is_guid(value: object, expected: bool) -> None:
    """A GUID is 32 ASCII hex digits in five groups, and nothing around them."""
    assert expected is is_guid(value)
