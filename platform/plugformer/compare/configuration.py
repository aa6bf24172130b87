"""In what runs differ, as their compositions say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plugformer.config import SETTINGS
from plugformer.errors import UserError
from plugformer.options import check_options
from plugformer.registry import PARTS, check
from plugformer.run_dir import plain
from plugformer.signatures import read_class

# They decide what is shown and where it stands, not what comes out.
NO_DIFFERENCE = (
    "run_dir",
    "resume",
    "logger",
    "loader.num_workers",
    *(f"trainer.{option}" for option in ("progress", "media", "log_every", "profiler", "save_every", "keep_last")),
)
ABSENT = None
Flat = Mapping[str, Any]


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composition with the defaults of options that it leaves out, such as those that came later than the run.

    A part that isn't installed, or has other options now, stays as it stands.
    """
    return {key: plain(_complete_part(key, node)) for key, node in config.items()}


def _complete_part(key: str, node: Any) -> Any:
    if not isinstance(node, Mapping) or not node:
        return node
    try:
        if key in SETTINGS:
            return check_options(read_class(SETTINGS[key]), node, key, key)
        if key in PARTS and PARTS[key].many:
            return {name: check(key, each, f"{key}.{name}") for name, each in node.items()}
        return check(key, node) if key in PARTS else node
    except UserError:
        return node


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted keys; a part's name stands under the part's own key, as in `attention=performer`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif key == "name" and prefix:
            flat[prefix[:-1]] = value
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def settled(flat: Flat, over: Iterable[str] = ()) -> dict[str, Any]:
    """Without what makes no difference, the seed, and what runs of one group may differ in besides."""
    ignored = (*NO_DIFFERENCE, "seed", *over)
    return {key: value for key, value in flat.items() if not any(_within(key, name) for name in ignored)}


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def identity(flat: Flat) -> str:
    """The same for the same values, whatever their order."""
    return json.dumps(plain(flat), sort_keys=True, default=str)


def differing(flats: Sequence[Flat]) -> list[str]:
    """The keys that don't have one value in all, in their order.

    An option that only some choices of a part have is no difference of its own as long as it has one value among those
    that have it: the choice says it all.
    """
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if _differs(key, flats)]


def _differs(key: str, flats: Sequence[Flat]) -> bool:
    having = [flat for flat in flats if key in flat]
    values = {identity({key: flat[key]}) for flat in having}
    if len(values) > 1:
        return True
    if len(having) == len(flats):
        return False
    part = key.rpartition(".")[0]
    while part:
        chosen = {identity({part: flat.get(part, ABSENT)}) for flat in flats}
        if len(chosen) > 1 and all(part in flat for flat in having):
            return False
        part = part.rpartition(".")[0]
    return next(iter(values), identity({key: None})) != identity({key: None})  # absent is as good as null


def all_differences(flats: Sequence[Flat]) -> list[str]:
    """Every key that isn't the same in all, even if a part's choice implies it."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({identity({key: flat.get(key, ABSENT)}) for flat in flats}) > 1]


def told(value: Any) -> str:
    """A value as it is written in an override."""
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), ensure_ascii=False, default=str)
