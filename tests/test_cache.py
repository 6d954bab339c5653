"""Tokens in memory: served until they end, and not a moment longer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from obo_asgi import AccessToken, ConfigurationError, TokenCache
from obo_asgi.tokens import TokenKey

KEY = TokenKey("obo", "https://login", "tenant", "client", "alice", b"digest", ("a/read",), None)


def token(seconds: float = 60, text: str = "token") -> AccessToken:
    end = time.time() + seconds
    return AccessToken(text, end, end)


def test_a_token_is_kept_and_dropped() -> None:
    """A token is there from `put` to `drop`."""
    cache, kept = TokenCache(), token()
    assert cache.get(KEY) is None

    cache.put(KEY, kept)
    assert (kept, 1) == (cache.get(KEY), len(cache))

    cache.drop(KEY)
    cache.drop(KEY)
    assert (None, 0) == (cache.get(KEY), len(cache))


@pytest.mark.parametrize("field", TokenKey._fields)
def test_a_token_is_found_by_its_own_key_alone(field: str) -> None:
    """A key that differs in any part finds nothing, such as another user's token."""
    cache = TokenCache()
    cache.put(KEY, token())
    changes: dict[str, Any] = {"binding": b"other", "scopes": ("a/write",)}

    assert cache.get(KEY._replace(**{field: changes.get(field, "other")})) is None


def test_a_new_token_takes_the_place_of_the_old() -> None:
    """One key has one token, the last one put."""
    cache, new = TokenCache(), token(text="new")
    cache.put(KEY, token(text="old"))
    cache.put(KEY, new)

    assert (new, 1) == (cache.get(KEY), len(cache))


@pytest.mark.parametrize("seconds", [0, -1, -3600, float("-inf")])
def test_a_token_that_has_ended_is_not_stored(seconds: float) -> None:
    """Nothing is kept that could not be served."""
    cache = TokenCache()
    cache.put(KEY, token(seconds))

    assert 0 == len(cache)


def test_a_token_ends_while_it_is_kept() -> None:
    """A token is not served after its end, and its place is free again."""
    cache = TokenCache()
    cache.put(KEY, token(0.05))
    assert cache.get(KEY) is not None

    time.sleep(0.06)

    assert (None, 0) == (cache.get(KEY), len(cache))


def test_the_cache_is_bounded() -> None:
    """The token that was not used for longest makes room."""
    cache = TokenCache(max_entries=2)
    keys = [KEY._replace(owner=owner) for owner in ("alice", "bob", "carol")]
    for key in keys:
        cache.put(key, token())

    assert [False, True, True] == [cache.get(key) is not None for key in keys]


@pytest.mark.parametrize("max_entries", [0, -1, None, "10", 1.5, True], ids=repr)
def test_a_bound_that_is_none_is_refused(max_entries: Any) -> None:
    """The bound is a whole number above zero."""
    with pytest.raises(ConfigurationError, match="max_entries must be a whole number above 0"):
        TokenCache(max_entries=max_entries)
