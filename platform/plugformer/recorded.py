"""What a run directory says of its composition. Imports no plugin and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugformer.config import Config, check_config
from plugformer.errors import UserError
from plugformer.registry import offers
from plugformer.run_dir import RunDir, read_json


def load_config(path: str | Path) -> Config:
    """The composition of a run, checked: it can but name plugins that are installed (or were registered before).

    Raises:
        UserError: not a run directory, or its composition can't be used here.
    """
    run = RunDir.open(path)
    config = run.read_config()
    try:
        return check_config(config)
    except UserError as error:
        raise UserError("\n  ".join([f"{run.config}: {error}", *_missing_plugins(run)])) from None


def _missing_plugins(run: RunDir) -> list[str]:
    """For each plugin that the run used and that isn't here: where it came from."""
    try:
        used = read_json(run.plugins)
        return [
            f"The run used {place}={its['name']}: {its['entry_point']} of {its['package']} {its['version']}."
            for place, its in used.items()
            if its["name"] not in offers(place.partition(".")[0])
        ]
    except (UserError, AttributeError, KeyError, TypeError):  # the record can but help
        return []


def other_versions(used: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for each package whose plugins were of another version than they are here, and for each plugin that comes
    from elsewhere.

    Args:
        used: as `provenance` told then.
        here: as it tells now.
    """
    lines = {}
    for place, now in here.items():
        then = used.get(place)
        if then is None or then["name"] != now["name"]:
            continue
        if then["package"] != now["package"]:
            was = f"{then['package']} {then['version']}"
            lines[place] = f"{place}={now['name']} was of {was}, and is of {now['package']} {now['version']}"
        elif then["version"] != now["version"]:
            package = now["package"]
            lines[package] = f"{package} was of version {then['version']}, and is of {now['version']}"
    return list(lines.values())
