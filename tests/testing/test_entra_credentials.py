"""How apps authenticate at the token endpoint: secrets, certificates, federated credentials."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import hashes

from obo_asgi.testing import FakeEntra
from obo_asgi.testing.aadsts import AADSTS
from tests.testing.calls import (
    PARTNER,
    Calls,
    claims_of,
    secret_of,
)
from tests.testing.material import (
    CLIENT_ASSERTION_TYPE,
    Material,
    assertion_claims,
    material,
)

pytestmark = pytest.mark.anyio

SUBJECT = "system:serviceaccount:default:api"
EXCHANGE = "api://AzureADTokenExchange"
OTHER_ISSUER = "https://token.actions.example"


def endpoint(entra: FakeEntra) -> str:
    return f"{entra.authority}/{entra.tenant_id}/oauth2/v2.0/token"


def own_claims(entra: FakeEntra, **claims: Any) -> dict[str, Any]:
    return assertion_claims(entra.client_id("api"), endpoint(entra), **claims)


async def ask(calls: Calls, assertion: str, **form: str | None) -> httpx.Response:
    """Ask for a token of the app's own with an assertion in place of the secret."""
    fields: dict[str, Any] = {
        "grant_type": "client_credentials",
        "scope": f"{PARTNER}/.default",
        "client_secret": None,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": assertion,
        **form,
    }
    return await calls.token(**fields)


def refused(number: int, response: httpx.Response) -> None:
    """Check that a response is the refusal of that number, as of a client."""
    assert [number] == response.json().get("error_codes"), response.text
    assert (401, "invalid_client") == (response.status_code, response.json()["error"])


def accepted(response: httpx.Response) -> None:
    assert 200 == response.status_code, response.text


# secrets


async def test_second_secret_is_valid_beside_the_first(calls: Calls) -> None:
    """A new secret is good, the older one stays so until it is revoked."""
    old = secret_of(calls.entra.registration())
    new = calls.entra.new_secret()
    assert new == secret_of(calls.entra.registration())
    for secret in (old, new):
        accepted(await calls.exchange(client_secret=secret))
    calls.entra.revoke_secret(old)
    refused(7000215, await calls.exchange(client_secret=old))
    accepted(await calls.exchange(client_secret=new))


async def test_registration_holds_a_valid_secret(calls: Calls) -> None:
    """When the newest secret is revoked, registrations hold the one before it."""
    old = secret_of(calls.entra.registration())
    calls.entra.revoke_secret(calls.entra.new_secret())
    assert old == secret_of(calls.entra.registration())
    with pytest.raises(LookupError, match="no such secret"):
        calls.entra.revoke_secret("another")


async def test_no_secret_at_all(calls: Calls) -> None:
    """Without secrets every one is refused, that of the registration too, until a new one."""
    calls.entra.new_secret()
    calls.entra.remove_secrets("api")
    refused(7000215, await calls.exchange())
    calls.entra.new_secret("api")
    accepted(await calls.exchange())


async def test_all_secrets_expire(calls: Calls) -> None:
    """An expiry is that of every secret of before."""
    old = [secret_of(calls.entra.registration()), calls.entra.new_secret()]
    calls.entra.expire_secret()
    for secret in old:
        refused(7000222, await calls.exchange(client_secret=secret))
    accepted(await calls.exchange())


# certificates


@pytest.mark.parametrize("form", ["pem", "key_and_pem", "bytes", "der", "certificate"])
async def test_certificate_is_registered_in_any_form(calls: Calls, form: str) -> None:
    """A certificate may be given as PEM, with its key, as DER, or as an object."""
    own = material()
    forms: dict[str, Any] = {
        "pem": own.pem,
        "key_and_pem": own.key_pem + own.pem,
        "bytes": own.pem.encode(),
        "der": own.der,
        "certificate": own.certificate,
    }
    refused(700027, await ask(calls, own.sign(own_claims(calls.entra))))
    thumbprint = calls.entra.add_certificate(forms[form])
    assert own.certificate.fingerprint(hashes.SHA1()).hex().upper() == thumbprint
    accepted(await ask(calls, own.sign(own_claims(calls.entra))))
    calls.entra.remove_certificate(forms[form])
    refused(700027, await ask(calls, own.sign(own_claims(calls.entra))))


