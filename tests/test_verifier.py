"""The verifier: only a user's own access token for this API gets in, all else is told apart."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from obo_asgi import (
    ANY_TENANT,
    AppRegistration,
    ExpiredTokenError,
    InsufficientScopeError,
    InvalidTokenError,
    KeysUnavailableError,
    OnBehalfOf,
    any_of,
)
from obo_asgi.metadata import MAX_AGE, Metadata
from obo_asgi.testing import FakeEntra
from obo_asgi.tokens import token_digest
from obo_asgi.verifier import Verifier

pytestmark = pytest.mark.anyio

OTHER_TENANT = "22222222-2222-4222-8222-222222222222"
TEMPLATE = "{tenantid}"
GRAPH = "https://graph.microsoft.com"
EVIL = "https://evil.example"
NOW = 1_800_000_000.0
ES256_KEY = ec.generate_private_key(ec.SECP256R1())

Forge = Callable[[FakeEntra], str]


@pytest.fixture
def entra() -> FakeEntra:
    return FakeEntra()


def api(entra: FakeEntra, registration: dict[str, Any] | None = None, **options: Any) -> OnBehalfOf:
    options.setdefault("http_client", entra.client())
    return OnBehalfOf(entra.registration(**(registration or {})), **options)


def token(*args: Any, **fields: Any) -> Forge:
    return lambda entra: entra.token(*args, **fields)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=="))


def with_fields(part: str, **fields: str) -> str:
    return encode(json.dumps(decode(part) | fields).encode())


def json_text(fields: dict[str, Any], raw: dict[str, str]) -> bytes:
    """Return a JSON object in which some fields are raw text; an empty text leaves one out."""
    texts = {name: json.dumps(value) for name, value in fields.items()} | raw
    return (
        "{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if text) + "}"
    ).encode()


def sign(header: bytes, claims: bytes, key: rsa.RSAPrivateKey) -> str:
    signing_input = f"{encode(header)}.{encode(claims)}"
    signature = key.sign(signing_input.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signing_input}.{encode(signature)}"


def raw(header: dict[str, str] | None = None, /, **claims: str) -> Forge:
    """Sign a good token some of whose fields are raw JSON text, with a published key."""

    def forge(entra: FakeEntra) -> str:
        key = entra.add_key()
        good = entra.token(key=key).split(".")
        return sign(
            json_text(decode(good[0]), header or {}),
            json_text(decode(good[1]), claims),
            key.private_key,
        )

    return forge


def raw_parts(header: bytes | None = None, claims: bytes | None = None) -> Forge:
    """Sign bytes of one's own as header or claims, with a published key."""

    def forge(entra: FakeEntra) -> str:
        key = entra.add_key()
        good = [json.dumps(decode(part)).encode() for part in entra.token(key=key).split(".")[:2]]
        return sign(header or good[0], claims or good[1], key.private_key)

    return forge


def reworked(change: Callable[[str, str, str], str]) -> Forge:
    """Change a good token after it was signed: header, claims and signature as text."""
    return lambda entra: change(*entra.token().split("."))


async def refusal(obo: OnBehalfOf, token: str) -> InvalidTokenError:
    with pytest.raises(InvalidTokenError) as caught:
        await obo.verify(token)
    return caught.value


# --- Good tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registration", "tenant"),
    [
        ({}, None),
        ({"allowed_tenants": [FakeEntra().tenant_id, OTHER_TENANT]}, None),
        ({"allowed_tenants": [FakeEntra().tenant_id, OTHER_TENANT]}, OTHER_TENANT),
        ({"allowed_tenants": ANY_TENANT}, OTHER_TENANT),
        ({"tenant_id": "common", "allowed_tenants": ANY_TENANT}, OTHER_TENANT),
        ({"tenant_id": "organizations", "allowed_tenants": [OTHER_TENANT]}, OTHER_TENANT),
    ],
    ids=["single", "list-home", "list-other", "any", "common", "organizations"],
)
async def test_both_versions_are_accepted_side_by_side(
    entra: FakeEntra, registration: dict[str, Any], tenant: str | None
) -> None:
    """One object verifies v1 and v2 tokens, for one tenant, for some, and for any."""
    entra.add_tenant(OTHER_TENANT)
    obo = api(entra, registration)
    users = [
        await obo.verify(entra.token(version=version, tenant=tenant)) for version in ("1.0", "2.0")
    ]
    expected = entra.user("alice", tenant=tenant)
    assert [(expected.tenant_id, expected.oid)] * 2 == [(user.tid, user.oid) for user in users]
    assert ["1.0", "2.0"] == [user.claims["ver"] for user in users]


async def test_the_user_is_what_the_token_says(entra: FakeEntra) -> None:
    """A verified token becomes a user with scopes, roles, claims and an end, who is no app."""
    good = entra.token(scp="read access_as_user", roles=["Admin"], lifetime=600)
    user = await api(entra).verify(good)
    assert ("read", "access_as_user") == user.scopes
    assert ("Admin",) == user.roles
    assert decode(good.split(".")[1]) == dict(user.claims)
    assert decode(good.split(".")[1])["exp"] == user.expires_at
    assert not user.is_app


