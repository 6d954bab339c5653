"""Typed bodies: JSON into the types that people use, and errors that say where but not what."""

from __future__ import annotations

import contextlib
import encodings
import enum
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from encodings.aliases import aliases
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obo_asgi._bodies import decode_body, decode_json, encode_json


@dataclass
class DataUser:
    name: str
    age: int = 0


class TypedUser(TypedDict):
    name: str


class StructUser(msgspec.Struct):
    name: str


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""


class ModelUser(pydantic.BaseModel):
    name: str
    age: int = 0
    joined: datetime | None = None


class ModelLink(pydantic.BaseModel):
    link: pydantic.HttpUrl


class ClosedModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    ages: dict[str, int] = {}


class StrictModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    id: uuid.UUID
    joined: datetime


@dataclass
class CheckedUser:
    name: str

    def __post_init__(self) -> None:
        raise ValueError(f"{self.name} is not a user")


@dataclass
class Team:
    lead: ModelUser


class Level(enum.IntEnum):
    LOW = 1


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("into", "body", "expected"),
    [
        pytest.param(DataUser, b'{"name":"Alice"}', DataUser("Alice"), id="dataclass"),
        pytest.param(TypedUser, b'{"name":"Alice"}', {"name": "Alice"}, id="TypedDict"),
        pytest.param(StructUser, b'{"name":"Alice"}', StructUser("Alice"), id="Struct"),
        pytest.param(ModelUser, b'{"name":"Alice"}', ModelUser(name="Alice"), id="model"),
        pytest.param(
            ModelUser,
            b'{"name":"Alice","joined":"2024-01-01T00:00:00Z"}',
            ModelUser(name="Alice", joined=datetime(2024, 1, 1, tzinfo=UTC)),
            id="model with a date",
        ),
        pytest.param(
            StrictModel,
            b'{"id":"11111111-1111-4111-8111-111111111111","joined":"2024-01-01T00:00:00Z"}',
            StrictModel(
                id=uuid.UUID("11111111-1111-4111-8111-111111111111"),
                joined=datetime(2024, 1, 1, tzinfo=UTC),
            ),
            id="strict model",
        ),
        pytest.param(
            list[ModelUser], b'[{"name":"Alice"}]', [ModelUser(name="Alice")], id="list of models"
        ),
        pytest.param(
            Team,
            b'{"lead":{"name":"Alice"}}',
            Team(ModelUser(name="Alice")),
            id="model in a dataclass",
        ),
        pytest.param(dict[str, Any], b'{"a":[1,null]}', {"a": [1, None]}, id="dict"),
        pytest.param(list[int], b"[1, 2]", [1, 2], id="list"),
        pytest.param(StructUser, b'{"name":"Alice","more":1}', StructUser("Alice"), id="more"),
    ],
)
def test_a_body_is_read_into_its_type(into: Any, body: bytes, expected: object) -> None:
    """Dataclasses, TypedDicts, Structs, models and containers of them are read from JSON."""
    assert expected == decode_json(body, into)