@pytest.mark.parametrize(
    "form", ["sha1 hex", "sha1 colons", "sha256 hex", "sha1 base64url", "sha256 base64url"]
)
def test_certificate_is_removed_by_any_thumbprint(entra: FakeEntra, form: str) -> None:
    """A thumbprint may be SHA-1 or SHA-256, in hexadecimal or as in a header."""
    own, name = material(), form.split()[0]
    algorithm = hashes.SHA1() if name == "sha1" else hashes.SHA256()
    digest = own.certificate.fingerprint(algorithm)
    text = {"hex": digest.hex(), "colons": digest.hex(":").upper()}.get(
        form.split()[1], own.thumbprint(algorithm)
    )
    entra.add_certificate(material("older").pem)
    entra.add_certificate(own.pem)
    entra.remove_certificate(text)
    with pytest.raises(LookupError, match="no such certificate"):
        entra.remove_certificate(text)


def test_certificate_needs_an_rsa_key(entra: FakeEntra) -> None:
    """What Entra does not take is refused when it is registered."""
    with pytest.raises(ValueError, match="RSA"):
        entra.add_certificate(material("curve", curve=True).pem)


SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()
Headers = Callable[[Material], dict[str, Any]]


@pytest.mark.parametrize("alg", ["PS256", "RS256"])
@pytest.mark.parametrize(
    "headers",
    [
        lambda own: {"x5t#S256": own.thumbprint(SHA256)},
        lambda own: {"x5t": own.thumbprint(SHA1)},
        lambda own: {"x5t": own.thumbprint(SHA1) + "="},
        lambda own: {"x5t": own.thumbprint(SHA1), "x5t#S256": own.thumbprint(SHA256)},
        lambda own: {"x5c": own.x5c},
        lambda own: {"x5t#S256": own.thumbprint(SHA256), "x5c": own.x5c},
    ],
)
async def test_certificate_is_named_by_the_header(calls: Calls, alg: str, headers: Headers) -> None:
    """Either thumbprint, both, or the certificate itself names it, under either algorithm."""
    own = material()
    calls.entra.add_certificate(material("older").pem)
    calls.entra.add_certificate(own.pem)
    accepted(await ask(calls, own.sign(own_claims(calls.entra), alg, headers(own))))


Forge = Callable[[FakeEntra], str]


def forged(header: Headers | None = None, by: str | None = None, **claims: Any) -> Forge:
    """Return how an assertion that is wrong in one thing is made."""

    def forge(entra: FakeEntra) -> str:
        own = material()
        signer = Material(material(by).key, own.certificate) if by else own
        return signer.sign(own_claims(entra, **claims), headers=header(own) if header else None)

    return forge


