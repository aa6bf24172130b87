"""Overrides to a checked composition, with an answer for every way to get them wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

from plugformer.conf_dir import conf_dir
from plugformer.config import Config, check_config, known_keys
from plugformer.errors import UserError, nearest, unknown
from plugformer.registry import PARTS, find, offers, register_file


def compose(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """The composition of these overrides, checked.

    Args:
        overrides: as on the command line; no sweeps.
        config_dir: a folder of further configuration files. They are anybody's: they choose and set, and run nothing.

    Raises:
        UserError: anything that is wrong with them, with the nearest names.
    """
    parsed = parse(overrides)
    if sweeping := [each for each in parsed if each.is_sweep_override()]:
        raise UserError(f"{sweeping[0].input_line}: several values are a sweep. Add -m to run them all.")
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder.")
    files = register_files(parsed)
    try:
        composed = _compose(parsed, config_dir)
    except MissingConfigException as error:
        raise _no_such_choice(error) from None
    except Exception as error:  # Hydra has many kinds, and asserts things of overrides as well
        raise _explain(error, parsed, config_dir) from None
    _check_runs_nothing(composed, files)
    if config_dir is not None or any(each.key_or_group == "hydra.searchpath" for each in parsed):
        _check_sets_nothing_of_hydra(parsed, config_dir)
    _check_additions(parsed, composed)
    return check_config(composed)


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """Check every value of a sweep once, beside the first value of the others; back comes the first composition."""
    choices = [values for each in parse(overrides) if (values := _choices(each))]
    first = [values[0] for values in choices]
    config = compose(first, config_dir)
    for place, values in enumerate(choices):
        for value in values[1:]:
            compose([*first[:place], value, *first[place + 1 :]], config_dir)
    return config


def parse(overrides: Iterable[str]) -> list[Override]:
    """
    Raises:
        UserError: not of the form `key=value`.
    """
    parsed = []
    for text in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except HydraException as error:
            reason = "" if "=" in text else " the equals sign is missing;"
            raise UserError(f"{text}: not an override;{reason} expected KEY=VALUE.{_syntax(error, text)}") from None
        if not parsed[-1].key_or_group:
            raise UserError(f"{text}: not an override; the key is missing; expected KEY=VALUE.")
    return parsed


def _syntax(error: HydraException, text: str) -> str:
    """What the grammar says, where the text looks like an override at all."""
    return f"\n  {str(error).splitlines()[0]}" if "=" in text else ""


def as_hydra_takes_it(override: Override) -> str:
    """An override in Hydra's words: `experiment=null`, as configuration files write it, is `experiment=[]` to it."""
    text = override.input_line or ""
    key, _, value = text.partition("=")
    if override.is_delete() or override.key_or_group not in _groups():
        return text
    return f"{key}={','.join('[]' if each.strip().lower() == 'null' else each for each in value.split(','))}"


def register_files(parsed: Sequence[Override]) -> list[str]:
    """Let the plugin files named on the command line join, before anything is composed."""
    files: list[str] = []
    for override in parsed:
        if override.key_or_group == "plugins":
            paths = override.value()
            if not isinstance(paths, list):
                raise UserError(f"{override.input_line}: expected a list of files, such as plugins=[my_attention.py].")
            files = [str(path) for path in paths]
            for path in files:
                register_file(path)
    return files


def config_groups() -> list[str]:
    """Groups of `conf/` that aren't kinds of plugins, such as `experiment`."""
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra")


@cache
def _groups() -> frozenset[str]:
    """Everything of which a choice is made as GROUP=NAME, but Hydra's own."""
    return frozenset({*PARTS, *config_groups()})


def _compose(parsed: Sequence[Override], config_dir: str | None, *, hydra: bool = False) -> dict[str, Any]:
    """The composition; with `hydra`, Hydra's own part of it instead."""
    further = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir is not None else []
    overrides = [*further, *map(as_hydra_takes_it, parsed)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        composed = hydra_compose("config", overrides, return_hydra_config=hydra)
        return OmegaConf.to_container(composed.hydra if hydra else composed, resolve=not hydra)  # type: ignore[return-value]


def _choices(override: Override) -> list[str]:
    """An override as one override for each value it sweeps over, of an interval its ends; none for `glob`, whose
    values are known only when sweeping."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return []
    key, swept = override.get_key_element(), override.value()
    if isinstance(swept, IntervalSweep):
        return [f"{key}={swept.start}", f"{key}={swept.end}"]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


# ---------------------------------------------------------------------------------------------- files run nothing


def _check_runs_nothing(composed: dict[str, Any], files: Sequence[str]) -> None:
    listed = composed.get("plugins") or []
    if listed != files:
        raise UserError(
            f"plugins={_written(listed)}: a configuration file lists these, and files are run only if the command "
            f"line names them.\n  If you trust them, add plugins={_written(listed)}."
        )


def _check_sets_nothing_of_hydra(parsed: Sequence[Override], config_dir: str | None) -> None:
    """Hydra calls what its own part names (callbacks, launchers, log handlers), so that is the command line's alone."""
    ours = [each for each in parsed if _is_of_hydra(each) and each.key_or_group != "hydra.searchpath"]
    own = dict(_leaves(_compose(ours, None, hydra=True), "hydra"))
    for key, value in _leaves(_compose(parsed, config_dir, hydra=True), "hydra"):
        if own.get(key) != value and not key.startswith(_HARMLESS):
            raise UserError(f"{key}={value}: a configuration file sets this, and only the command line may.")


_HARMLESS = (
    "hydra.job.override_dirname",
    "hydra.mode",
    "hydra.overrides",
    "hydra.run.",
    "hydra.runtime",
    "hydra.searchpath",
    "hydra.sweep.",
    "hydra.sweeper.params",
)


def _is_of_hydra(override: Override) -> bool:
    return override.key_or_group.startswith(("hydra.", "hydra/"))


def _leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every single value of a nested mapping, with its dotted place."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}")
    else:
        yield place, node


