"""`FakeEntra.token`: good tokens, and forged ones of every kind."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from obo_asgi import testing
from obo_asgi.config import ANY_TENANT
from obo_asgi.testing import FakeEntra
from tests.testing.calls import PARTNER, claims_of, secret_of

OTHER_TENANT = "11111111-2222-3333-4444-555555555555"


def published(entra: FakeEntra) -> Any:
    return entra._world.keys.current.private_key.public_key()


def test_public_names() -> None:
    """The package lists what is public, sorted."""
    names = ["FakeCall", "FakeDownstream", "FakeEntra", "fake_downstream", "serve"]
    assert names == testing.__all__


def test_token_for_the_api_is_good_for_its_registration(entra: FakeEntra) -> None:
    """A plain token has the issuer, audience, user and scope that the registration expects."""
    registration = entra.registration()
    claims = jwt.decode(
        entra.token(),
        published(entra),
        algorithms=["RS256"],
        audience=registration.client_id,
        issuer=f"{entra.authority}/{entra.tenant_id}/v2.0",
    )
    assert ("access_as_user", "2.0") == (claims["scp"], claims["ver"])
    assert (entra.tenant_id, entra.user("alice").oid) == (claims["tid"], claims["oid"])
    assert (entra.client_id("spa"), "0") == (claims["azp"], claims["azpacr"])


def test_bearer_is_a_header_with_such_a_token(entra: FakeEntra) -> None:
    """The header has the token of the same arguments, after the scheme."""
    scheme, token = entra.bearer("bob", "read", version="1.0")["Authorization"].split(" ")
    assert ("Bearer", "read", "1.0") == (scheme, claims_of(token)["scp"], claims_of(token)["ver"])


def test_v1_token_has_v1_claims(entra: FakeEntra) -> None:
    """A v1 token has the v1 issuer, the identifier URI as audience, ``appid`` and ``upn``."""
    registration = entra.registration()
    claims = claims_of(entra.token("bob", version="1.0"))
    assert f"https://sts.windows.net/{entra.tenant_id}/" == claims["iss"]
    assert f"api://{registration.client_id}" == claims["aud"]
    assert ("bob@contoso.example", entra.client_id()) == (claims["upn"], claims["appid"])
    assert "azp" not in claims


def test_users_are_told_apart(entra: FakeEntra) -> None:
    """Two users have different object ids and subjects, the same in every instance."""
    alice, bob = claims_of(entra.token("alice")), claims_of(entra.token("bob"))
    assert len({alice["oid"], bob["oid"], alice["sub"], bob["sub"]}) == 4
    assert alice["oid"] == claims_of(FakeEntra().token("alice"))["oid"]


def test_unknown_names_are_lookup_errors(entra: FakeEntra) -> None:
    """A user or app that nobody added is a mistake in the test, and the error says what to do."""
    with pytest.raises(LookupError, match="add_user"):
        entra.token("carol")
    with pytest.raises(LookupError, match="add_api or add_client"):
        entra.client_id("nothing")
    entra.add_user("carol", display_name="Carol <C>")
    assert "Carol <C>" == claims_of(entra.token("carol"))["name"]


def test_guest_has_another_object_id(entra: FakeEntra) -> None:
    """A user in another tenant is another object there, named by that tenant's issuer."""
    entra.add_tenant(OTHER_TENANT)
    home, guest = claims_of(entra.token()), claims_of(entra.token(tenant=OTHER_TENANT))
    assert home["oid"] != guest["oid"]
    assert f"{entra.authority}/{OTHER_TENANT}/v2.0" == guest["iss"]
    assert entra.user("alice", tenant=OTHER_TENANT).oid == guest["oid"]


def test_token_of_a_tenant_that_does_not_exist(entra: FakeEntra) -> None:
    """A token can name a tenant that the service does not have, without adding it."""
    claims = claims_of(entra.token(tenant=OTHER_TENANT))
    assert OTHER_TENANT == claims["tid"]
    assert not entra._world.directory.has_tenant(OTHER_TENANT)


@pytest.mark.parametrize("tenant", [None, OTHER_TENANT])
def test_app_only_token(entra: FakeEntra, tenant: str | None) -> None:
    """A token without a user has ``idtyp`` app, its service principal as subject, and no scope."""
    claims = claims_of(entra.token(None, tenant=tenant, client="api", roles=["Admin"]))
    assert "app" == claims["idtyp"]
    assert claims["oid"] == claims["sub"]
    assert ["Admin"] == claims["roles"]
    assert "scp" not in claims


