"""What a whole composition may say, and the check that it says nothing else. Imports no plugin and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugformer.errors import UserError, unknown
from plugformer.options import check_options
from plugformer.registry import PARTS, check, find, find_kind
from plugformer.settings import LoaderSettings, RunSettings, TrainerSettings
from plugformer.signatures import read_class

SETTINGS = {"trainer": TrainerSettings, "loader": LoaderSettings}
Config = dict[str, Any]


def check_config(config: Mapping[str, Any]) -> Config:
    """A composition with every value checked and converted: plugins by their signatures, the rest by the settings.

    What it leaves out besides plugins has its default.

    Raises:
        UserError: an unknown key or plugin, a missing value, a value of the wrong type.
    """
    run = read_class(RunSettings)
    known = [*PARTS, *SETTINGS, *run.parameters]
    for key in config:
        if key not in known:
            raise unknown(f"{key}: no such part of a run", key, known)
    missing = [kind for kind, part in PARTS.items() if kind not in config and not (part.many or part.optional)]
    if missing:
        raise UserError(f"The composition has no {', '.join(missing)}. Choose one with {missing[0]}=NAME.")
    checked: Config = {}
    for kind in PARTS:
        if config.get(kind) is not None or (kind in config and not PARTS[kind].optional):
            node = config[kind]
            checked[kind] = _check_many(kind, node) if PARTS[kind].many else check(kind, _mapping(kind, node))
    for key, settings in SETTINGS.items():
        checked[key] = check_options(read_class(settings), _mapping(key, config.get(key, {})), key, key)
    return checked | check_options(run, {key: config[key] for key in run.parameters if key in config}, "", "a run")


def _check_many(kind: str, nodes: Any) -> dict[str, Any]:
    places = {f"{kind}.{name}": node for name, node in _mapping(kind, nodes or {}).items()}
    return {place.partition(".")[2]: check(kind, _mapping(place, node), place) for place, node in places.items()}


def _mapping(key: str, node: Any) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        raise UserError(
            f"{key}={node}: expected options, not a single value. "
            f"A configuration file chooses a part in its defaults list, as in `override /{key}: NAME`."
        )
    return node


def known_keys(config: Mapping[str, Any]) -> list[str]:
    """Every dotted key that may be set in a composition, for suggestions."""
    run = read_class(RunSettings)
    keys = [*run.parameters, *PARTS, *SETTINGS]
    for key, settings in SETTINGS.items():
        keys += [f"{key}.{name}" for name in read_class(settings).parameters]
    for kind, node in config.items():
        if kind in PARTS and isinstance(node, Mapping):
            nodes = {f"{kind}.{name}": each for name, each in node.items()} if PARTS[kind].many else {kind: node}
            keys += [
                f"{place}.{name}"
                for place, each in nodes.items()
                if isinstance(each, Mapping) and "name" in each
                for name in find(kind, each["name"]).options
            ]
    return keys


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """For every plugin of a composition: entry point, package, version and options."""
    used: dict[str, Any] = {}
    for kind in PARTS:
        node = config.get(kind) or {}
        nodes = {f"{kind}.{name}": each for name, each in node.items()} if find_kind(kind).many else {kind: node}
        for place, each in nodes.items():
            if each:
                options = {key: value for key, value in each.items() if key != "name"}
                used[place] = find(kind, each["name"]).provenance() | {"options": options}
    return used
