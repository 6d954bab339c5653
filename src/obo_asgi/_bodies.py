"""Typed bodies: JSON to and from dataclasses, TypedDicts, msgspec Structs and pydantic models."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_QUOTED = re.compile(r"'.*'", re.DOTALL)


def encode_json(value: object) -> bytes:
    """Return a value as JSON; pydantic models by their own method.

    Raises:
        TypeError: the value has no JSON form.
    """
    return msgspec.json.encode(value, enc_hook=_encode_model)


def decode_json(body: bytes, into: type[T]) -> T:
    """Read JSON into a type.

    Raises:
        ValueError: the body is not JSON, or does not fit the type; the message says where, and
            holds nothing of the body.
    """
    try:
        return msgspec.json.decode(body, type=into, dec_hook=_decode_model)
    except (ValueError, RecursionError) as error:
        where = _QUOTED.sub("'…'", str(error))
    raise ValueError(where)


def _encode_model(value: Any) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _decode_model(into: Any, value: object) -> object:
    if not hasattr(into, "model_validate"):
        raise TypeError(f"a JSON body cannot be read into {into!r}")
    try:
        return into.model_validate(value)
    except ValueError as error:
        where = "; ".join(
            f"{problem['type']} at {'.'.join(map(str, problem['loc']))}"
            for problem in error.errors(include_input=False, include_url=False)  # type: ignore[attr-defined]
        )
    raise ValueError(where)