@pytest.mark.parametrize(
    ("number", "forge"),
    [
        (50012, lambda entra: "not a token"),
        (50012, lambda entra: ""),
        (700021, forged(iss="somebody")),
        (700021, forged(sub="somebody")),
        (700021, forged(iss=None)),
        (700027, forged(by="another key")),
        (700027, forged(lambda own: {"x5t#S256": "unknown"})),
        (700027, forged(lambda own: {"kid": "nothing else"})),
        (700027, forged(lambda own: {"x5t": own.thumbprint(SHA1), "x5t#S256": "unknown"})),
        (700027, forged(lambda own: {"x5c": material("another").x5c})),
        (700027, lambda entra: jwt.encode(own_claims(entra), "k" * 32, algorithm="HS256")),
        (50012, forged(lambda own: {"x5c": "text"})),
        (50012, forged(lambda own: {"x5c": []})),
        (50012, forged(lambda own: {"x5c": [1]})),
        (50012, forged(lambda own: {"x5c": ["AAAA"]})),
        (700023, forged(aud="https://login.microsoftonline.com")),
        (700023, forged(aud=["a", "list"])),
        (700023, forged(aud=None)),
        (50012, forged(exp=None)),
        (50012, forged(exp="soon")),
        (50012, forged(nbf=None)),
        (50012, forged(nbf=True)),
        (700024, forged(exp=int(time.time()) - 1)),
        (700024, lambda entra: forged(nbf=int(time.time()) + 310)(entra)),
        (50012, forged(jti=None)),
        (50012, forged(jti=1)),
    ],
)
async def test_bad_assertion(calls: Calls, number: int, forge: Forge) -> None:
    """An assertion that is wrong in one thing is refused by that thing's number."""
    calls.entra.add_certificate(material().pem)
    refused(number, await ask(calls, forge(calls.entra)))


async def test_expired_certificate(calls: Calls) -> None:
    """A certificate that is registered but over is refused."""
    own = material("expired", days=(-9, -1))
    calls.entra.add_certificate(own.pem)
    refused(700027, await ask(calls, own.sign(own_claims(calls.entra))))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_issuer_url_as_audience(calls: Calls, claim: str) -> None:
    """The tenant's issuer is an audience as well, and ``iat`` does for ``nbf``."""
    own = material()
    calls.entra.add_certificate(own.pem)
    audience = f"{calls.entra.authority}/{calls.entra.tenant_id}/v2.0"
    times = {"nbf": None, claim: int(time.time()) + 299}
    accepted(await ask(calls, own.sign(own_claims(calls.entra, aud=audience, **times))))


@pytest.mark.parametrize("kind", [None, "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"])
async def test_assertion_without_its_type(calls: Calls, kind: str | None) -> None:
    """An assertion counts only together with its type."""
    own = material()
    calls.entra.add_certificate(own.pem)
    assertion = own.sign(own_claims(calls.entra))
    refused(7000218, await ask(calls, assertion, client_assertion_type=kind))


async def test_certificate_of_another_app(calls: Calls) -> None:
    """A certificate authenticates the app at which it is registered alone."""
    own = material()
    calls.entra.add_certificate(own.pem, app=PARTNER)
    refused(700027, await ask(calls, own.sign(own_claims(calls.entra))))
    partner = calls.entra.client_id(PARTNER)
    assertion = own.sign(assertion_claims(partner, endpoint(calls.entra)))
    accepted(await ask(calls, assertion, client_id=partner))
    refused(700021, await ask(calls, assertion))


async def test_assertion_is_good_until_it_expires(calls: Calls) -> None:
    """An assertion may come again; its ``jti`` is recorded each time, and None without one."""
    own = material()
    calls.entra.add_certificate(own.pem)
    assertion = own.sign(own_claims(calls.entra, jti="the id"))
    for _ in range(2):
        accepted(await ask(calls, assertion))
    await ask(calls, own.sign(own_claims(calls.entra, jti=7)))
    accepted(await calls.exchange())
    assert ["the id", "the id", None, None] == [
        request.client_assertion_id for request in calls.entra.requests
    ]


async def test_every_grant_takes_an_assertion(calls: Calls) -> None:
    """Exchange, refresh and code are served to a client with a certificate alone."""
    own, entra = material(), calls.entra
    entra.add_certificate(own.pem)
    entra.remove_secrets()
    fields: dict[str, Any] = {
        "client_secret": None,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": own.sign(own_claims(entra)),
    }
    answer = await calls.exchange(scope=f"{PARTNER}/read offline_access", **fields)
    accepted(answer)
    refresh_token = answer.json()["refresh_token"]
    accepted(await calls.token(grant_type="refresh_token", refresh_token=refresh_token, **fields))
    api = entra.client_id("api")
    fields |= {"client_id": api, "scope": f"{PARTNER}/read"}
    signed_in = await calls.sign_in(client_id=api, scope=f"{PARTNER}/read")
    accepted(await calls.redeem(signed_in["code"], **fields))