async def test_scopes_make_a_user(entra: FakeEntra) -> None:
    """A token with scopes is a user's, even if its ``sub`` is its ``oid``."""
    assert not (await api(entra).verify(entra.token(oid="same", sub="same"))).is_app


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
async def test_the_types_of_access_tokens_are_accepted(entra: FakeEntra, typ: str) -> None:
    """The allowed types are compared without regard to case (RFC 9068 section 4)."""
    assert ("access_as_user",) == (
        await api(entra).verify(entra.token(headers={"typ": typ}))
    ).scopes


@pytest.mark.parametrize("audience", ["client id", "identifier URI"])
async def test_each_configured_audience_is_accepted(entra: FakeEntra, audience: str) -> None:
    """The client id and the Application ID URI are both this API."""
    registration = entra.registration()
    value = registration.client_id if audience == "client id" else f"api://{registration.client_id}"
    user = await api(entra, {"audiences": None}).verify(entra.token(audience=value))
    assert value == user.claims["aud"]


async def test_a_double_space_separates_scopes_like_one(entra: FakeEntra) -> None:
    """Scopes are split on spaces, and an empty one between two spaces is none."""
    obo = api(entra, required_scopes=["read", "write"])
    assert ("read", "write") == (await obo.verify(entra.token(scp=" read  write "))).scopes


# --- Forged and foreign tokens ------------------------------------------------------------------


def _signed_with_the_public_key(entra: FakeEntra) -> str:
    """Sign by HMAC with a published key as the secret, under that key's id."""
    key = entra.add_key()
    public = key.private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return entra.token(key=public, headers={"kid": key.kid})


