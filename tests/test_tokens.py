"""Users, tokens and their keys: two different keys never meet, and nothing shows itself."""

from __future__ import annotations

import hashlib
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import AccessToken, ExpiredTokenError, User
from obo_asgi._types import Secret
from obo_asgi.jws import Compact
from obo_asgi.tokens import (
    AnonymousUser,
    Credentials,
    Issued,
    OnBehalfOfGrant,
    TokenKey,
    token_digest,
)

pytestmark = pytest.mark.anyio

TID, OID = "tenant-of-alice", "object-of-alice"
PART = st.sampled_from(["", "a", "A", "b", "ab", "a b", "é", "e\u0301", "\x00", "|", "/", "=", ","])
CLAIMS = st.none() | PART
KEYS = st.builds(
    TokenKey,
    *(PART, PART, PART, PART, PART),
    PART.map(str.encode),
    st.lists(PART, max_size=3).map(tuple),
    CLAIMS,
)
KEY = TokenKey("obo", "https://login", TID, "client", OID, b"digest", ("a/read", "a/write"), None)


def user(**changes: Any) -> User:
    values: dict[str, Any] = {
        "oid": OID,
        "tid": TID,
        "claims": {"name": "Alice", "oid": OID},
        "scopes": ("read",),
        "roles": ("admin",),
        "expires_at": time.time() + 60,
    }
    return User(**{**values, **changes})


@given(KEYS, KEYS)
def test_keys_share_a_digest_only_if_they_are_equal(first: TokenKey, second: TokenKey) -> None:
    """Digests are equal exactly where the keys are."""
    assert (first == second) is (first.digest() == second.digest())


@given(st.text("a|/é\x00", min_size=1, max_size=8), st.data())
def test_moving_a_character_between_parts_changes_the_digest(
    text: str, data: st.DataObject
) -> None:
    """The same characters, cut into parts at other places, are another key."""

    def cut() -> TokenKey:
        at = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=7, max_size=7)))
        parts = [text[start:end] for start, end in pairwise([0, *at, len(text)])]
        kind, authority, tenant, client, owner, binding, *scopes = parts
        return TokenKey(
            kind, authority, tenant, client, owner, binding.encode(), tuple(scopes), None
        )

    first, second = cut(), cut()
    assert (first == second) is (first.digest() == second.digest())


@pytest.mark.parametrize(
    "changes",
    [
        *({field: ""} for field in ("kind", "authority", "tenant_id", "client_id", "owner")),
        *({field: "OBO"} for field in ("kind", "authority", "tenant_id", "client_id", "owner")),
        {"binding": b""},
        {"binding": b"Digest"},
        {"scopes": ()},
        {"scopes": ("a/read",)},
        {"scopes": ("a/read a/write",)},
        {"scopes": ("a/reada/write",)},
        {"scopes": ("", "a/read", "a/write")},
        {"scopes": ("a/read", "a/write", "")},
        {"claims": ""},
        {"claims": "="},
        {"claims": "{}"},
        {"tenant_id": OID, "owner": TID},
    ],
    ids=str,
)
def test_every_part_of_a_key_counts(changes: dict[str, Any]) -> None:
    """A key that differs in one part has another digest."""
    assert KEY.digest() != KEY._replace(**changes).digest()


@pytest.mark.parametrize(
    ("first", "second"),
    [("é", "e\u0301"), ("Å", "\u212b"), ("K", "\u212a"), ("ß", "ss"), ("a", "A"), ("a", "\u0430")],
    ids=ascii,
)
def test_text_is_compared_byte_by_byte(first: str, second: str) -> None:
    """No normalising and no folding brings two owners together."""
    assert KEY._replace(owner=first).digest() != KEY._replace(owner=second).digest()


def test_a_digest_is_stable() -> None:
    """The digest is SHA-256 over the parts with their lengths, the same in every process."""
    parts = [b"obo", b"https://login", TID.encode(), b"client", OID.encode(), b"digest", b""]
    parts += [b"a/read", b"a/write"]

    hasher = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts))
    assert hasher.hexdigest() == KEY.digest()


def test_the_digest_of_a_token_is_over_its_exact_bytes() -> None:
    """One more character makes another digest."""
    assert hashlib.sha256(b"a.b.c").digest() == token_digest("a.b.c")
    assert token_digest("a.b.c") != token_digest("a.b.c\n")


