"""Engines for a SQL cache: URLs that can work, and options that bound every wait."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..errors import ConfigurationError

__all__ = ["check_url", "create_engine", "with_defaults"]

_URLS: Final = {
    "postgresql": "postgresql+asyncpg://",
    "sqlite": "sqlite+aiosqlite://",
    "mysql": "mysql+aiomysql://",
    "mariadb": "mariadb+aiomysql://",
    "mssql": "mssql+aioodbc://",
}
_POOL: Final = {"pool_size": 20, "max_overflow": 0, "pool_timeout": 5, "pool_use_lifo": True}
_CONNECT: Final = {"asyncpg": {"timeout": 5}, "aiomysql": {"connect_timeout": 5}}


def check_url(url: str | URL) -> URL:
    """Return the URL of a database with an async driver.

    Raises:
        ConfigurationError: it is another one; nothing of it is shown but the driver.
    """
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"SQLCache needs a database URL that starts with one of {', '.join(_URLS.values())}"
        ) from None
    if not dialect.get_async_dialect_cls(parsed).is_async:
        raise ConfigurationError(
            f"{parsed.drivername}:// is not an async driver: write the URL as {_form(parsed)}"
        )
    return parsed


def with_defaults(url: URL, options: dict[str, Any]) -> dict[str, Any]:
    """Return an engine's options with those that a cache needs: each statement for itself."""
    is_sqlite = url.get_backend_name() == "sqlite"
    is_in_memory = is_sqlite and url.database in (None, "", ":memory:")
    defaults: dict[str, Any] = {"hide_parameters": True, "pool_pre_ping": not is_sqlite}
    if "poolclass" not in options and not is_in_memory:  # other pools have other options
        defaults |= _POOL
        if is_sqlite:  # its connections would only wait for each other
            defaults["pool_size"] = 1
    connect = {**_CONNECT.get(url.get_driver_name(), {}), **options.get("connect_args", {})}
    always = {"isolation_level": "AUTOCOMMIT", "connect_args": connect}
    return {**defaults, **options, **always}


def create_engine(url: URL, options: dict[str, Any]) -> AsyncEngine:
    """Return an engine, which has not connected yet.

    Raises:
        ConfigurationError: the driver is missing, or an option is wrong.
    """
    try:
        return create_async_engine(url, **options)
    except ModuleNotFoundError as error:
        form = "" if "+" in url.drivername else f", or write the URL as {_form(url)}"
        raise ConfigurationError(
            f'{error.name} is missing: pip install "obo-asgi[sql]" {url.get_driver_name()}{form}'
        ) from None
    except ImportError as error:  # of what it needs besides Python, such as unixODBC
        raise ConfigurationError(f"the driver cannot be loaded: {error}") from None
    except (SQLAlchemyError, TypeError) as error:
        raise ConfigurationError(f"the engine's options are wrong: {error}") from None


def _form(url: URL) -> str:
    return _URLS.get(url.get_backend_name(), " or ".join(_URLS.values()))