# By code and claim of the error: what is wrong, and how such a token is made.
REFUSED: dict[tuple[str, str | None], dict[str, Forge]] = {
    ("audience", "aud"): {
        "aud-other": token(audience="api://other"),
        "aud-absent": token(aud=None),
        "aud-list": lambda e: e.token(aud=[e.registration().client_id]),
        "aud-case": lambda e: e.token(aud=e.registration().client_id.upper()),
        "aud-slash": lambda e: e.token(aud=e.registration().client_id + "/"),
        "aud-empty": token(aud=""),
        "aud-null": raw(aud="null"),
        "graph-without-nonce": token(audience=GRAPH, version="1.0"),
    },
    ("nonce", "nonce"): {
        "graph-with-nonce": token(audience=GRAPH, version="1.0", headers={"nonce": "n"}),
        "nonce": token(headers={"nonce": "n"}),
    },
    ("scope", "scp"): {
        "id-token": token(scp=None),
        "id-token-oid-is-sub": token(scp=None, azp=None, oid="same", sub="same"),
        "user-without-scp": token(scp=None, idtyp="user"),
        "roles-no-scp": token(scp=None, roles=["access_as_user"]),
        "scp-empty": token(scp=""),
        "scp-blank": token(scp="   "),
        "scp-list": raw(scp='["access_as_user"]'),
        "scp-null": raw(scp="null"),
        "scp-number": raw(scp="7"),
    },
    ("roles", "roles"): {
        "roles-string": raw(roles='"Admin"'),
        "roles-numbers": raw(roles="[7]"),
        "roles-null": raw(roles="null"),
    },
    ("oid", "oid"): {
        "oid-missing": token(oid=None),
        "oid-empty": token(oid=""),
        "oid-number": raw(oid="7"),
    },
    ("binding", "cnf"): {
        "cnf": token(cnf={"jkt": "0ZcOCORZNYy"}),
        "cnf-null": raw(cnf="null"),
    },
    ("version", "ver"): {
        "ver-missing": token(ver=None),
        "ver-3.0": token(ver="3.0"),
        "ver-number": raw(ver="2.0"),
        "ver-list": raw(ver='["2.0"]'),
        "claims-empty": raw_parts(claims=b"{}"),
    },
    ("tenant", "tid"): {
        "tid-missing": token(tid=None),
        "tid-name": token(tid="contoso.example"),
        "tid-common": token(tid="common"),
        "tid-newline": lambda e: e.token(tid=e.tenant_id + "\n"),
        "tid-list": lambda e: e.token(tid=[e.tenant_id]),
        "tid-upper-case": lambda e: e.token(tid=e.tenant_id.upper()),
        "tid-template": token(tid=TEMPLATE),
        "tid-not-allowed": token(tenant=OTHER_TENANT),
        "tid-not-of-iss": token(tid=OTHER_TENANT),
    },
    ("issuer", "iss"): {
        "iss-missing": token(iss=None),
        "iss-list": lambda e: e.token(iss=[f"{e.authority}/{e.tenant_id}/v2.0"]),
        "iss-other": lambda e: e.token(iss=f"{e.authority}/{OTHER_TENANT}/v2.0"),
        "iss-template": lambda e: e.token(iss=f"{e.authority}/{TEMPLATE}/v2.0"),
        "iss-slash": lambda e: e.token(iss=f"{e.authority}/{e.tenant_id}/v2.0/"),
        "iss-other-cloud": lambda e: e.token(
            iss=f"https://login.microsoftonline.us/{e.tenant_id}/v2.0"
        ),
        "iss-v1-no-slash": lambda e: e.token(
            version="1.0", iss=f"https://sts.windows.net/{e.tenant_id}"
        ),
        "iss-v1-ver-2": token(version="1.0", ver="2.0"),
        "iss-v2-ver-1": token(version="2.0", ver="1.0"),
        "key-of-another-tenant": lambda e: e.token(key=e.add_key(tenant=OTHER_TENANT)),
    },
    ("algorithm", "alg"): {
        "hs256-public-key": _signed_with_the_public_key,
        "none-signed": lambda e: e.token(headers={"alg": "none"}) + "AA",
        **{
            f"alg-{alg}": token(headers={"alg": alg})
            for alg in ("RS384", "RS512", "PS256", "HS256", "EdDSA", "rs256", "RS256 ", "")
        },
        "alg-ES256": token(key=ES256_KEY),
        "alg-missing": raw({"alg": ""}),
        "alg-list": raw({"alg": '["RS256"]'}),
        "alg-null": raw({"alg": "null"}),
    },
    ("type", "typ"): {
        "typ-missing": token(headers={"typ": None}),
        **{
            f"typ-{typ}": token(headers={"typ": typ})
            for typ in ("", "JWE", "dpop+jwt", "id_token+jwt", "logout+jwt", "JWT ", 7, ["JWT"])
        },
    },
    ("key", "kid"): {
        "unknown-key": lambda e: e.token(key=e.unpublished_key()),
        "kid-missing": token(headers={"kid": None}),
        "kid-empty": token(headers={"kid": ""}),
        "kid-257": token(headers={"kid": "k" * 257}),
        "kid-256": token(headers={"kid": "k" * 256}),
        "kid-list": token(headers={"kid": ["k"]}),
        "kid-object": token(headers={"kid": {"k": 1}}),
        "kid-number": token(headers={"kid": 7}),
        "kid-path": token(headers={"kid": "../../../dev/null"}),
        "kid-sql": token(headers={"kid": "x' OR '1'='1"}),
        "kid-crlf": token(headers={"kid": "k\r\nSet-Cookie: a=b"}),
        "kid-nul": token(headers={"kid": "\x00"}),
        "kid-unicode": token(headers={"kid": "ключ\u202e"}),
    },
    ("critical", "crit"): {
        "crit": token(headers={"crit": ["exp"], "exp": 1}),
        "crit-empty": token(headers={"crit": []}),
        "b64-crit": token(headers={"b64": False, "crit": ["b64"]}),
        "b64": token(headers={"b64": True}),
    },
    ("signature", None): {
        "zeros": reworked(lambda h, c, s: f"{h}.{c}.{encode(bytes(256))}"),
        "truncated": reworked(lambda h, c, s: f"{h}.{c}.{s[:-2]}"),
        "tampered-signature": reworked(lambda h, c, s: f"{h}.{c}.{s[4:8] + s[4:]}"),
        "tampered-claims": reworked(lambda h, c, s: f"{h}.{with_fields(c, scp='admin')}.{s}"),
        "tampered-header": reworked(lambda h, c, s: f"{with_fields(h, x='1')}.{c}.{s}"),
        "other-key": lambda e: e.token(key=e.unpublished_key(), headers={"kid": e.add_key().kid}),
        "ES256-says-RS256": token(key=ES256_KEY, headers={"alg": "RS256"}),
    },
    **{
        ("time", name): {
            f"{name}-{text[:12]}": raw(**{name: text})
            for text in ('"1800000000"', "true", "null", "[1]", "{}", "1" + "0" * 400)
        }
        for name in ("exp", "nbf", "iat")
    },
    ("malformed", None): {
        **{
            f"{name}-{text}": raw(**{name: text})
            for name in ("exp", "nbf", "iat")
            for text in ("NaN", "Infinity", "-Infinity", "1e999", "0x7fffffff", "01")
        },
        "twenty-thousand-digits": raw(exp="1" * 20_000),
        "alg-none": token(headers={"alg": "none"}),
        "kid-surrogate": raw({"kid": '"\\ud800"'}),
        "empty": lambda e: "",
        "no-base64": lambda e: "a.b.c",
        "many-dots": lambda e: "." * 32_000,
        "non-ascii": lambda e: "é" + e.token(),
        "claims-list": raw_parts(claims=b"[]"),
        "claims-string": raw_parts(claims=b'"claims"'),
        "claims-deep": raw_parts(claims=b"[" * 20_000),
        "claims-deep-object": raw_parts(claims=b'{"a":' * 4_000 + b"1" + b"}" * 4_000),
        "claims-no-utf8": raw_parts(claims=b'{"ver":"\xff"}'),
        "claims-utf16": raw_parts(claims='{"ver":"2.0"}'.encode("utf-16")),
        "claims-twice": raw_parts(claims=b"{}{}"),
        "header-list": raw_parts(header=b"[]"),
        "header-bom": raw_parts(header=b"\xef\xbb\xbf{}"),
        "signature-empty": reworked(lambda h, c, s: f"{h}.{c}."),
        "signature-missing": reworked(lambda h, c, s: f"{h}.{c}"),
    },
    ("size", None): {
        "too-large": lambda e: e.token() + "A" * 32_768,
        "one-megabyte": lambda e: "A" * 1_000_000,
    },
}


