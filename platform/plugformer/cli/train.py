"""`plugformer train [overrides]`: one run, or a sweep with -m."""

from __future__ import annotations

import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from plugformer.cli.compose import as_hydra_takes_it, compose, compose_sweep, parse, register_files
from plugformer.cli.started import train_as_rank
from plugformer.conf_dir import conf_dir
from plugformer.config import Config, check_config
from plugformer.errors import UserError, message
from plugformer.launch.failure import INTERRUPTED
from plugformer.launch.frozen import Frozen
from plugformer.launch.launch import launch, objective
from plugformer.launch.sweep import Sweep, begun, tell
from plugformer.ranks import Rank
from plugformer.resuming import from_run, plan
from plugformer.run_dir import RunDir


def main(argv: list[str]) -> int:
    flags = get_args_parser().parse_args(argv)
    for flag in ("config_path", "config_name", "package", "experimental_rerun"):
        if getattr(flags, flag):
            raise UserError(f"--{flag.replace('_', '-')}: not possible here. Add files with --config-dir DIR.")
    if any((flags.help, flags.hydra_help, flags.info, flags.shell_completion)):
        register_files(parse(flags.overrides))
    elif flags.multirun and flags.cfg:
        raise UserError("--cfg shows one composition: leave out -m.")
    elif (rank := Rank.of()).world > 1 and not flags.cfg:
        return train_as_rank(rank, flags, compose_one)
    elif flags.multirun:
        Sweep(_checked_sweep(flags)["run_dir"]).check_free()
        return _sweep(argv, flags.overrides)
    elif _resumes(parse(flags.overrides)):
        return _run(compose_one(flags), _for_ranks(parse(flags.overrides)))
    else:
        config = compose_one(flags)
        if not flags.cfg:
            plan(config)  # which refuses what can't be, before Hydra makes a folder
    _hand_over(argv, flags.overrides)
    return 0


def compose_one(flags: Namespace) -> Config:
    """What the command line asks for; with `resume`, a run's own composition with options of it set anew."""
    parsed = parse(flags.overrides)
    if not (resumed := _resumes(parsed)):
        return compose(flags.overrides, flags.config_dir)
    if flags.cfg or flags.config_dir:
        raise UserError(f"{'--cfg' if flags.cfg else '--config-dir'}: not beside {resumed.input_line}.")
    for each in parsed:
        if each.is_sweep_override() or each.is_add() or each.is_delete():
            raise UserError(f"{each.input_line}: expected KEY=VALUE of an option of that run.")
    register_files(parsed)
    values = {each.key_or_group: each.value() for each in parsed}
    return from_run(str(resumed.value()), values)


def _resumes(parsed: Sequence[Override]) -> Override | None:
    """The override that names a run to go on with."""
    return next((each for each in parsed if each.key_or_group == "resume" and each.value() is not None), None)


def _checked_sweep(flags: Namespace) -> Config:
    if resumed := _resumes(parse(flags.overrides)):
        raise UserError(f"{resumed.input_line}: goes on with one run. `plugformer resume SWEEP_DIR` does with a sweep.")
    return compose_sweep(flags.overrides, flags.config_dir)


def _for_ranks(parsed: Sequence[Override]) -> list[str]:
    """What each process of a job is told besides its composition: which plugin files the command line names."""
    named = [each.input_line or "" for each in parsed if each.key_or_group == "plugins"]
    return [*named, *(["--traceback"] if "--traceback" in sys.orig_argv else [])]


# ---------------------------------------------------------------------------------------------- through Hydra


def _hand_over(argv: list[str], overrides: list[str]) -> None:
    """To Hydra, which composes each job and calls it."""
    taken = {text: as_hydra_takes_it(override) for text, override in zip(overrides, parse(overrides), strict=True)}
    own = sys.argv
    sys.argv = [own[0], *(taken.get(argument, argument) for argument in argv)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    finally:
        sys.argv = own


def _sweep(argv: list[str], overrides: list[str]) -> int:
    try:
        _hand_over(argv, overrides)
    finally:
        codes = [tell(sweep) for sweep in begun.values()]
        begun.clear()
    return max(codes, default=0)


def job(composed: DictConfig) -> float | None:
    """What Hydra calls for each job, in this process or, as its launcher has it, in another; back comes how good the
    run is, for its sweeper.

    A single run is trained in this process. A job of a sweep has processes of its own, so that whatever ends it, even
    for want of memory, ends nothing else.
    """
    its = HydraConfig.get()
    parsed = parse(its.overrides.task)
    if its.mode == RunMode.MULTIRUN:
        return _job_of_sweep(its.sweep.dir, its.job.num, parsed)
    try:
        config = check_config(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        config["run_dir"] = its.runtime.output_dir
        code = _run(config, _for_ranks(parsed))
    except Exception as error:
        if "--traceback" in sys.orig_argv:
            traceback.print_exception(error)
        print(f"plugformer: {message(error)}", file=sys.stderr)
        code = 2 if isinstance(error, UserError) else 1
    if code:
        raise SystemExit(code)
    return objective(RunDir(config["run_dir"]))


def _job_of_sweep(folder: str, number: int, parsed: Sequence[Override]) -> float | None:
    if (rank := Rank.of()).world > 1:
        raise UserError(
            f"One of {rank.world} processes that were started together: a job of a sweep starts its own. "
            "Set hydra.launcher.tasks_per_node=1."
        )
    register_files(parsed)
    return Sweep(folder).run(number, _for_ranks(parsed))


# ---------------------------------------------------------------------------------------------- one run


def _run(config: Config, for_ranks: Sequence[str]) -> int:
    """Train as composed, in this process or in one for each of several devices."""
    going = plan(config)
    for line in going.lines:
        print(line, flush=True)
    if going.finished:
        return 0
    if config["trainer"]["devices"] * config["trainer"]["num_nodes"] == 1:
        from plugformer.train.run import train  # heavy: torch and Lightning

        train(going.config)
        return 0
    outcome = launch(Frozen.here(going.config), for_ranks)
    if outcome.message is not None:
        print(f"plugformer: {outcome.message}", file=sys.stderr)
    if outcome.code == INTERRUPTED:
        raise KeyboardInterrupt
    return outcome.code
