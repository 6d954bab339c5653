"""Reading a settings file: JSON as .NET takes it (comments, trailing commas), or TOML."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError

__all__ = ["read_source"]

SETTINGS_VARIABLE: Final = "OBO_SETTINGS"
"""Names the file that is read where the code names none."""

_STRING: Final = r'"(?:\\.|[^"\\])*"'
_COMMENT: Final = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.S)
_TRAILING_COMMA: Final = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.S)


def read_source(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what a file or a mapping says, as it is.

    Raises:
        ConfigurationError: the file cannot be read; the message shows none of its content.
    """
    if isinstance(source, Mapping):
        return source
    named = os.environ.get(SETTINGS_VARIABLE) if source is None else source
    if not named:
        if source is None:
            return {}
        raise ConfigurationError("the path of the settings file is empty")
    if not isinstance(named, str | os.PathLike):
        raise ConfigurationError(
            "settings come from the path of a .json or .toml file, or from a mapping, not from "
            f"{type(named).__name__}"
        )
    path = Path(named)
    where = f"{path} ({SETTINGS_VARIABLE})" if source is None else str(path)
    if path.suffix.lower() not in (".json", ".toml"):
        raise ConfigurationError(f"{where}: a settings file ends in .json or .toml")
    return _parse(_read(path, where), path.suffix.lower(), where)


def _read(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"the settings file cannot be read ({type(error).__name__})"
    except UnicodeDecodeError:
        problem = "the settings file is not UTF-8 text"
    raise ConfigurationError(f"{where}: {problem}")


def _parse(text: str, suffix: str, where: str) -> dict[str, Any]:
    # Outside the handlers: these errors hold the whole text, secrets and all.
    try:
        if suffix == ".toml":
            return tomllib.loads(text)
        plain = _TRAILING_COMMA.sub(_blank, _COMMENT.sub(_blank, text))
        found = json.loads(plain, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        problem = f"this is not JSON: {error.msg} in line {error.lineno}"
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line \d+", str(error))
        problem = "this is not TOML" + (f": see {at[0].removeprefix('at ')}" if at else "")
    except _Twice as error:
        problem = f"{error} is there twice in one section: keep one of them"
    else:
        if isinstance(found, dict):
            return found
        problem = 'the file must hold an object: {"AzureAd": …}'
    del text
    raise ConfigurationError(f"{where}: {problem}")


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _blank(match: re.Match[str]) -> str:
    """Keep strings, and of anything else the lines."""
    return match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0])