@pytest.mark.parametrize(
    ("forge", "code", "claim"),
    [
        pytest.param(forge, code, claim, id=what)
        for (code, claim), forges in REFUSED.items()
        for what, forge in forges.items()
    ],
)
async def test_what_is_no_good_token_is_refused_with_its_reason(
    entra: FakeEntra, forge: Forge, code: str, claim: str | None
) -> None:
    """Each forged or foreign token is an InvalidTokenError that names what is wrong with it."""
    error = await refusal(api(entra), forge(entra))
    assert (InvalidTokenError, code, claim) == (type(error), error.code, error.claim)


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_a_token_of_the_far_future_is_refused(entra: FakeEntra, name: str) -> None:
    """A start or issue that is finite but absurd is in the future."""
    error = await refusal(api(entra), raw(**{name: "1" + "0" * 30})(entra))
    assert ("time", name) == (error.code, error.claim)


@pytest.mark.parametrize(
    "forge",
    [token(lifetime=-61), token(exp=0), token(exp=-1), token(exp=-1.5e9)],
    ids=["a-minute-ago", "zero", "negative", "negative-float"],
)
async def test_an_expired_token_is_told_apart(entra: FakeEntra, forge: Forge) -> None:
    """A token past its end is an ExpiredTokenError, so that clients know to renew it."""
    error = await refusal(api(entra), forge(entra))
    assert (ExpiredTokenError, "expired", "exp") == (type(error), error.code, error.claim)


@pytest.mark.parametrize(
    "registration",
    [{"allowed_tenants": ANY_TENANT}, {"allowed_tenants": [FakeEntra().tenant_id, OTHER_TENANT]}],
    ids=["any", "list"],
)
@pytest.mark.parametrize(
    "forge",
    [
        lambda e: e.token(tid=OTHER_TENANT),
        lambda e: e.token(iss=f"{e.authority}/{OTHER_TENANT}/v2.0"),
        lambda e: e.token(iss=f"{e.authority}/{TEMPLATE}/v2.0"),
        lambda e: e.token(iss=f"{e.authority}/common/v2.0"),
        lambda e: e.token(key=e.add_key(tenant=OTHER_TENANT)),
        lambda e: e.token(version="1.0", tid=OTHER_TENANT),
    ],
    ids=["tid", "iss", "template", "common", "key", "v1-tid"],
)
async def test_tenants_are_not_mixed_where_several_may_call(
    entra: FakeEntra, registration: dict[str, Any], forge: Forge
) -> None:
    """However many tenants may call: issuer, tenant id and key must be of one and the same."""
    error = await refusal(api(entra, registration), forge(entra))
    assert ("issuer", "iss") == (error.code, error.claim)


async def test_a_tenant_that_is_not_on_the_list_is_refused(entra: FakeEntra) -> None:
    """A list of tenants lets in no other one, although their keys are published together."""
    obo = api(entra, {"tenant_id": "common", "allowed_tenants": [OTHER_TENANT]})
    assert "tenant" == (await refusal(obo, entra.token())).code


@pytest.mark.parametrize("parameter", ["jwk", "jku", "x5u", "x5c", "iss", "x5t"])
async def test_keys_in_the_header_are_ignored(entra: FakeEntra, parameter: str) -> None:
    """A key or address in the header is neither used nor fetched: only the published keys count."""
    attacker = entra.unpublished_key()
    visits = []

    async def evil(scope: Any, receive: Any, send: Any) -> None:
        visits.append(scope["path"])

    value: Any = {"jwk": attacker.jwk(), "x5c": attacker.jwk()["x5c"]}.get(
        parameter, f"{EVIL}/keys"
    )
    known = entra.add_key()
    obo = api(entra, http_client=entra.client(apps={EVIL: evil}))
    forged = entra.token(key=attacker, headers={"kid": known.kid, parameter: value})
    assert "signature" == (await refusal(obo, forged)).code
    good = entra.token(key=known, headers={parameter: value})
    assert ("access_as_user",) == (await obo.verify(good)).scopes
    assert [] == visits
    assert {"metadata": 1, "keys": 1} == entra.counts


async def test_a_token_that_no_key_can_verify_costs_no_fetch(entra: FakeEntra) -> None:
    """What is wrong without a look at the keys is refused before any key is fetched."""
    obo = api(entra)
    for forge in (
        token(audience="api://other"),
        token(lifetime=-61),
        token(tid=OTHER_TENANT),
        token(headers={"kid": "k" * 257}),
    ):
        await refusal(obo, forge(entra))
    assert {} == entra.counts


async def test_reasons_and_reprs_hold_nothing_of_the_token(entra: FakeEntra) -> None:
    """An error's message, arguments and repr are constants of ours, whatever the token says."""
    marker = "m4rk3r"
    obo = api(entra)
    for forge in (
        token(headers={"kid": marker}),
        token(headers={"alg": marker}),
        token(headers={"typ": marker}),
        token(aud=marker),
        token(iss=marker),
        token(tid=marker),
        token(ver=marker),
        token(scp=None, name=marker),
        token(exp=marker),
        lambda entra: marker,
    ):
        error = await refusal(obo, forge(entra))
        assert marker not in f"{error} {error!r} {error.args} {vars(error)}"


