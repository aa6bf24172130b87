"""Whether a composition begins a run or goes on with one that stopped. Imports no plugin and no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugformer.config import Config, check_config
from plugformer.errors import UserError
from plugformer.overriding import override_config
from plugformer.recorded import load_config
from plugformer.registry import PARTS
from plugformer.run_dir import RunDir, plain

# What may be another when a run goes on: it changes nothing of what is learned …
HARMLESS = (
    "run_dir",
    "resume",
    "plugins",
    "logger",
    "loader.num_workers",
    "trainer.checkpoint",
    "trainer.keep_last",
    "trainer.log_every",
    "trainer.media",
    "trainer.on_bad_loss",
    "trainer.profiler",
    "trainer.progress",
    "trainer.save_every",
    "trainer.spike",
)
# … or nothing but the last bits of it, and which units dropout leaves out …
NEARLY_HARMLESS = (
    "trainer.accelerator",
    "trainer.compile",
    "trainer.deterministic",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)
# … or how long is trained, which is looked at with the schedule at hand.
LENGTH = ("trainer.max_epochs", "trainer.max_steps")


@dataclass(frozen=True)
class Plan:
    """What training a composition comes to.

    Attributes:
        config: to train with; its `resume` names the run directory if a run goes on, and is None if one begins.
        finished: whether there is nothing left to train.
        lines: for the user.
    """

    config: Config
    finished: bool = False
    lines: tuple[str, ...] = ()


def plan(config: Config) -> Plan:
    """Go on if the composition's run directory holds a run of the same composition, else begin.

    Args:
        config: a checked composition.

    Raises:
        UserError: the directory holds a run of another composition, or what it holds is damaged.
    """
    run = RunDir(config["run_dir"])
    if not run.config.is_file():
        run.check_free()
        return Plan(config | {"resume": None})
    try:
        saved = load_config(run.path)
    except UserError as error:
        raise UserError(
            f"run_dir={run.path}: holds a run already, which can't go on here.\n  {error}\n  Choose another run_dir."
        ) from None
    found = dict(differences(saved, config))
    check_goes_on(run, found)
    finished = run.summary.is_file() and not any(key in found for key in LENGTH)
    going = config | {"resume": str(run.path)}
    if finished:
        return Plan(going, True, (f"{run.path}: finished already; {run.summary} has its metrics.",))
    return Plan(going, False, tuple(_told(found)))


def from_run(path: str | Path, values: Mapping[str, Any]) -> Config:
    """The composition of a run that is to go on, with options set.

    Args:
        path: the run directory.
        values: by dotted keys, as from the command line.

    Raises:
        UserError: not a run directory, or an option that it doesn't have; `plan` says which may be set.
    """
    saved = load_config(path)
    chosen = {key: _chosen(key, value) for key, value in values.items() if key not in ("resume", "plugins")}
    return check_config(override_config(saved, chosen)) | {"run_dir": str(path)}


def _chosen(key: str, value: Any) -> Any:
    """A plugin's name as the composition has it."""
    if key not in PARTS or isinstance(value, Mapping):
        return value
    if not PARTS[key].many:
        return value if value is None else {"name": value}
    names = value if isinstance(value, list) else [value] * (value is not None)
    return {name: {"name": name} for name in names}


def check_goes_on(run: RunDir, found: Mapping[str, tuple[Any, Any]]) -> None:
    """
    Args:
        run: a run directory.
        found: how the composition differs from the run's.

    Raises:
        UserError: it differs in what decides what is learned.
    """
    other = {
        key: values for key, values in found.items() if not _is_one_of(key, (*HARMLESS, *NEARLY_HARMLESS, *LENGTH))
    }
    if not other:
        return
    lines = [f"{key}: {_written(there)} there, {_written(here)} here" for key, (there, here) in other.items()]
    may = ", ".join((*HARMLESS[3:], *NEARLY_HARMLESS, *LENGTH))
    raise UserError(
        "\n  ".join(
            [
                f"run_dir={run.path}: holds a run already, of another composition.",
                *lines,
                f"Choose another run_dir, or go on with that run: plugformer train resume={run.path}",
                f"When a run goes on, these may be set anew: {may}.",
            ]
        )
    )


def differences(there: Config, here: Config) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted keys whose values differ, with both values; a key that is only on one side has None on the other."""
    a, b = dict(_leaves(plain(there))), dict(_leaves(plain(here)))
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield key, (a.get(key), b.get(key))


def _leaves(node: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        where = f"{place}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _leaves(value, where)
        else:
            yield where, value


def _is_one_of(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _told(found: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """What the user should know of what is another than it was."""
    for key, (there, here) in found.items():
        if _is_one_of(key, (*NEARLY_HARMLESS, *LENGTH)):
            same = "" if key in LENGTH else "; results are the same but for rounding and for what dropout leaves out"
            yield f"{key} was {_written(there)} and is {_written(here)}{same}."


def _written(value: Any) -> str:
    """As on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
