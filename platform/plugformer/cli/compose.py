"""Overrides to a checked composition, with an answer for every way to get them wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plugformer.conf_dir import conf_dir
from plugformer.config import Config, check_config, known_keys
from plugformer.errors import UserError, nearest, unknown
from plugformer.registry import KINDS, find, register_file


def compose(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """The composition of these overrides, checked.

    Args:
        overrides: as on the command line; no sweeps.
        config_dir: a folder of further configuration files.

    Raises:
        UserError: anything that is wrong with them, with the nearest names.
    """
    parsed = parse(overrides)
    if sweeping := [each for each in parsed if each.is_sweep_override()]:
        raise UserError(f"{sweeping[0].input_line}: several values are a sweep. Add -m to run them all.")
    register_files(parsed)
    try:
        return check_config(_compose(overrides, config_dir))
    except MissingConfigException as error:
        raise _no_such_choice(error) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, config_dir) from None


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Check every value of a sweep once, beside the first value of the others."""
    parsed = parse(overrides)
    choices = [_choices(each) for each in parsed]
    first = [values[0] for values in choices]
    compose(first, config_dir)
    for place, values in enumerate(choices):
        for value in values[1:]:
            compose([*first[:place], value, *first[place + 1 :]], config_dir)


def parse(overrides: Iterable[str]) -> list[Override]:
    """
    Raises:
        UserError: not of the form `key=value`.
    """
    parsed = []
    for text in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except OverrideParseException as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{text}: expected an override, such as KEY=VALUE ({reason}).") from None
    return parsed


def register_files(parsed: Sequence[Override]) -> None:
    """Let the plugin files named on the command line join, before anything is composed."""
    for override in parsed:
        if override.key_or_group == "plugins":
            paths = override.value()
            if not isinstance(paths, list):
                raise UserError(f"{override.input_line}: expected a list of files, such as plugins=[my_attention.py].")
            for path in paths:
                register_file(str(path))


def config_groups() -> list[str]:
    """Groups of `conf/` that aren't kinds of plugins, such as `experiment`."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra")


def _compose(overrides: Sequence[str], config_dir: str | None) -> Any:
    further = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        composed = hydra_compose("config", [*further, *overrides])
        return OmegaConf.to_container(composed, resolve=True)


def _choices(override: Override) -> list[str]:
    """An override as one override for each value it sweeps over; those known only when sweeping are left out."""
    if not override.is_choice_sweep() and not override.is_range_sweep():
        return [override.input_line or ""]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _no_such_choice(error: MissingConfigException) -> UserError:
    """`attention=performr` and its like."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group in KINDS:
        try:
            find(group, name)
        except UserError as better:
            return better
    if not group:
        return UserError(str(error).splitlines()[0])
    return unknown(f"{group}={name}: no such choice", name, error.options or [])


def _explain(error: Exception, parsed: Sequence[Override], config_dir: str | None) -> UserError:
    """A composition that failed for another reason: usually a key that doesn't exist."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return cause
    groups = {*KINDS, *config_groups(), "hydra"}
    choices = [each for each in parsed if each.key_or_group.split("@")[0] in groups]
    try:
        known = known_keys(_compose([each.input_line or "" for each in choices], config_dir))
    except (HydraException, OmegaConfBaseException, UserError):
        known = list(groups)
    for override in parsed:
        key = override.key_or_group
        if key.split("@")[0].split("/")[0] in groups or key in known or key.startswith("hydra."):
            continue
        return _no_such_key(key, [*known, *config_groups()])
    lines = chain(str(error).splitlines(), str(cause).splitlines())
    return UserError(" ".join(dict.fromkeys(line.strip() for line in lines if line.strip())))


def _no_such_key(key: str, known: Sequence[str]) -> UserError:
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if not siblings:
        siblings = [name for name in known if "." not in name]
    guess = nearest(key, known)
    hint = f" Did you mean {guess}?" if guess else ""
    return UserError(f"{key}: no such option.{hint}\n  Possible: {', '.join(sorted(set(siblings)))}")