@pytest.mark.parametrize(
    ("arguments", "claim", "expected"),
    [
        ({"audience": "https://graph.microsoft.com"}, "aud", "https://graph.microsoft.com"),
        ({"audience": "anything"}, "aud", "anything"),
        ({"iss": "https://evil.example/"}, "iss", "https://evil.example/"),
        ({"scp": None}, "scp", None),
        ({"scp": "read write"}, "scp", "read write"),
        ({"exp": None}, "exp", None),
        ({"exp": "soon"}, "exp", "soon"),
        ({"nbf": 9999999999}, "nbf", 9999999999),
        ({"idtyp": "app"}, "idtyp", "app"),
        ({"roles": ["Admin"]}, "roles", ["Admin"]),
    ],
)
def test_claims_can_be_forged(
    entra: FakeEntra, arguments: dict[str, Any], claim: str, expected: object
) -> None:
    """Every claim can be replaced, and deleted by None."""
    assert expected == claims_of(entra.token(**arguments)).get(claim)


def test_lifetime(entra: FakeEntra) -> None:
    """Tokens live as long as is said, also into the past; by default an hour."""
    assert time.time() + 3600 == pytest.approx(claims_of(entra.token())["exp"], abs=5)
    assert time.time() - 60 == pytest.approx(claims_of(entra.token(lifetime=-60))["exp"], abs=5)
    entra.token_lifetime = 60
    assert 60 == entra.token_lifetime
    assert time.time() + 60 == pytest.approx(claims_of(entra.token())["exp"], abs=5)


def test_headers_can_be_forged(entra: FakeEntra) -> None:
    """Header parameters can be replaced, and deleted by None."""
    token = entra.token(headers={"typ": "at+jwt", "kid": None, "jku": "https://evil.example"})
    assert {"alg": "RS256", "typ": "at+jwt", "jku": "https://evil.example"} == (
        jwt.get_unverified_header(token)
    )


def test_another_key_signs_under_its_own_id_or_under_ours(entra: FakeEntra) -> None:
    """A key of the service keeps its ``kid``; a raw key claims to be the published one."""
    stranger = entra.unpublished_key()
    own_kid = jwt.get_unverified_header(entra.token())["kid"]
    keys: list[tuple[Any, str]] = [(stranger, stranger.kid), (stranger.private_key, own_kid)]
    for key, kid in keys:
        token = entra.token(key=key)
        assert kid == jwt.get_unverified_header(token)["kid"]
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, published(entra), algorithms=["RS256"], options={"verify_aud": False})


def test_none_leaves_the_signature_out(entra: FakeEntra) -> None:
    """An ``alg`` of none makes the unsigned token of RFC 7515's famous mistake."""
    token = entra.token(headers={"alg": "none"})
    assert token.endswith(".")
    assert "none" == jwt.get_unverified_header(token)["alg"]


@pytest.mark.parametrize(
    ("key", "alg", "usual"),
    [
        (b"a shared secret of thirty-two bytes", None, "HS256"),
        (b"a shared secret of thirty-two bytes", "HS256", "HS256"),
        (ec.generate_private_key(ec.SECP256R1()), None, "ES256"),
        (None, "RS512", "RS512"),
        (None, "PS256", "PS256"),
    ],
)
def test_algorithms(entra: FakeEntra, key: Any, alg: str | None, usual: str) -> None:
    """A key signs by its usual algorithm, or by the one named that it can do."""
    token = entra.token(key=key, headers={"alg": alg} if alg else None)
    public = key if isinstance(key, bytes) else key.public_key() if key else published(entra)
    claims = jwt.decode(token, public, algorithms=[usual], options={"verify_aud": False})
    assert "access_as_user" == claims["scp"]


@pytest.mark.parametrize("alg", ["HS256", "nonsense", ["RS256"]])
def test_unfit_algorithm_stays_in_the_header(entra: FakeEntra, alg: object) -> None:
    """An ``alg`` that the key cannot do is kept as a lie."""
    header = entra.token(headers={"alg": alg}).partition(".")[0]
    assert alg == json.loads(base64.urlsafe_b64decode(header + "=="))["alg"]


def test_downstream_registration_can_be_protected(entra: FakeEntra) -> None:
    """An added API has ids and a secret of its own, and its identifier URI exactly."""
    partner = entra.add_api(PARTNER, scopes=["read"])
    assert (PARTNER, partner.client_id) == partner.audiences
    assert entra.registration().client_id != partner.client_id
    assert secret_of(entra.registration()) != secret_of(partner)
    assert partner == entra.registration(PARTNER, client_credential=partner.client_credential)
    assert partner.client_id == entra.add_api(PARTNER, scopes=["write"]).client_id


def test_registration_takes_overrides(entra: FakeEntra) -> None:
    """Any field of the registration can differ."""
    registration = entra.registration(allowed_tenants=ANY_TENANT, audiences=["api://x"])
    assert ANY_TENANT is registration.allowed_tenants
    assert ("api://x",) == registration.audiences


def test_token_for_another_api(entra: FakeEntra) -> None:
    """A token for a downstream API has that API's own subject for the user."""
    entra.add_api(PARTNER, scopes=["read"])
    ours, theirs = claims_of(entra.token()), claims_of(entra.token(audience=PARTNER))
    assert PARTNER == theirs["aud"]
    assert ours["sub"] != theirs["sub"]
    assert ours["oid"] == theirs["oid"]
