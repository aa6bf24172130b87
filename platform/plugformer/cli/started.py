"""`plugformer train` where torchrun or srun started it several times: each process is a rank of one run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from plugformer.cli.compose import parse, register_files
from plugformer.config import Config, check_config
from plugformer.errors import UserError
from plugformer.launch.frozen import Frozen
from plugformer.ranks import Rank
from plugformer.resuming import plan
from plugformer.settings import TrainerSettings


def train_as_rank(rank: Rank, flags: Namespace, compose: Callable[[Namespace], Config]) -> int:
    """The first rank composes, and the others get what it has, so that they agree whatever depends on time or chance.

    Args:
        rank: this process's.
        flags: of the command line.
        compose: them.

    Raises:
        UserError, RunFailed, Exception: of the first rank that fails; the others exit with its code and say nothing.
    """
    from plugformer.train.meeting import Meeting  # heavy: torch and Lightning
    from plugformer.train.processes import check_processes
    from plugformer.train.run import train

    meeting = Meeting(rank=rank)

    def made() -> dict[str, Any]:
        if flags.multirun:
            raise UserError("-m: one sweep for each process. Leave torchrun or srun out: a sweep starts its own.")
        config = compose(flags)
        check_processes(rank, TrainerSettings(**config["trainer"]))
        going = plan(config)
        for line in going.lines:
            print(line)
        return {"finished": going.finished, "job": Frozen.here(going.config).record()}

    shared = meeting.shared(made)
    if shared is None:
        return 2
    if shared["finished"]:
        return 0
    try:
        if not rank.first:
            register_files(parse(flags.overrides))
        train(check_config(Frozen.of(shared["job"], "the first rank").config))
    except Exception as error:
        if meeting.speaks():
            raise
        return 2 if isinstance(error, UserError) else 1
    return 0