ALICE = user()
SHY = [
    pytest.param(ALICE, id="user"),
    pytest.param(AccessToken("secret-token", 1.0, 2.0), id="access token"),
    pytest.param(Compact({"kid": "k"}, {"name": "Alice"}, b"secret-token", b"s"), id="compact"),
    pytest.param(KEY, id="key"),
    pytest.param(
        OnBehalfOfGrant(ALICE, Secret("secret-token"), b"d", authority="a", client_id="c"),
        id="grant",
    ),
]


@pytest.mark.parametrize("value", SHY)
@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_tokens_and_people_are_not_shown(value: object, show: Any) -> None:
    """No way to print a value shows a token, a name or an id of the user."""
    shown = show(value)

    assert [] == [word for word in ("secret-token", "Alice", TID, OID) if word in shown]


@pytest.mark.parametrize("value", SHY)
def test_there_is_no_dict_to_look_into(value: object) -> None:
    """`vars`, which error reporters call, finds nothing."""
    with pytest.raises(TypeError):
        vars(value)


def test_a_user_is_what_the_claims_say() -> None:
    """A user has the identity of tenant and object id together, and a name to show."""
    assert (True, f"{TID}.{OID}", "Alice", False) == (
        ALICE.is_authenticated,
        ALICE.identity,
        ALICE.display_name,
        ALICE.is_app,
    )
    assert "User(scopes=('read',), roles=('admin',), is_app=False)" == repr(ALICE)


@pytest.mark.parametrize("claims", [{}, {"name": None}, {"name": ["Alice"]}, {"upn": "Alice"}])
def test_a_user_without_a_name_has_an_empty_one(claims: dict[str, Any]) -> None:
    """Only a text in the claim ``name`` is shown."""
    assert "" == user(claims=claims).display_name


def test_users_are_never_equal_by_their_claims() -> None:
    """Two users are equal only if they are one object; data is keyed by identity."""
    assert user() != user()


def test_an_anonymous_user_is_nobody() -> None:
    """Who brought no token is not authenticated and has no identity."""
    nobody = AnonymousUser()

    assert (False, "", "") == (nobody.is_authenticated, nobody.identity, nobody.display_name)


def test_credentials_are_as_starlette_has_them() -> None:
    """Scopes are a list of their own, empty if none were granted."""
    assert ["read"] == Credentials(("read",)).scopes
    assert [] == Credentials().scopes


class Endpoint:
    """Gives a token and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def on_behalf_of(
        self,
        tenant_id: str,
        assertion: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        self.asked.append((tenant_id, assertion.reveal(), scopes, claims, correlation_id))
        return Issued(AccessToken("for the API", 1.0, 1.0))

    async def client_credentials(
        self,
        tenant_id: str,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        self.asked.append((tenant_id, scopes, claims, correlation_id))
        return Issued(AccessToken("for the app", 1.0, 1.0))

    async def refresh(
        self,
        tenant_id: str,
        refresh_token: Secret,
        scopes: tuple[str, ...],
        *,
        claims: str | None,
        correlation_id: str,
    ) -> Issued:
        self.asked.append((tenant_id, refresh_token.reveal(), scopes, claims, correlation_id))
        return Issued(AccessToken("for the session", 1.0, 1.0))


def grant(**changes: Any) -> OnBehalfOfGrant:
    return OnBehalfOfGrant(
        user(**changes), Secret("assertion"), b"digest", authority="https://login", client_id="id"
    )


def test_a_grant_is_keyed_by_all_that_a_token_depends_on() -> None:
    """Kind, authority, tenant, app, user, assertion, scopes and claims make the key."""
    expected = TokenKey("obo", "https://login", TID, "id", OID, b"digest", ("a/read",), "{}")

    assert expected == grant().key(("a/read",), "{}")


async def test_a_grant_is_redeemed_in_the_tenant_of_its_token() -> None:
    """The exchange goes to the caller's own tenant, with the assertion as it came."""
    endpoint = Endpoint()

    token = await grant().redeem(endpoint, ("a/read",), claims="{}", correlation_id="some-id")

    assert "for the API" == token.token
    assert [(TID, "assertion", ("a/read",), "{}", "some-id")] == endpoint.asked


@pytest.mark.parametrize("left", [-60, 0, 1])
async def test_a_grant_that_is_about_to_end_is_not_redeemed(left: float) -> None:
    """With two seconds or less to go nothing is sent: the caller has to renew the token."""
    endpoint = Endpoint()

    with pytest.raises(ExpiredTokenError, match="about to expire"):
        await grant(expires_at=time.time() + left).redeem(
            endpoint, ("a/read",), claims=None, correlation_id="some-id"
        )

    assert [] == endpoint.asked
