"""A run that goes on: whether it can, and what changes by it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from plugformer.config import Config, provenance
from plugformer.errors import UserError, counted
from plugformer.interfaces import Schedule
from plugformer.recorded import load_config, other_versions
from plugformer.resuming import LENGTH, check_goes_on, differences
from plugformer.run_dir import RunDir
from plugformer.train.resume_records import Progress, check_data, rewind


def goes_on(config: Config) -> bool:
    """Whether there is a checkpoint to go on from; a run that has none yet begins anew."""
    return config["resume"] is not None and any(RunDir(config["run_dir"]).checkpoints.glob("last*.ckpt"))


def check_same(config: Config) -> None:
    """
    Raises:
        UserError: the run is of another composition.
    """
    if config["resume"] is not None:
        run = RunDir(config["run_dir"])
        check_goes_on(run, dict(differences(load_config(run.path), config)))


def take_up(
    run: RunDir, config: Config, progress: Progress, *, data: Mapping[str, Any], schedule: Schedule, batches: int
) -> None:
    """Make a run directory ready for its run to go on.

    Args:
        run: the run directory.
        config: to go on with.
        progress: how far it came.
        data: what data.json would say now.
        schedule: of the learning rate.
        batches: small ones in an epoch.

    Raises:
        UserError: the run can't go on.
    """
    check_data(run, data)
    saved = load_config(run.path)
    check_length(progress, saved, config, schedule=schedule, batches=batches)
    rewind(run, progress.steps)
    going = config | {key: saved[key] for key in ("run_dir", "resume")}
    if going != saved:
        run.write_config(going)


def check_length(progress: Progress, saved: Config, config: Config, *, schedule: Schedule, batches: int) -> None:
    """A run may be made longer if a longer run would have been the same up to here.

    Raises:
        UserError: it wouldn't.
    """
    then, now = saved["trainer"], config["trainer"]
    changed = [key for key in LENGTH if then[_last(key)] != now[_last(key)]]
    if not changed:
        return
    before, after = _total_steps(then, batches), _total_steps(now, batches)
    what = ", ".join(f"{key}={now[_last(key)]}" for key in changed)
    if after < progress.steps:
        raise UserError(f"{what}: the run has made {counted(progress.steps, 'step')} already, and this makes {after}.")
    if progress.steps == then["max_steps"] and progress.steps % _steps(then, batches):
        raise UserError(
            f"{what}: the run has ended within an epoch, at trainer.max_steps={then['max_steps']}, and a longer one "
            "would have done so nowhere.\n  Begin another run, perhaps with the weights of this one: "
            f"init_from={progress.checkpoint.parent.parent}"
        )
    for step in range(progress.steps):
        if schedule.factor(step, before) != schedule.factor(step, after):
            raise UserError(
                f"{what}: the learning rate of schedule={config['schedule']['name']} depends on the length of the run: "
                f"at step {step} it was {schedule.factor(step, before):.4g} of the full one, and in a run of "
                f"{after} steps it would have been {schedule.factor(step, after):.4g}.\n  Begin another run, perhaps "
                f"with the weights of this one: init_from={progress.checkpoint.parent.parent}"
            )


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _steps(trainer: Mapping[str, Any], batches: int) -> int:
    """Of an epoch."""
    return math.ceil(min(batches, trainer["limit_batches"] or batches) / trainer["accumulate"])


def _total_steps(trainer: Mapping[str, Any], batches: int) -> int:
    steps = trainer["max_epochs"] * _steps(trainer, batches)
    return min(steps, trainer["max_steps"] or steps)


def lines(progress: Progress, config: Config, *, world: int) -> Iterator[str]:
    """What the user is told."""
    where = f"within epoch {progress.epochs + 1}" if progress.within else f"after {counted(progress.epochs, 'epoch')}"
    yield f"goes on where it stopped: after {counted(progress.steps, 'step')}, {where}"
    for line in other_versions(progress.record["plugins"], provenance(config)):
        yield f"{line}: results may differ from those of a run that never stopped"
    if progress.world != world:
        yield (
            f"the number of processes was {progress.world} and is {world}: dropout leaves out other units than in a "
            "run that never stopped"
        )