@pytest.mark.parametrize(
    ("into", "body", "fragment"),
    [
        pytest.param(DataUser, b"", "truncated", id="empty"),
        pytest.param(DataUser, b"<html>", "malformed", id="HTML"),
        pytest.param(DataUser, b'{"name":', "truncated", id="cut off"),
        pytest.param(DataUser, b"[]", "Expected `object`", id="another type"),
        pytest.param(DataUser, b"{}", "missing required field `name`", id="a missing field"),
        pytest.param(DataUser, b'{"name":1}', "`$.name`", id="a field of another type"),
        pytest.param(DataUser, b'{"name":"\xff"}', "", id="not UTF-8"),
        pytest.param(list[Any], b"[" * 100_000, "recursion", id="deep"),
        pytest.param(ModelUser, b'{"name":1}', "string_type at name", id="model"),
        pytest.param(
            ModelUser, b'{"age":"x"}', "missing at name; int_parsing at age", id="model, twice"
        ),
        pytest.param(list[ModelUser], b'[{"name":1}]', "`$[0]`", id="list of models"),
    ],
)
def test_a_body_that_does_not_fit_says_where(into: Any, body: bytes, fragment: str) -> None:
    """What is not JSON, or does not fit, is a ValueError that names the place."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        decode_json(body, into)

    assert ValueError is type(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("into", "body"),
    [
        pytest.param(Colour, b'"alice"', id="enum"),
        pytest.param(Colour, b'"\\u0027 alice \\n \\u0027"', id="enum, quotes"),
        pytest.param(Literal["red"], b'"alice"', id="literal"),
        pytest.param(dict[int, int], b'{"alice":1}', id="key of a dict"),
        pytest.param(dict[str, int], b'{"alice":"alice"}', id="value of a dict"),
        pytest.param(datetime, b'"alice"', id="date"),
        pytest.param(uuid.UUID, b'"alice"', id="uuid"),
        pytest.param(DataUser, b'{"name":"x","age":"alice"}', id="dataclass"),
        pytest.param(ModelUser, b'{"name":"x","age":"alice"}', id="model"),
        pytest.param(list[ModelUser], b'[{"name":"x","age":"alice"}]', id="list of models"),
        pytest.param(Colour, b'"it\'s alice"', id="enum, apostrophe"),
        pytest.param(Level, b"987654", id="number"),
        pytest.param(Literal[1], b"987654", id="literal number"),
        pytest.param(StrictStruct, b'{"alice":1}', id="unknown field"),
        pytest.param(CheckedUser, b'{"name":"alice"}', id="own check"),
        pytest.param(ClosedModel, b'{"alice":1}', id="unknown field of a model"),
        pytest.param(ClosedModel, b'{"ages":{"alice":"x"}}', id="key in a model"),
    ],
)
def test_nothing_of_the_body_is_in_the_error(into: Any, body: bytes) -> None:
    """The message and what hangs on it repeat no value and no key of the body."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        decode_json(body, into)

    assert "alice" not in repr(caught.value)
    assert "987654" not in repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_a_type_without_a_json_form_is_a_mistake_of_the_caller() -> None:
    """A class that JSON cannot be read into is a TypeError that names it, not a misfit."""

    class Plain:
        pass

    with pytest.raises(TypeError, match="Plain"):
        decode_json(b"{}", Plain)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(DataUser("Alice"), b'{"name":"Alice","age":0}', id="dataclass"),
        pytest.param(TypedUser(name="Alice"), b'{"name":"Alice"}', id="TypedDict"),
        pytest.param(StructUser("Alice"), b'{"name":"Alice"}', id="Struct"),
        pytest.param(
            ModelUser(name="Alice", joined=datetime(2024, 1, 1, tzinfo=UTC)),
            b'{"name":"Alice","age":0,"joined":"2024-01-01T00:00:00Z"}',
            id="model",
        ),
        pytest.param(
            {"users": [ModelUser(name="Alice")]},
            b'{"users":[{"name":"Alice","age":0,"joined":null}]}',
            id="model inside",
        ),
        pytest.param(
            ModelLink(link=pydantic.HttpUrl("https://a.example/")),
            b'{"link":"https://a.example/"}',
            id="model with types of its own",
        ),
        pytest.param(None, b"null", id="None"),
        pytest.param(b'{"a":1}', b'{"a":1}', id="JSON already"),
        pytest.param("é", '"é"'.encode(), id="text"),
        pytest.param(Colour.RED, b'"red"', id="enum"),
        pytest.param([uuid.UUID(int=1)], b'["00000000-0000-0000-0000-000000000001"]', id="uuid"),
    ],
)
def test_a_value_becomes_json(value: object, expected: bytes) -> None:
    """What can be read from JSON can be written as JSON."""
    assert expected == encode_json(value)


@pytest.mark.parametrize("value", [object(), lambda: None, {"a": object()}, 1j])
def test_a_value_without_a_json_form_is_refused(value: Callable[[], None] | object) -> None:
    """What has no JSON form is a TypeError that names its class and not its content."""
    with pytest.raises(TypeError, match=r"^(object|function|complex) has no JSON form$"):
        encode_json(value)


ALICE = {"name": "Zoë"}