async def test_a_lone_surrogate_is_malformed(entra: FakeEntra) -> None:
    """Text that has no UTF-8 form is refused like any other text that is no token."""
    assert "malformed" == (await refusal(api(entra), "\ud800")).code


# --- Permissions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "scp"),
    [
        (["access_as_user"], "read"),
        (["access_as_user"], "access_as_user2"),
        (["access_as_user"], "xaccess_as_user"),
        (["access_as_user"], "access_as"),
        (["access_as_user"], "Access_As_User"),
        (["access_as_user"], "access_as_user\t"),
        (["access_as_user"], "read\taccess_as_user"),
        (["access_as_user"], "read\naccess_as_user"),
        (["access_as_user"], "read\u00a0access_as_user"),
        (["access_as_user"], "read,access_as_user"),
        (["access_as_user"], "api://x/access_as_user"),
        (["read", "write"], "read"),
        (["read", "write"], "write admin"),
        (any_of("read", "write"), "admin"),
    ],
)
async def test_a_scope_counts_only_exactly(entra: FakeEntra, required: Any, scp: str) -> None:
    """Scopes are separated by spaces alone and compared exactly; what lacks one is a 403."""
    with pytest.raises(InsufficientScopeError) as caught:
        await api(entra, required_scopes=required).verify(entra.token(scp=scp))
    names = required if isinstance(required, list) else required.names
    assert tuple(names) == caught.value.required


@pytest.mark.parametrize(
    ("required", "scp"),
    [
        (None, "anything"),
        (["read", "write"], "write admin read"),
        (any_of("read", "write"), "admin write"),
        (any_of("read", "write"), "read write"),
    ],
)
async def test_enough_scopes_let_in(entra: FakeEntra, required: Any, scp: str) -> None:
    """All of a list, or any one of `any_of`, is enough, whatever else the token holds."""
    user = await api(entra, required_scopes=required).verify(entra.token(scp=scp))
    assert tuple(scp.split()) == user.scopes


async def test_roles_never_stand_in_for_scopes(entra: FakeEntra) -> None:
    """A user with an app role of the scope's name still lacks the scope."""
    obo = api(entra, required_scopes=["access_as_user"], app_roles=["access_as_user"])
    with pytest.raises(InsufficientScopeError):
        await obo.verify(entra.token(scp="read", roles=["access_as_user"]))


APP_ONLY = [
    pytest.param({"user": None}, id="idtyp-app"),
    pytest.param({"user": None, "idtyp": None}, id="oid-is-sub"),
    pytest.param({"user": None, "version": "1.0", "idtyp": None}, id="v1-oid-is-sub"),
    pytest.param({"user": None, "scp": "access_as_user"}, id="idtyp-app-with-scp"),
]


@pytest.mark.parametrize("fields", APP_ONLY)
@pytest.mark.parametrize(
    "options",
    [{}, {"required_scopes": ["access_as_user"]}, {"app_roles": ["Tasks.Run"]}],
    ids=["default", "scopes", "other-role"],
)
async def test_an_application_is_not_a_user(
    entra: FakeEntra, fields: dict[str, Any], options: dict[str, Any]
) -> None:
    """An application's own token is a 403 unless it holds a configured role."""
    obo = api(entra, **options)
    with pytest.raises(InsufficientScopeError):
        await obo.verify(entra.token(**fields, roles=["access_as_user"]))


@pytest.mark.parametrize("fields", APP_ONLY)
@pytest.mark.parametrize(
    "app_roles", [["Tasks.Run"], any_of("Tasks.Stop", "Tasks.Run")], ids=["all", "any"]
)
async def test_an_application_with_its_role_is_let_in_as_one(
    entra: FakeEntra, fields: dict[str, Any], app_roles: Any
) -> None:
    """With `app_roles` an application gets in, and is marked as one."""
    obo = api(entra, required_scopes=["access_as_user"], app_roles=app_roles)
    user = await obo.verify(entra.token(**fields, roles=["Tasks.Run"]))
    assert (True, ("Tasks.Run",)) == (user.is_app, user.roles)


# --- Time ---------------------------------------------------------------------------------------