def _written(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


# ---------------------------------------------------------------------------------------------- what went wrong


def _check_additions(parsed: Sequence[Override], composed: dict[str, Any]) -> None:
    """`+` lets Hydra take any key, `+experment=digits` too."""
    for override in parsed:
        if not (override.is_add() or override.is_force_add()):
            continue
        key, known = override.key_or_group, [*known_keys(composed), *config_groups()]
        if _is_of_hydra(override):
            if problem := _find_problem_of_hydra(key):
                raise problem
        elif key.split(".")[0] not in known:
            raise _no_such_key(key, known)


def _find_problem_of_hydra(key: str) -> UserError | None:
    node = whole = OmegaConf.structured(HydraConf)
    for name in key.split(".")[1:]:
        if not OmegaConf.is_dict(node) or OmegaConf.get_type(node) is dict:  # free for anybody's keys
            break
        if name not in node:
            return _no_such_key(key, [place for place, _ in _leaves(OmegaConf.to_container(whole), "hydra")])
        node = node._get_node(name)
    return None


def _no_such_choice(error: MissingConfigException) -> UserError:
    """`attention=performr` and its like."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return UserError(str(error).splitlines()[0])
    return _no_such_name(group, name, error.options or [])


def _no_such_name(group: str, name: str, choices: Sequence[str]) -> UserError:
    if group in PARTS:
        try:
            find(group, name)
        except UserError as better:
            return better
    return unknown(f"{group}={name}: no such choice", name, choices)


def _explain(error: Exception, parsed: Sequence[Override], config_dir: str | None) -> UserError:
    """A composition that failed for another reason: usually a key that doesn't exist."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return cause
    choices = [each for each in parsed if each.key_or_group in _groups() and isinstance(each.value(), str | list)]
    try:
        known = known_keys(_compose(choices, config_dir))
    except Exception:  # a choice is what is wrong
        known = sorted(_groups())
    for override in parsed:
        if problem := _find_problem(override, known):
            return problem
    lines = chain(str(error).splitlines(), str(cause).splitlines())
    return UserError(" ".join(dict.fromkeys(line.strip() for line in lines if line.strip())))


def _find_problem(override: Override, known: Sequence[str]) -> UserError | None:
    """What is wrong with an override by itself."""
    text, key, value = override.input_line or "", override.key_or_group, override.value()
    plainly = f"{key}={text.partition('=')[2]}"
    adds = override.is_add() or override.is_force_add()
    if override.package:
        return UserError(f"{text}: a part has one place only. Write {plainly}.")
    if key in _groups():
        if adds:
            return UserError(f"{text}: a group needs no +. Write {plainly}.")
        for name in value if isinstance(value, dict) else ():
            if name != "name" and f"{key}.{name}" not in known:
                return _no_such_key(f"{key}.{name}", known)
        expected = value is None or isinstance(value, str | list | dict)
        files = [file.stem for file in (conf_dir() / key).glob("*.yaml")]
        return None if expected else _no_such_name(key, str(value), files)
    if key in known:
        return UserError(f"{text}: {key} is there already. Write {plainly}.") if override.is_add() else None
    if _is_of_hydra(override):
        return _find_problem_of_hydra(key)
    return _no_such_key(key, [*known, *config_groups()])


def _no_such_key(key: str, known: Sequence[str]) -> UserError:
    kind, _, rest = key.partition(".")
    if kind in PARTS and rest in PARTS[kind].context:
        return UserError(f"{key}: is filled in by the core and can't be set.")
    if kind in PARTS and PARTS[kind].many and rest and not any(name.startswith(f"{kind}.") for name in known):
        name = rest.split(".")[0]
        guess = nearest(name, offers(kind)) or "NAME"
        return UserError(f"{key}: {kind}={name} is not chosen. Add {kind}=[{guess}].")
    for whole in set(known) - _groups():
        if key.startswith(f"{whole}.") and not any(name.startswith(f"{whole}.") for name in known):
            return UserError(f"{key}: {whole} holds nothing to set singly. Set it as a whole, as {whole}=VALUE.")
    parent = key.rpartition(".")[0]
    while parent and not any(name.startswith(f"{parent}.") for name in known):
        parent = parent.rpartition(".")[0]
    siblings = sorted({name for name in known if name.rpartition(".")[0] == parent})
    siblings = siblings or sorted({name for name in known if name.startswith(f"{parent}.")})
    close = nearest(key, known)
    hint = f" Did you mean {close}?" if close else ""
    return UserError(f"{key}: no such option.{hint}\n  Possible: {', '.join(siblings)}")
