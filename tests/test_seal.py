"""Sealed values: only the ring that sealed them opens them, under their own name and kind."""

from __future__ import annotations

import base64
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi import ConfigurationError, new_cache_key
from obo_asgi.cache._seal import Sealer, Unreadable, check_keys, derive_key

OLD, NEW = b"o" * 32, b"n" * 32
SEALER = Sealer([NEW])


@given(st.text(), st.text(), st.binary())
def test_what_is_sealed_is_opened(name: str, kind: str, value: bytes) -> None:
    """A value comes back as it was, as text of one alphabet, which differs each time."""
    one, other = SEALER.seal(name, kind, value), SEALER.seal(name, kind, value)

    assert (value, value) == (SEALER.open(name, kind, one), SEALER.open(name, kind, other))
    assert one != other
    assert one.isascii()
    assert base64.b64decode(one, validate=True)


@given(st.binary(min_size=1, max_size=80), st.data())
def test_a_flipped_bit_is_noticed(value: bytes, data: st.DataObject) -> None:
    """One other bit anywhere, also in the version, the key's name and the nonce, opens nothing."""
    raw = bytearray(base64.b64decode(SEALER.seal("name", "kind", value)))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Unreadable):
        SEALER.open("name", "kind", base64.b64encode(raw).decode())


@given(st.binary(max_size=80), st.integers(1, 200))
def test_a_cut_value_is_noticed(value: bytes, cut: int) -> None:
    """A value without its end opens nothing."""
    with pytest.raises(Unreadable):
        SEALER.open("name", "kind", SEALER.seal("name", "kind", value)[:-cut])


@pytest.mark.parametrize(("name", "kind"), [("other", "kind"), ("name", "other"), ("kind", "name")])
def test_a_value_belongs_to_its_place(name: str, kind: str) -> None:
    """Under another name, or taken for another kind, a value opens nothing."""
    with pytest.raises(Unreadable):
        SEALER.open(name, kind, SEALER.seal("name", "kind", b"value"))


@pytest.mark.parametrize(
    "text",
    [
        *(None, 7, b"bytes", [], "", "=", '"', "\\u0041", "token", "ä", '{"token": "plain"}'),
        "AQ==",
        base64.b64encode(pickle.dumps(["token"])).decode(),
        "A" * 1_000_000,
    ],
    ids=lambda text: str(text)[:12],
)
def test_anything_else_is_unreadable(text: object) -> None:
    """What was not sealed here, a pickle too, is refused by one error and runs nothing."""
    with pytest.raises(Unreadable):
        SEALER.open("name", "kind", text)


def test_the_first_key_seals_and_all_open() -> None:
    """A ring that was extended opens what both keys sealed; one without the key nothing."""
    extended = Sealer([NEW, OLD])
    by_old = Sealer([OLD]).seal("name", "kind", b"value")
    by_new = extended.seal("name", "kind", b"value")

    assert [b"value"] * 3 == [
        extended.open("name", "kind", by_old),
        extended.open("name", "kind", by_new),
        Sealer([NEW]).open("name", "kind", by_new),
    ]
    with pytest.raises(Unreadable):
        Sealer([OLD]).open("name", "kind", by_new)


def test_keys_are_read_in_either_form() -> None:
    """A key is 32 bytes, or what `new_cache_key` returns; the order is kept."""
    made = new_cache_key()
    assert made != new_cache_key()
    ring = check_keys([made, OLD])

    assert (2, OLD) == (len(ring), ring[1])
    assert made == base64.urlsafe_b64encode(ring[0]).decode().rstrip("=")


SECRET = "not-to-be-shown-not-to-be-shown"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "empty"),
        pytest.param(new_cache_key(), "list", id="no list"),
        (OLD, "list"),
        ([SECRET], r"keys\[0\].*new_cache_key"),
        ([OLD, b"short"], r"keys\[1\]"),
        ([OLD, ""], r"keys\[1\]"),
        ([None], r"keys\[0\]"),
        ([7], r"keys\[0\]"),
        ([new_cache_key() + "ä"], r"keys\[0\]"),
    ],
)
def test_a_wrong_key_is_refused(keys: list[str], message: str) -> None:
    """A key of another form is a ConfigurationError that says which, and shows no key."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_keys(keys)
    assert SECRET not in str(caught.value)


def test_derived_keys_depend_on_secret_and_context() -> None:
    """The same secret and app derive the same key; another of either derives another one."""
    keys = {derive_key(secret, context=app) for secret in (b"1", b"2") for app in ("a", "b")}
    assert (4, 32) == (len(keys), len(derive_key(b"1", context="a")))
    assert derive_key(b"1", context="a") in keys


def test_a_sealer_shows_no_key() -> None:
    """Its representation tells how many keys there are."""
    assert "Sealer(1 keys)" == repr(SEALER)