class Clock:
    """Seconds that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def verifier(
    entra: FakeEntra, clock: Clock, metadata_clock: Callable[[], float] = time.monotonic
) -> Verifier:
    registration, client = entra.registration(), entra.client()
    metadata = {
        version: Metadata(registration, version, lambda: client, clock=metadata_clock)
        for version in ("1.0", "2.0")
    }
    return Verifier(registration, metadata, clock=clock)


def timed(entra: FakeEntra, *, exp: float = 600, nbf: float = 0, iat: float = 0) -> str:
    return entra.token(exp=NOW + exp, nbf=NOW + nbf, iat=NOW + iat)


@pytest.mark.parametrize(
    ("offsets", "accepted"),
    [
        ({"exp": 1}, True),
        ({"exp": 0}, True),
        ({"exp": -59}, True),
        ({"exp": -59.75}, True),
        ({"exp": -60}, False),
        ({"exp": -61}, False),
        ({"nbf": 60}, True),
        ({"nbf": 60.25}, False),
        ({"nbf": 61}, False),
        ({"iat": 60}, True),
        ({"iat": 60.25}, False),
        ({"iat": 61}, False),
        ({"nbf": -1e9, "iat": -1e9}, True),
    ],
    ids=str,
)
async def test_clocks_may_differ_by_a_minute(
    entra: FakeEntra, offsets: dict[str, float], accepted: bool
) -> None:
    """A token counts from a minute before its start until less than a minute after its end."""
    subject = verifier(entra, Clock())
    if accepted:
        assert (
            NOW + offsets.get("exp", 600)
            == (await subject.verify(timed(entra, **offsets))).expires_at
        )
    else:
        with pytest.raises(InvalidTokenError) as caught:
            await subject.verify(timed(entra, **offsets))
        assert list(offsets) == [caught.value.claim]


async def test_start_and_issue_may_be_missing(entra: FakeEntra) -> None:
    """Only the end of a token is demanded (RFC 7519 section 4.1)."""
    user = await api(entra).verify(entra.token(nbf=None, iat=None))
    assert set() == {"nbf", "iat"} & set(user.claims)


# --- Verified tokens are remembered ---------------------------------------------------------------


async def test_a_token_is_verified_once(entra: FakeEntra) -> None:
    """The second time the same user comes back, without keys and without a signature check."""
    held = Clock(1000.0)
    subject = verifier(entra, Clock(), held)
    good = timed(entra)
    user = await subject.verify(good)
    entra.down = True
    held.now += MAX_AGE
    with pytest.raises(KeysUnavailableError):
        await subject.verify(good)
    assert user is subject.recall(token_digest(good))


async def test_on_behalf_of_uses_the_memory(entra: FakeEntra) -> None:
    """`OnBehalfOf.verify` gives the same user for the same token."""
    obo, good = api(entra), entra.token()
    assert await obo.verify(good) is await obo.verify(good)


async def test_memory_ends_exactly_with_the_token(entra: FakeEntra) -> None:
    """A remembered token is forgotten at its ``exp``: the clock skew is not granted once more."""
    clock = Clock()
    subject = verifier(entra, clock)
    good = timed(entra, exp=600)
    user = await subject.verify(good)
    clock.now = NOW + 599.9
    assert user is subject.recall(token_digest(good))
    clock.now = NOW + 600
    assert subject.recall(token_digest(good)) is None
    clock.now = NOW + 599.9
    assert subject.recall(token_digest(good)) is None


async def test_a_token_in_its_last_minute_is_not_remembered(entra: FakeEntra) -> None:
    """What is accepted by the clock skew alone is verified each time."""
    clock = Clock(NOW + 630)
    subject = verifier(entra, clock)
    good = timed(entra, exp=600)
    await subject.verify(good)
    clock.now = NOW
    assert subject.recall(token_digest(good)) is None


async def test_memory_ends_with_the_key(entra: FakeEntra) -> None:
    """When its key is published no more, a remembered token is refused like a new one."""
    obo, old = api(entra), entra.token()
    await obo.verify(old)
    entra.roll_keys()
    entra.drop_old_keys()
    assert ("access_as_user",) == (await obo.verify(entra.token("bob"))).scopes
    assert "key" == (await refusal(obo, old)).code


async def test_memory_survives_a_roll_that_keeps_the_key(entra: FakeEntra) -> None:
    """A new key beside the old one ends nothing."""
    obo, old = api(entra), entra.token()
    user = await obo.verify(old)
    entra.roll_keys()
    await obo.verify(entra.token("bob"))
    assert user is await obo.verify(old)


@pytest.mark.parametrize(
    "respell",
    [
        lambda t: t + "=",
        lambda t: t + "==",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: t[:-1] + "=" + t[-1],
        lambda t: t[:-1] + ("B" if t[-1] != "B" else "C"),
        lambda t: t.replace(".", ".\n", 1),
    ],
    ids=["pad", "pads", "newline", "space", "pad-inside", "spare-bits", "folded"],
)
async def test_another_spelling_is_another_token(
    entra: FakeEntra, respell: Callable[[str], str]
) -> None:
    """What decodes to a verified token but is spelt otherwise is refused, not remembered."""
    obo, good = api(entra), entra.token()
    await obo.verify(good)
    assert "malformed" == (await refusal(obo, respell(good))).code


class _AnyKey:
    """A published key that takes every signature, to make ten thousand tokens cheap."""

    retired = False

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        return True

    def may_sign_for(self, issuer: str, tenant_id: str) -> bool:
        return True


class _AnyKeys:
    async def signing_key(self, kid: str) -> _AnyKey:
        return _AnyKey()


async def test_memory_is_bounded(entra: FakeEntra) -> None:
    """Ten thousand tokens are remembered; then the one unused for longest is forgotten."""
    keys: Any = {"2.0": _AnyKeys()}
    subject = Verifier(entra.registration(), keys, clock=Clock())
    header, claims, _ = timed(entra).split(".")
    tokens = [f"{header}.{claims}.{encode(number.to_bytes(3, 'big'))}" for number in range(10_001)]
    for good in tokens[:-1]:
        await subject.verify(good)
    assert subject.recall(token_digest(tokens[0])) is not None
    await subject.verify(tokens[-1])
    remembered = [subject.recall(token_digest(good)) is not None for good in tokens]
    assert [1] == [number for number, is_kept in enumerate(remembered) if not is_kept]


# --- Attacks on the signature ---------------------------------------------------------------------

_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_SHA256_INFO_WITHOUT_NULL = bytes.fromhex("302f300b0609608648016503040201 0420")
_SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")


def _blocks(digest: bytes) -> dict[str, bytes]:
    """Return encoded messages as RSASSA-PKCS1-v1_5 must not accept them, 256 bytes each."""

    def block(tail: bytes, *, kind: int = 1, fill: bytes = b"\xff", garbage: bytes = b"") -> bytes:
        room = 256 - 3 - len(tail) - len(garbage)
        return bytes([0, kind]) + fill * room + b"\x00" + tail + garbage

    info = _SHA256_INFO + digest
    return {
        "short-padding": b"\x00\x01"
        + b"\xff" * 8
        + b"\x00"
        + info
        + b"\x00" * (256 - 11 - len(info)),
        "garbage-at-end": block(info, garbage=b"\x01" * 16),
        "no-null": block(_SHA256_INFO_WITHOUT_NULL + digest),
        "no-digest-info": block(digest),
        "says-sha1": block(_SHA1_INFO + digest[:20]),
        "type-0": block(info, kind=0),
        "type-2": block(info, kind=2),
        "padding-of-7f": block(info, fill=b"\x7f"),
        "no-zero-at-end": block(info).replace(b"\xff\x00" + info, b"\xff\xff" + info),
        "other-digest": block(_SHA256_INFO + hashlib.sha256(b"").digest()),
    }


def _rsa(entra: FakeEntra, encoded: Callable[[bytes], bytes]) -> str:
    """Sign a good token's bytes with an encoded message of one's own."""
    key = entra.add_key()
    header, claims, _ = entra.token(key=key).split(".")
    numbers = key.private_key.private_numbers()
    message = encoded(hashlib.sha256(f"{header}.{claims}".encode()).digest())
    signature = pow(int.from_bytes(message), numbers.d, numbers.public_numbers.n)
    return f"{header}.{claims}.{encode(signature.to_bytes(256))}"


async def test_the_forger_of_blocks_can_sign(entra: FakeEntra) -> None:
    """The right encoded message is accepted, so that the wrong ones are refused for themselves."""

    def right(digest: bytes) -> bytes:
        tail = b"\x00" + _SHA256_INFO + digest
        return b"\x00\x01" + b"\xff" * (256 - 2 - len(tail)) + tail

    assert ("access_as_user",) == (await api(entra).verify(_rsa(entra, right))).scopes


@pytest.mark.parametrize("name", list(_blocks(b"")))
async def test_a_signature_with_a_wrong_block_is_refused(entra: FakeEntra, name: str) -> None:
    """What the key signed in another encoding is no signature (RFC 8017 section 8.2.2)."""
    forged = _rsa(entra, lambda digest: _blocks(digest)[name])
    assert "signature" == (await refusal(api(entra), forged)).code


def _bytes_of(signature: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(signature + "=="))


def _signature(change: Callable[[int, int], bytes]) -> Forge:
    """Replace a signature by one that is made of it and of the key's modulus."""

    def forge(entra: FakeEntra) -> str:
        key = entra.add_key()
        header, claims, signature = entra.token(key=key).split(".")
        modulus = key.private_key.public_key().public_numbers().n
        return f"{header}.{claims}.{encode(change(_bytes_of(signature), modulus))}"

    return forge


