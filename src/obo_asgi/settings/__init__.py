"""Settings of a file and of the environment, as the arguments of `obo_asgi.OnBehalfOf`.

The file is an ``appsettings.json`` in the shape that Microsoft.Identity.Web has, or the same in
TOML. Needs the extra ``settings``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cache import TokenCache
from ..config import AppRegistration, DownstreamAPI, Requirement
from ._build import build_cache, build_downstream, build_registration, build_requirement
from ._environment import read_environment
from ._files import read_source
from ._merge import merge, without_what_is_replaced
from ._names import read_sections
from ._problems import Problems

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a file and the environment say, checked; no secret is in its repr."""

    registration: AppRegistration
    downstream: Mapping[str, DownstreamAPI]
    required_scopes: Requirement | None = None
    app_roles: Requirement | None = None
    cache: TokenCache | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `obo_asgi.OnBehalfOf`, as far as they are set."""
        optional = {
            "required_scopes": self.required_scopes,
            "app_roles": self.app_roles,
            "cache": self.cache,
        }
        return {
            "registration": self.registration,
            "downstream": dict(self.downstream),
            **{name: value for name, value in optional.items() if value is not None},
        }


def read_settings(source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of a file or a mapping, and over them those of the environment.

    Args:
        source: a ``.json`` or ``.toml`` file, or a mapping of the same shape; the file that
            ``OBO_SETTINGS`` names, or the environment alone, if left out.

    Raises:
        ConfigurationError: something is wrong; the message names each key, with what to change.
    """
    problems = Problems()
    below = read_sections(read_source(source), problems)
    over = read_environment(os.environ, below, problems)
    sections = merge(over, without_what_is_replaced(below, over))
    azure_ad = sections.azure_ad(problems)
    downstream = build_downstream(sections.downstream(problems), problems)
    cache = build_cache(sections.token_cache(problems), problems)
    registration = None if azure_ad is None else build_registration(azure_ad, problems)
    scopes = roles = None
    if azure_ad is not None:
        scopes = build_requirement(azure_ad.required_scopes, "required_scopes", problems)
        roles = build_requirement(azure_ad.app_roles, "app_roles", problems)
    problems.check()
    if registration is None:  # pragma: no cover  # there was a problem
        raise AssertionError
    return Settings(
        registration=registration,
        downstream=downstream,
        required_scopes=scopes,
        app_roles=roles,
        cache=cache,
    )
