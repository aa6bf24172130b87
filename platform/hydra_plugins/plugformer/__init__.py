"""Installed plugins seen by Hydra: every kind a config group, every plugin an option, its options from its constructor.

Hydra imports this module at each start, so it imports nothing heavy.
"""

import builtins
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from plugformer.conf_dir import conf_dir
from plugformer.config import SETTINGS
from plugformer.options import plain_default
from plugformer.registry import PARTS, find, offers


class PluginSource(ConfigSource):
    """`plugformer://`: `attention/performer` is the plugin of that kind and name."""

    @staticmethod
    def scheme() -> str:
        return "plugformer"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", *PARTS, *SETTINGS)

    def is_config(self, config_path: str) -> bool:
        group, _, name = _without_suffix(config_path).partition("/")
        return name in self._names(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else sorted([*PARTS, *SETTINGS])
        return [] if results_filter == ObjectType.GROUP else self._names(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = _without_suffix(config_path).partition("/")
        if name not in self._names(group):
            raise ConfigLoadError(f"Config not found: {config_path}")
        if group in SETTINGS:
            config, package = vars(SETTINGS[group]()), None
        else:
            config = {"name": name, **find(group, name).options}
            package = f"{group}.{name}" if PARTS[group].many else None
        return ConfigResult(
            config=OmegaConf.create({key: plain_default(value) for key, value in config.items()}),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header={"package": package},
        )

    @staticmethod
    def _names(group: str) -> builtins.list[str]:
        """The plugins of a kind; of settings, their defaults."""
        return ["default"] if group in SETTINGS else list(offers(group)) if group in PARTS else []


class PlugformerSearchPath(SearchPathPlugin):
    """Puts installed plugins on the search path of Plugformer's own compositions, not of other Hydra programs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = str(conf_dir())
        if any(element.path and _path(element.path) == ours for element in search_path.get_path()):
            search_path.append("plugformer", "plugformer://")


def _path(element: str) -> str:
    return str(Path(element.removeprefix("file://")))


def _without_suffix(config_path: str) -> str:
    return config_path.removesuffix(".yaml")