_NONE_HEADER = encode(b'{"alg":"none","typ":"JWT"}')
_TWO_ALGORITHMS = encode(b'{"alg":"RS256","alg":"none","typ":"JWT"}')

ATTACKS: dict[str, Forge] = {
    "signature-zero": _signature(lambda s, n: bytes(256)),
    "signature-one": _signature(lambda s, n: (1).to_bytes(256)),
    "signature-modulus": _signature(lambda s, n: n.to_bytes(256)),
    "signature-modulus-less-one": _signature(lambda s, n: (n - 1).to_bytes(256)),
    "signature-plus-modulus": _signature(lambda s, n: (s + n).to_bytes(257)),
    "signature-negated": _signature(lambda s, n: (n - s).to_bytes(256)),
    "signature-zero-before": _signature(lambda s, n: s.to_bytes(257)),
    "signature-zero-after": _signature(lambda s, n: s.to_bytes(256) + b"\0"),
    "signature-byte-missing": _signature(lambda s, n: s.to_bytes(256)[:-1]),
    "signature-one-byte": _signature(lambda s, n: b"\0"),
    "header-missing": reworked(lambda h, c, s: f".{c}.{s}"),
    "header-and-dot-missing": reworked(lambda h, c, s: f"{c}.{s}"),
    "claims-missing": reworked(lambda h, c, s: f"{h}..{s}"),
    "one-part": reworked(lambda h, c, s: c),
    "empty-part-added": reworked(lambda h, c, s: f"{h}.{c}.{s}."),
    "empty-part-before": reworked(lambda h, c, s: f".{h}.{c}.{s}"),
    "part-added": reworked(lambda h, c, s: f"{h}.{c}.{s}.{s}"),
    "five-parts-like-jwe": reworked(lambda h, c, s: f"{h}.{c}.{s}.{c}.{s}"),
    "parts-swapped": reworked(lambda h, c, s: f"{c}.{h}.{s}"),
    "none-by-name": reworked(lambda h, c, s: f"{_NONE_HEADER}.{c}."),
    "none-keeps-signature": reworked(lambda h, c, s: f"{with_fields(h, alg='None')}.{c}.{s}"),
    "alg-twice": reworked(lambda h, c, s: f"{_TWO_ALGORITHMS}.{c}.{s}"),
    "flattened-json": reworked(
        lambda h, c, s: json.dumps({"protected": h, "payload": c, "signature": s})
    ),
    "general-json": reworked(
        lambda h, c, s: json.dumps({"payload": c, "signatures": [{"protected": h, "signature": s}]})
    ),
    "header-padded": reworked(lambda h, c, s: f"{h}=.{c}.{s}"),
    "claims-padded": reworked(lambda h, c, s: f"{h}.{c}==.{s}"),
    "space-in-claims": reworked(lambda h, c, s: f"{h}.{c[:9]} {c[9:]}.{s}"),
    "newline-in-header": reworked(lambda h, c, s: f"{h[:9]}\r\n{h[9:]}.{c}.{s}"),
    "nul-at-end": reworked(lambda h, c, s: f"{h}.{c}.{s}\0"),
    "no-base64-in-claims": reworked(lambda h, c, s: f"{h}.{c[:9]}!{c[9:]}.{s}"),
    "classic-alphabet": reworked(lambda h, c, s: f"{h}.{c}.+/{s[2:]}"),
    "one-letter-too-many": reworked(lambda h, c, s: f"{h}.{c}.{s}AAA"),
    "with-its-scheme": reworked(lambda h, c, s: f"Bearer {h}.{c}.{s}"),
    "nested": lambda e: e.token(headers={"cty": "JWT"}, key=e.unpublished_key()),
}


