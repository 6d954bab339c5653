"""The bounded map: what was not used for longest is forgotten first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obo_asgi._lru import LRU

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["get", "put", "drop"]), st.integers(0, 5)), min_size=20, max_size=40
)


@given(st.integers(1, 4), OPERATIONS)
def test_it_behaves_as_a_list_of_the_last_used(
    max_entries: int, operations: list[tuple[str, int]]
) -> None:
    """After any operations it holds what a plain list of the last used entries holds."""
    lru: LRU[int, str] = LRU(max_entries)
    model: list[tuple[int, str]] = []  # the last used one stands at the end

    for count, (operation, key) in enumerate(operations):
        found = dict(model).get(key)
        rest = [entry for entry in model if entry[0] != key]
        match operation:
            case "get":
                assert found == lru.get(key)
                model = [*rest, (key, found)] if found else rest
            case "put":
                lru.put(key, f"value {count}")
                model = [*rest, (key, f"value {count}")][-max_entries:]
            case _:
                lru.drop(key)
                model = rest
        assert len(model) == len(lru)

    assert dict(model) == {key: value for key in range(6) if (value := lru.get(key))}


def test_the_one_unused_for_longest_goes() -> None:
    """Reading keeps an entry; the one that nobody read goes when there are too many."""
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.get("a")
    lru.put("c", 3)

    assert (1, None, 3) == (lru.get("a"), lru.get("b"), lru.get("c"))


def test_it_never_grows_beyond_its_bound() -> None:
    """Many keys leave as many entries as are allowed."""
    lru: LRU[int, int] = LRU(100)
    for key in range(10_000):
        lru.put(key, key)

    assert 100 == len(lru)
    assert (None, 9_999) == (lru.get(9_899), lru.get(9_999))


def test_a_new_value_counts_as_use() -> None:
    """An entry that is put again is not the next to go."""
    lru: LRU[str, int] = LRU(2)
    for key, value in [("a", 1), ("b", 2), ("a", 3), ("c", 4)]:
        lru.put(key, value)

    assert (3, None, 4) == (lru.get("a"), lru.get("b"), lru.get("c"))


@pytest.mark.parametrize("value", [0, "", (), False], ids=repr)
def test_a_falsy_value_is_a_value(value: object) -> None:
    """What is empty or zero is found again, and reading it keeps it."""
    lru: LRU[str, object] = LRU(2)
    lru.put("key", value)
    lru.put("other", "other")
    lru.get("key")
    lru.put("new", "new")

    assert value is lru.get("key")
