"""The grammar of ``WWW-Authenticate`` (RFC 9110 section 11.6.1), read leniently."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_MAX_LENGTH: Final = 32 * 1024
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_END: Final = r"(?=[ \t]*(?:,|$))"
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_TOKEN68: Final = re.compile(rf"[ \t]+[A-Za-z0-9._~+/-]+=*{_END}")
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN}){_END}|"((?:[^"\\]|\\.)*)"{_END})'
)
_SEPARATORS: Final = re.compile(r"[ \t,]*")
_UP_TO_COMMA: Final = re.compile(r"[^,]*")
_RAW_CLAIMS: Final = 'claims="{'


class HeaderChallenge(NamedTuple):
    """One challenge: its scheme, and its parameters by name, both in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_header(values: Iterable[str]) -> list[HeaderChallenge]:
    """Return the challenges of all ``WWW-Authenticate`` lines; what is malformed is left out."""
    challenges: list[HeaderChallenge] = []
    for value in values:
        challenges += _parse_line(_escape_claims(value[:_MAX_LENGTH]))
    return challenges


def _parse_line(line: str) -> list[HeaderChallenge]:
    challenges: list[HeaderChallenge] = []
    parameters: dict[str, str] = {}
    position = 0
    while (position := _end(_SEPARATORS, line, position)) < len(line):
        if parameter := _PARAMETER.match(line, position):
            name, token, quoted = parameter.groups()
            parameters.setdefault(name.lower(), token or re.sub(r"\\(.)", r"\1", quoted))
            position = parameter.end()
        elif scheme := _SCHEME.match(line, position):
            parameters = {}
            challenges.append(HeaderChallenge(scheme[1].lower(), parameters))
            position = _end(_TOKEN68, line, scheme.end())
        else:
            position = _end(_UP_TO_COMMA, line, position)
    return challenges


def _end(pattern: re.Pattern[str], line: str, position: int) -> int:
    """Return where a pattern's match at a position ends; the position itself without one."""
    match = pattern.match(line, position)
    return match.end() if match else position


def _escape_claims(line: str) -> str:
    """Escape the JSON that Microsoft.Identity.Web puts between quotes as it is."""
    before, mark, after = line.partition(_RAW_CLAIMS)
    if _PARAMETER.match(line, len(before)):
        return line
    try:
        _, end = json.JSONDecoder().raw_decode("{" + after)
    except (ValueError, RecursionError):
        return line
    claims = re.sub(r'(["\\])', r"\\\1", after[: end - 1])
    return before + mark + claims + after[end - 1 :]