async def test_assertion_of_a_guests_tenant(calls: Calls) -> None:
    """The audience is the endpoint of the tenant that is asked, not of the app's home."""
    other, own = "11111111-2222-3333-4444-555555555555", material()
    calls.entra.add_tenant(other)
    calls.entra.add_certificate(own.pem)
    fields: dict[str, Any] = {
        "tenant": other,
        "client_secret": None,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
    }
    user = calls.entra.token(tenant=other)
    home = own.sign(own_claims(calls.entra))
    refused(700023, await calls.exchange(user, client_assertion=home, **fields))
    audience = f"{calls.entra.authority}/{other}/oauth2/v2.0/token"
    guest = own.sign(own_claims(calls.entra, aud=audience))
    accepted(await calls.exchange(user, client_assertion=guest, **fields))


# subject name and issuer


def root() -> Material:
    return material("root.example", is_authority=True)


def middle(**options: Any) -> Material:
    return material("middle.example", issuer=root(), **{"is_authority": True, **options})


@pytest.mark.parametrize("subject", ["leaf.example", "CN=leaf.example", "san.example"])
@pytest.mark.parametrize("issuer", [root, middle])
@pytest.mark.parametrize("with_root", [True, False])
async def test_trusted_subject(
    calls: Calls, subject: str, issuer: Callable[[], Material], with_root: bool
) -> None:
    """A certificate of a trusted authority is good for its subject, by any of its names."""
    leaf = material("leaf.example", issuer=issuer(), dns="san.example")
    calls.entra.trust_subject(subject, root().pem)
    x5c = leaf.x5c if with_root else leaf.x5c[:-1]
    headers = {"x5t#S256": leaf.thumbprint(SHA256), "x5c": x5c}
    accepted(await ask(calls, leaf.sign(own_claims(calls.entra), headers=headers)))
    refused(700027, await ask(calls, leaf.sign(own_claims(calls.entra))))


@pytest.mark.parametrize(
    ("number", "leaf"),
    [
        (700030, lambda: material("other.example", issuer=root())),
        (700027, lambda: material("leaf.example")),
        (700027, lambda: material("leaf.example", issuer=middle(is_authority=False))),
        (700027, lambda: material("leaf.example", issuer=middle(days=(-9, -1)))),
        (700027, lambda: material("leaf.example", issuer=root(), days=(-9, -1))),
        (700027, lambda: material("leaf.example", issuer=material("fake", is_authority=True))),
        (700027, lambda: Material(root().key, material("leaf.example").certificate)),
        (
            700027,
            lambda: Material(
                material("leaf.example").key,
                material("leaf.example", issuer=middle()).certificate,
                (root().certificate,),
            ),
        ),
        (700027, lambda: material("leaf.example", issuer=root(), curve=True)),
    ],
)
async def test_untrusted_subject(calls: Calls, number: int, leaf: Callable[[], Material]) -> None:
    """Another subject, a broken or expired chain, and a leaf that signs are refused."""
    calls.entra.trust_subject("leaf.example", root().pem)
    own = leaf()
    alg = "PS256" if isinstance(own.key, type(root().key)) else "ES256"
    assertion = own.sign(own_claims(calls.entra), alg, {"x5c": own.x5c})
    refused(number, await ask(calls, assertion))


# federated credentials


async def test_federated_token_is_a_client_assertion(calls: Calls) -> None:
    """The token that Kubernetes mounts authenticates the app that trusts its account."""
    refused(70021, await ask(calls, calls.entra.federated_token()))
    calls.entra.add_federated_credential(subject=SUBJECT)
    accepted(await ask(calls, calls.entra.federated_token()))
    accepted(await ask(calls, calls.entra.federated_token(aud=EXCHANGE)))
    calls.entra.remove_federated_credentials()
    refused(70021, await ask(calls, calls.entra.federated_token()))


