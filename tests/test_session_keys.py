"""The keys of sessions: no two ever meet, and what is no key is refused with a sentence."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from obo_asgi import ConfigurationError, SessionConflictError, SessionNotFoundError
from obo_asgi.sessions import new_session_key
from obo_asgi.sessions._keys import SessionKey
from tests.session_world import World, call

NAMESPACE = ("https://login.microsoftonline.com", "33333333-3333-4333-8333-333333333333")
ALLOCATED = "obo-session-" + "i" * 20 + "s" * 44

_part = st.sampled_from(["", "a", "b", "ab", "A", "é", "e\u0301", "|", "https://login", "\x00"])
_namespaces = st.tuples(_part, _part)
_base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_allocated = st.builds(
    "obo-session-{}{}".format,
    st.text(_base64, min_size=20, max_size=20),
    st.text(_base64, min_size=44, max_size=44),
)
_odd = st.text(st.characters(), min_size=1, max_size=512)  # surrogates too
_near = st.builds(
    lambda key, change: change(key),
    _allocated,
    st.sampled_from(
        [
            lambda key: key + "\n",
            lambda key: key + " ",
            lambda key: key + "=",
            lambda key: key[:-1],
            lambda key: key + "A",
            lambda key: key.upper(),
            lambda key: key.replace("obo-session-", "obo-session_"),
            lambda key: key.removeprefix("obo-session-"),
            lambda key: key[:-1] + "\u0660",
            lambda key: key[:-1] + "\ud800",
        ]
    ),
)
_texts = st.one_of(_odd, _near, st.sampled_from(["a", "ab", "b", "é", "e\u0301", "\ud800"]))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


# --- Two ways to make one -------------------------------------------------------------------------


def test_a_new_key_is_random_and_fits_anywhere() -> None:
    """An id and 264 random bits, in characters of URLs, and no two keys share either half."""
    keys = [new_session_key() for _ in range(1000)]
    form = re.compile(r"obo-session-([\w-]{20})([\w-]{44})", re.ASCII)
    halves = [match.groups() for key in keys if (match := form.fullmatch(key))]

    assert [1000, 1000] == [len({half[n] for half in halves}) for n in (0, 1)]
    assert {264} == {8 * len(base64.urlsafe_b64decode(secret)) for _, secret in halves}


def test_every_bit_of_the_secret_half_is_random() -> None:
    """Each character of the secret half takes many values: no part of it is constant."""
    secrets = [new_session_key()[-44:] for _ in range(400)]

    assert all(len(set(column)) > 32 for column in zip(*secrets, strict=True))


@pytest.mark.anyio
async def test_a_session_has_a_new_key_or_ones_own(world: World) -> None:
    """Without ``key=`` it is a new one, else the one that was given; both open the session."""
    obo = world.process()
    new = [await world.start(obo) for _ in range(2)]
    own = [await world.start(obo, key=key) for key in ("job-1", "\ud800 Ünï", "x" * 512)]

    assert len(ALLOCATED) == len(new[0])
    assert (2, ["job-1", "\ud800 Ünï", "x" * 512]) == (len(set(new)), own)
    assert [world.oid()] * 5 == [await call(obo, key) for key in new + own]


# --- No two meet ----------------------------------------------------------------------------------


@given(_namespaces, _texts, _namespaces, _texts)
@example(("", "ab"), "a", ("a", "b"), "a")
@example(("a", "b"), "é", ("a", "b"), "e\u0301")
@example(("a", "b"), "\ud800", ("a", "b"), "?")
def test_two_keys_share_no_name(
    namespace: tuple[str, str], text: str, other_namespace: tuple[str, str], other: str
) -> None:
    """A name stands for one text of one app registration, whatever characters they have."""
    one = SessionKey.parse(text, *namespace)
    two = SessionKey.parse(other, *other_namespace)

    assert ((namespace, text) == (other_namespace, other)) == (one == two)
    assert (one == two) == (one.name == two.name)
    assert (b"", b"") == (one.secret, two.secret)


@given(_allocated, _allocated)
def test_an_allocated_key_is_named_by_its_id_and_proven_by_its_secret(one: str, two: str) -> None:
    """The same id is the same session; another secret half never has the same hash."""
    two_of_one_id = one[:32] + two[32:]
    parsed, other, same = (SessionKey.parse(text, *NAMESPACE) for text in (one, two, two_of_one_id))

    assert (one[12:32] == two[12:32]) == (parsed.name == other.name)
    assert parsed.name == same.name
    assert (one[32:] == two[32:]) == (parsed.secret == same.secret)
    assert (32, False) == (len(parsed.secret), one[32:] in repr(parsed))


@given(_allocated, _texts)
@example(ALLOCATED, "i" * 20)
@example("obo-session-" + "61" * 10 + "s" * 44, "a" * 10)
@example(ALLOCATED, ALLOCATED[:32])
@example(ALLOCATED, ALLOCATED[12:])
def test_a_text_of_ones_own_meets_no_allocated_key(allocated: str, text: str) -> None:
    """Nobody reaches an allocated session by a key that looks like one, or like a part of one."""
    own = SessionKey.parse(text, *NAMESPACE)

    assert own.name != SessionKey.parse(allocated, *NAMESPACE).name


@pytest.mark.anyio
async def test_another_app_has_its_own_session(world: World) -> None:
    """Two app registrations with one cache and one ring each have their own session of a key."""
    second = world.entra.add_api("api://second")
    ours, theirs = world.process(), world.process(second)
    await world.start(ours, key="job-1")
    with pytest.raises(SessionNotFoundError):
        await call(theirs, "job-1")
    bob = await theirs.downstream_for(world.entra.token("bob", audience=second.client_id))
    await bob.start_session("job-1")

    assert [world.oid("alice"), world.oid("bob")] == [
        await call(obo, "job-1") for obo in (ours, theirs)
    ]
    await theirs.end_session("job-1")
    assert world.oid("alice") == await call(ours, "job-1")


# --- What is no key -------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "key", ["", "x" * 513, b"job-1", 7, ["job-1"]], ids=["empty", "long", "bytes", "int", "list"]
)
async def test_what_is_no_key_is_a_configuration_error(world: World, key: Any) -> None:
    """Start, resume and end say what a key is, and nobody is asked anything."""
    obo = world.process()
    alice = await world.user(obo)
    before = dict(world.shared.values)
    for work in (alice.start_session(key), call(obo, key), obo.end_session(key)):
        with pytest.raises(ConfigurationError, match="a session key is a text of 1 to 512"):
            await work

    assert ((0, 0), before) == (world.grants, world.shared.values)


@pytest.mark.anyio
async def test_no_key_opens_nothing(world: World) -> None:
    """None makes a new key where a session starts, and is an error where one is resumed."""
    obo = world.process()
    none: Any = None
    with pytest.raises(ConfigurationError, match="a session key is a text"):
        await call(obo, none)


@pytest.mark.anyio
@pytest.mark.parametrize("garbage", ["job-2", "\ud800", "\x00", "../../etc", ALLOCATED, "obo:1:x"])
async def test_a_key_of_nothing_is_not_found(world: World, garbage: str) -> None:
    """Whatever the text, a session that was never started is not found, and ending it is fine."""
    obo = world.process()
    await world.start(obo, key="job-1")
    with pytest.raises(SessionNotFoundError, match="there is no session of this key"):
        await call(obo, garbage)
    await obo.end_session(garbage)

    assert world.oid() == await call(obo, "job-1")


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["alice", "bob"])
async def test_a_wrong_secret_half_opens_nothing(world: World, name: str) -> None:
    """Who knows the id alone does not find the session, cannot take its place and not end it."""
    obo = world.process()
    key = await world.start(obo)
    forged = key[:32] + new_session_key()[32:]
    before = world.value(key)
    with pytest.raises(SessionNotFoundError):
        await call(obo, forged)
    with pytest.raises(SessionConflictError):
        await world.start(obo, name, key=forged)
    await obo.end_session(forged)

    assert (world.value(forged), world.oid()) == (before, await call(obo, key))


@pytest.mark.anyio
async def test_no_cache_sees_the_key(world: World) -> None:
    """Neither names nor values in the shared cache hold the key, its halves, or who the user is."""
    obo = world.process()
    keys = [await world.start(obo), await world.start(obo, key="the-job-of-alice")]
    held = repr(world.shared.values)
    words = [*keys, keys[0][12:32], keys[0][32:], world.oid(), "alice", obo.registration.client_id]

    assert [] == [word for word in words if word in held]