@pytest.mark.parametrize(
    ("body", "content_type", "into", "expected"),
    [
        pytest.param(b"\xff", "text/plain; charset=utf-8", bytes, b"\xff", id="bytes"),
        pytest.param("Zoë".encode(), "", str, "Zoë", id="text"),
        pytest.param(b"Zo\xeb", "text/plain; charset=latin-1", str, "Zoë", id="charset"),
        pytest.param(b"Zo\xeb", 'text/x;a=b; CHARSET = "Latin1"', str, "Zoë", id="quoted"),
        pytest.param("Zoë".encode("utf-16"), "a/b; charset=UTF-16", str, "Zoë", id="UTF-16"),
        pytest.param(b"", "text/plain", str, "", id="no text"),
        pytest.param(
            b'{"name":"Zo\xeb"}', "a/json;charset=cp1252", dict, ALICE, id="JSON in cp1252"
        ),
        pytest.param(
            json.dumps(ALICE).encode("utf-16-le"),
            "a/b;charset=utf-16le",
            dict,
            ALICE,
            id="in UTF-16",
        ),
        pytest.param(b'\xef\xbb\xbf{"a":1}', "application/json", dict, {"a": 1}, id="a BOM"),
        pytest.param(b'{"a":1}', "text/html", dict, {"a": 1}, id="mislabelled"),
        pytest.param(b'{"a":1}', "application/problem+json", dict, {"a": 1}, id="problem"),
        pytest.param(b"", "application/json", DataUser | None, None, id="empty"),
        pytest.param(b"", "", ModelUser | None, None, id="empty, no type"),
    ],
)
def test_a_body_is_read_as_it_is_labelled(
    body: bytes, content_type: str, into: Any, expected: object
) -> None:
    """Text and JSON are read in the charset that is named; empty is null, and bytes are bytes."""
    assert expected == decode_body(body, content_type, into)


@pytest.mark.parametrize(
    ("body", "content_type", "into", "message"),
    [
        pytest.param(b"", "application/json", DataUser, "it is empty", id="empty"),
        pytest.param(b"<p>", "text/html; x", dict, "it is text/html, not JSON", id="HTML"),
        pytest.param(b"<p>", "application/json", dict, "JSON is malformed", id="no JSON"),
        pytest.param(b"<p>", "application/hal+json", dict, "JSON is malformed", id="no +json"),
        pytest.param(b"<p>", "alice is here/x", dict, "JSON is malformed", id="no media type"),
        pytest.param(b"\xff", "text/plain", str, "not text in the charset", id="not UTF-8"),
        *(
            pytest.param(b"alice", f"a/b; charset={name}", str, "not text in the charset", id=name)
            for name in ("nonsense", "hex", "rot13", "idna", "PunyCode", "unicode_escape")
        ),
        pytest.param(
            b"{}", "application/json; charset=raw_unicode_escape", dict, "charset", id="JSON"
        ),
    ],
)
def test_a_body_that_is_not_what_it_says_is_told(
    body: bytes, content_type: str, into: Any, message: str
) -> None:
    """The message says what is wrong with type, charset or body, and repeats nothing of it."""
    with pytest.raises(ValueError, match=message) as caught:
        decode_body(body, content_type, into)

    assert ValueError is type(caught.value)
    assert "alice" not in repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


CHARSETS = sorted({*aliases.values(), "idna", "punycode", "undefined", "utf_8_sig"})


@settings(max_examples=300)
@given(st.binary(max_size=30), st.sampled_from(CHARSETS) | st.text(max_size=10))
def test_no_charset_is_an_error_of_another_kind(body: bytes, charset: str) -> None:
    """Whatever an API names as the charset, its body is text or a misfit, without a warning."""
    for into in (str, dict):
        try:
            decode_body(body, f"application/json; charset={charset}", into)
        except ValueError as error:
            assert ValueError is type(error)  # noqa: PT017


def test_names_of_charsets_are_not_collected() -> None:
    """Python keeps every codec's name that it is asked for, so an API's inventions reach it not."""
    for number in range(10):
        with pytest.raises(ValueError, match="charset"):
            decode_body(b"alice", f"text/plain; charset=made-up-{number}", str)
    assert [] == [name for name in encodings._cache if "made" in name]


def test_no_charset_takes_long() -> None:
    """A long body is read, or refused, in time that grows with it."""
    for charset in CHARSETS:
        before = time.process_time()
        for body in (b"a" * 400_000, b"-" * 400_000, b"\xff" * 400_000):
            with contextlib.suppress(ValueError):
                decode_body(body, f"text/plain; charset={charset}", str)
        assert 1 > time.process_time() - before, charset