@pytest.mark.parametrize("attack", list(ATTACKS))
async def test_attacks_on_the_form_of_a_token_fail(entra: FakeEntra, attack: str) -> None:
    """A good token that was taken apart and put together otherwise is an invalid token."""
    error = await refusal(api(entra), ATTACKS[attack](entra))
    assert InvalidTokenError is type(error)


# --- Public test vectors, where they are at hand --------------------------------------------------

_VECTORS = os.environ.get("OBO_ASGI_VECTORS", "")


def _groups() -> Sequence[Any]:
    if not pathlib.Path(_VECTORS).is_file():
        pytest.skip("OBO_ASGI_VECTORS names no file with JWS vectors (Wycheproof)")
    groups: Sequence[Any] = json.loads(pathlib.Path(_VECTORS).read_bytes())["groups"]
    return groups


def _publishing(keys: Sequence[Any]) -> tuple[AppRegistration, httpx.AsyncClient]:
    """Return a registration, and a client that reaches a sign-in service with these keys."""
    tenant, authority = FakeEntra().tenant_id, "https://login.microsoftonline.com"

    async def service(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/keys"):
            return httpx.Response(200, json={"keys": keys})
        document = {
            "issuer": f"{authority}/{tenant}/v2.0",
            "jwks_uri": f"{authority}/{tenant}/discovery/v2.0/keys",
            "token_endpoint": f"{authority}/{tenant}/oauth2/v2.0/token",
            "authorization_endpoint": f"{authority}/{tenant}/oauth2/v2.0/authorize",
        }
        return httpx.Response(200, json=document)

    client = httpx.AsyncClient(transport=httpx.MockTransport(service))
    return FakeEntra().registration(), client


async def test_no_vector_is_accepted() -> None:
    """No Wycheproof JWS gets in, valid or not, and none raises anything but InvalidTokenError."""
    for group in _groups():
        registration, client = _publishing(group["key"].get("keys", [group["key"]]))
        obo = OnBehalfOf(registration, http_client=client)
        for _, jws, *_ in group["tests"]:
            await refusal(obo, jws if isinstance(jws, str) else json.dumps(jws))


async def test_signatures_are_judged_as_the_vectors_say() -> None:
    """A published RS256 key takes the signatures that Wycheproof calls valid, and no other one."""
    judged = set()
    for group in _groups():
        if group["file"] != "json_web_signature_test" or group["key"].get("alg") != "RS256":
            continue
        registration, client = _publishing([group["key"]])
        key = await Metadata(registration, "2.0", lambda: client).signing_key(group["key"]["kid"])  # noqa: B023
        for number, jws, is_valid, *_ in group["tests"]:
            if re.fullmatch(r"[\w-]+(\.[\w-]+){2}", jws):
                header, claims, signature = jws.split(".")
                data = base64.urlsafe_b64decode(signature + "==")
                verdict = key.verify(f"{header}.{claims}".encode(), data)
                judged.add(is_valid)
                assert (number, bool(is_valid)) == (number, verdict)
    assert {0, 1} == judged
