"""One layer over the other, by pydantic-settings: the environment over the file."""

from __future__ import annotations

from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import _models
from ._models import API, API_HINTS, AZURE_AD_HINTS, CACHE_HINTS, TokenCacheSection
from ._names import DOWNSTREAM, Tree
from ._problems import Problems

__all__ = ["Sections", "merge", "overlay", "without_what_is_replaced"]

_ALTERNATIVES: Final = {
    "AzureAd": [
        {"Audience", "Audiences"},
        {"ClientSecret", "ClientSecretPath", "ClientCredentials"},
    ],
    "ClientCredentials": [
        {"ClientSecret", "ClientSecretPath"},
        {"ManagedIdentityClientId", "ManagedIdentityObjectId", "ManagedIdentityResourceId"},
    ],
    "TokenCache": [{"Redis", "Sql", "Cosmos"}, {"Keys", "KeysFile"}],
}
"""Keys of a section, or of its items, of which one in a higher layer replaces the others."""


class _Layer(PydanticBaseSettingsSource):
    def __init__(self, settings: type[BaseSettings], tree: Tree) -> None:
        super().__init__(settings)
        self._tree = tree

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._tree.get(field_name), field_name, False

    def __call__(self) -> Tree:
        return self._tree


class Sections(BaseSettings):
    """The sections as trees, before they are checked."""

    model_config = SettingsConfigDict(extra="ignore", hide_input_in_errors=True)

    AzureAd: dict[str, Any] = {}
    DownstreamApis: dict[str, Any] = {}
    TokenCache: dict[str, Any] = {}

    over: dict[str, Any] = {}
    below: dict[str, Any] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment over the file; pydantic-settings merges section by section."""
        layers = init_settings()
        return _Layer(settings_cls, layers["over"]), _Layer(settings_cls, layers["below"])

    def azure_ad(self, problems: Problems) -> _models.AzureAd | None:
        """Return the app registration's section, if it can be read."""
        return problems.validate(_models.AzureAd, self.AzureAd, ("AzureAd",), AZURE_AD_HINTS)

    def downstream(self, problems: Problems) -> dict[str, API]:
        """Return the sections of the downstream APIs that can be read."""
        apis = {
            name: problems.validate(API, tree, (DOWNSTREAM, name), API_HINTS)
            for name, tree in self.DownstreamApis.items()
        }
        return {name: api for name, api in apis.items() if api is not None}

    def token_cache(self, problems: Problems) -> TokenCacheSection | None:
        """Return the section of the cache, if there is one that can be read."""
        if not self.TokenCache:
            return None
        return problems.validate(TokenCacheSection, self.TokenCache, ("TokenCache",), CACHE_HINTS)


def merge(over: Tree, below: Tree) -> Sections:
    """Return the sections of two layers, in which `over` wins key by key."""
    return Sections(over=over, below=below)


def without_what_is_replaced(below: Tree, over: Tree) -> Tree:
    """Return the lower layer without keys whose alternative stands in the upper one."""
    return {section: _kept(section, tree, over.get(section, {})) for section, tree in below.items()}


def _kept(section: str, tree: Tree, over: Tree) -> Tree:
    gone: set[str] = set()
    for alternatives in _ALTERNATIVES.get(section, ()):
        if alternatives & over.keys():
            gone |= alternatives - over.keys()
    return {key: value for key, value in tree.items() if key not in gone}


def overlay(section: str, tree: Tree, below: Tree) -> Tree:
    """Return a layer's section in which items of lists, given by index, stand in the list below."""
    if section == DOWNSTREAM:
        return {name: _overlaid(api, below.get(name, {})) for name, api in tree.items()}
    return _overlaid(tree, below)


def _overlaid(tree: Tree, below: Tree) -> Tree:
    return {key: _listed(key, value, below.get(key)) for key, value in tree.items()}


def _listed(key: str, value: Any, below: Any) -> Any:
    if not isinstance(value, dict) or not value or not all(index.isdecimal() for index in value):
        return value
    items = list(below) if isinstance(below, list | tuple) else []
    for index, item in sorted(value.items(), key=lambda pair: int(pair[0])):
        at = min(int(index), len(items))
        old = items[at] if at < len(items) else {}
        merges = isinstance(old, dict) and isinstance(item, dict) and "SourceType" not in item
        items[at : at + 1] = [{**_kept(key, old, item), **item} if merges else item]
    return items
