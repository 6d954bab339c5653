"""Typed bodies: JSON to and from dataclasses, TypedDicts, msgspec Structs and pydantic models."""

from __future__ import annotations

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

# What msgspec says of types and their fields; its other messages repeat what stood in the body.
_REASON = re.compile(
    r"Expected `[^`]*`, got `[^`]*`|Object missing required field `[^`]*`"
    r"|JSON is malformed|Input data was truncated"
)
_PLACE = re.compile(r" - at `[$\w.\[\]]*`$")

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_CHARSET = re.compile(r';[ \t]*charset[ \t]*=[ \t]*"?([A-Za-z0-9_:.+-]+)', re.I)
# Python keeps every name that it was ever asked for, so it is asked for those that it knows. Of
# its codecs, those that are no charsets are not among them: idna, punycode, unicode_escape.
_CHARSETS = frozenset([*aliases, *aliases.values()])


class _Misfit(ValueError):
    """A body does not fit a model; the message holds nothing of the body."""


class _NoJSONForm(TypeError):
    """JSON cannot be read into a type."""


def encode_json(value: object) -> bytes:
    """Return a value as JSON; pydantic models by their own method, bytes as JSON already made.

    Raises:
        TypeError: the value has no JSON form.
    """
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value, enc_hook=_encode_model)


def decode_body(body: bytes, content_type: str, into: type[T]) -> T:
    """Read a body into a type: ``bytes`` as it is, ``str`` as text, anything else as JSON.

    An empty body counts as null.

    Args:
        body: the body, its transfer and content codings undone.
        content_type: the Content-Type; what it calls something else than JSON is tried as JSON all
            the same, because APIs mislabel it.
        into: the type.

    Raises:
        ValueError: the body is not of the type; the message says where, and holds nothing of it.
        TypeError: JSON cannot be read into the type.
    """
    if into is bytes:
        return body  # type: ignore[return-value]  # T is bytes
    if into is str:
        return _text(body, content_type)  # type: ignore[return-value]  # T is str
    try:
        return decode_json(_utf8(body, content_type) or b"null", into)
    except ValueError as error:
        misfit = str(error)
    media_type = content_type.partition(";")[0].strip().lower()
    if not body:
        misfit = "it is empty"
    elif not _is_json(media_type) and _MEDIA_TYPE.fullmatch(media_type):
        misfit = f"it is {media_type}, not JSON"
    raise ValueError(misfit)


def decode_json(body: bytes, into: type[T]) -> T:
    """Read JSON into a type.

    Raises:
        ValueError: the body is not JSON, or does not fit the type; the message says where, and
            holds nothing of the body.
        TypeError: JSON cannot be read into the type.
    """
    try:
        if hasattr(into, "model_validate_json"):
            model: T = _read_model(into, body)
            return model
        return msgspec.json.decode(body, type=into, dec_hook=_decode_model)
    except RecursionError:
        misfit = "it is nested beyond the recursion limit"
    except ValueError as error:
        if isinstance(error.__cause__, _NoJSONForm):
            raise error.__cause__ from None
        misfit = _describe(error)
    raise ValueError(misfit)


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def _text(body: bytes, content_type: str) -> str:
    charset = _CHARSET.search(content_type)
    name = charset[1] if charset else "utf-8"
    try:
        if normalize_encoding(name).lower() in _CHARSETS:
            return body.decode(name)
    except (LookupError, ValueError):
        pass  # the error would hold the body
    raise ValueError("it is not text in the charset that it names")


def _utf8(body: bytes, content_type: str) -> bytes:
    """Return JSON in UTF-8 (RFC 8259 section 8.1), also where the API names another charset."""
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        body = _text(body, content_type).encode(errors="replace")
    return body.removeprefix(codecs.BOM_UTF8)


def _describe(error: ValueError) -> str:
    message = str(error)
    if isinstance(error, _Misfit) or isinstance(error.__cause__, _Misfit):
        return message
    reason, place = _REASON.match(message), _PLACE.search(message)
    return (reason[0] if reason else "a value is not valid") + (place[0] if place else "")


def _encode_model(value: Any) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _decode_model(into: Any, value: object) -> object:
    """Read a part of a body into a pydantic model, by its rules for JSON."""
    if not hasattr(into, "model_validate_json"):
        raise _NoJSONForm(f"a JSON body cannot be read into {into!r}")
    return _read_model(into, msgspec.json.encode(value))


def _read_model(into: Any, body: bytes) -> Any:
    try:
        return into.model_validate_json(body)
    except ValueError as error:
        # Pydantic's ValidationError, which is not imported here.
        problems = error.errors(include_input=False, include_url=False)  # type: ignore[attr-defined]
    fields = {field.alias or name for name, field in into.model_fields.items()}
    raise _Misfit("; ".join(_place(problem, fields) for problem in problems))


def _place(problem: dict[str, Any], fields: set[str]) -> str:
    """Name a problem and the field that it is in, unless the name is the body's own."""
    field = problem["loc"][0] if problem["loc"] else None
    return f"{problem['type']} at {field}" if field in fields else str(problem["type"])