async def test_one_of_several_federated_credentials(calls: Calls) -> None:
    """Issuer, subject and audience must be those of one credential together."""
    for issuer, subject, audience in [("a", "s", "x"), ("a", "t", "y"), ("b", "s", "y")]:
        calls.entra.add_federated_credential(
            issuer=f"https://{issuer}.example", subject=subject, audience=f"api://{audience}"
        )
    for issuer, subject, audience, number in [
        ("a", "s", "x", None),
        ("a", "t", "y", None),
        ("a", "s", "y", 700212),
        ("b", "t", "y", 700213),
        ("c", "s", "x", 700211),
    ]:
        assertion = calls.entra.federated_token(
            subject, issuer=f"https://{issuer}.example", audience=f"api://{audience}"
        )
        response = await ask(calls, assertion)
        assert (200 if number is None else 401) == response.status_code
        assert number is None or [number] == response.json()["error_codes"]


FORGERIES: list[tuple[int, Callable[[FakeEntra], str]]] = [
    (700211, lambda entra: entra.federated_token(issuer=OTHER_ISSUER)),
    (700211, lambda entra: entra.federated_token(iss="https://oidc.fake-aks.example")),
    (700213, lambda entra: entra.federated_token("system:serviceaccount:default:API")),
    (700213, lambda entra: entra.federated_token(sub=None)),
    (700212, lambda entra: entra.federated_token(audience="api://azureadtokenexchange")),
    (700212, lambda entra: entra.federated_token(aud=None)),
    (700024, lambda entra: entra.federated_token(lifetime=-1)),
    (700024, lambda entra: entra.federated_token(nbf=int(time.time()) + 400)),
    (50012, lambda entra: entra.federated_token(exp=None)),
    (700027, lambda entra: entra.federated_token(issuer=OTHER_ISSUER, iss=ISSUER)),
    (700027, lambda entra: entra.federated_token()[:-8] + "AAAAAAAA"),
]
ISSUER = "https://oidc.fake-aks.example/"


@pytest.mark.parametrize(("number", "forge"), FORGERIES)
async def test_bad_federated_token(calls: Calls, number: int, forge: Forge) -> None:
    """A token that is not exactly of the trusted issuer, subject and audience is refused."""
    calls.entra.add_federated_credential(issuer=ISSUER, subject=SUBJECT)
    refused(number, await ask(calls, forge(calls.entra)))


async def test_federated_token_of_an_unknown_key(calls: Calls) -> None:
    """A key id that the issuer does not have is refused."""
    calls.entra.add_federated_credential(subject=SUBJECT)
    claims = claims_of(calls.entra.federated_token())
    stranger = calls.entra.unpublished_key()
    assertion = jwt.encode(
        claims, stranger.private_key, algorithm="RS256", headers={"kid": stranger.kid}
    )
    refused(700027, await ask(calls, assertion))


def test_issuers_have_keys_of_their_own(entra: FakeEntra) -> None:
    """Each issuer signs with one key, which is not that of another or of the service."""
    kids = [
        jwt.get_unverified_header(token)["kid"]
        for token in (
            entra.federated_token(),
            entra.federated_token("another"),
            entra.federated_token(issuer=OTHER_ISSUER),
            entra.token(),
        )
    ]
    assert kids[0] == kids[1]
    assert 3 == len(set(kids))


@pytest.mark.parametrize("number", [700021, 700023, 700024, 70021, 700211, 700212, 700213])
def test_rows_of_clients(number: int) -> None:
    """The refusals of a client assertion are those of a client."""
    row = AADSTS[number]
    assert (401, "invalid_client", None, False) == row[:4]
