"""Lightning's trainer from a run's settings."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler
from torch.utils.data import DataLoader

from plugformer.interfaces import Monitor
from plugformer.ranks import Rank
from plugformer.run_dir import RunDir
from plugformer.settings import TrainerSettings
from plugformer.train.checkpoint_io import AtomicCheckpointIO
from plugformer.train.checkpoints import Checkpoints
from plugformer.train.known_ranks import KnownRanks
from plugformer.train.non_finite import NonFiniteWatch
from plugformer.train.progress import ProgressBar
from plugformer.train.resume_loop import StepLoop
from plugformer.train.showing.callback import Showing
from plugformer.train.signals import StopSignals
from plugformer.train.strategies import make_strategy

OVERFLOWS = {"16-mixed": frozenset({"train/grad_norm"})}  # now and then, by design: such a step is left out
TOLD = frozenset({"train/loss", "train/grad_norm", "train/update_norm"})  # by `LossWatch`, which does more
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


def make_trainer(
    settings: TrainerSettings,
    *,
    run: RunDir,
    rank: Rank = Rank(),  # noqa: B008
    monitor: Monitor,
    loggers: list[Logger],
    callbacks: list[Callback],
    training: DataLoader[Any],
    signals: StopSignals | None = None,
) -> pl.Trainer:
    """A trainer of this rank.

    Args:
        settings: of the run.
        run: whose folder checkpoints go into.
        rank: this process's.
        monitor: decides which checkpoint is best.
        loggers: where metrics go.
        callbacks: besides those that every run has.
        training: the batches of an epoch.
        signals: that ask to stop.
    """
    quieten()
    progress = settings.progress and rank.first and sys.stdout.isatty()  # a file or a pipe wants the result alone
    own: list[Callback] = [ProgressBar()] if progress else []
    shown: list[Callback] = []
    checkpoints = Checkpoints(run=run, monitor=monitor, settings=settings, loader=training, signals=signals)
    if not settings.fast_dev_run:
        own.append(checkpoints)
        if settings.media:
            shown.append(Showing(run=run, samples=settings.media))
    batches_per_epoch = len(training)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices if rank.world > 1 else 1,
        num_nodes=settings.num_nodes if rank.world > 1 else 1,
        strategy=make_strategy(rank, settings),
        use_distributed_sampler=False,  # our own batches know their rank
        precision=settings.precision,
        max_epochs=settings.max_epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        gradient_clip_val=settings.gradient_clip,
        accumulate_grad_batches=settings.accumulate,
        deterministic=settings.deterministic,
        check_val_every_n_epoch=min(settings.val_every, settings.max_epochs),
        log_every_n_steps=max(
            1, min(settings.log_every, settings.limit_batches or batches_per_epoch, batches_per_epoch)
        ),
        limit_train_batches=settings.limit_batches,
        limit_val_batches=settings.limit_batches,
        limit_test_batches=settings.limit_batches,
        fast_dev_run=settings.fast_dev_run,
        profiler=PROFILERS[settings.profiler](run.path, "profile") if settings.profiler else None,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=not settings.fast_dev_run,
        logger=[*loggers, _non_finite(run, settings)],
        callbacks=[*own, *callbacks, *shown],
        plugins=[AtomicCheckpointIO(), KnownRanks(rank, devices=settings.devices)],
        default_root_dir=run.path,
    )
    if not settings.fast_dev_run:
        trainer.fit_loop.epoch_loop = StepLoop(trainer, between_steps=checkpoints.between_steps)
    # Else a run with `max_steps` that goes on would come to the end of the epoch before once more.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    _leave_signals_alone(trainer)
    return trainer


def _leave_signals_alone(trainer: pl.Trainer) -> None:
    """Lightning would end within a step, and speak to other ranks while they may speak of something else."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def _non_finite(run: RunDir, settings: TrainerSettings) -> NonFiniteWatch:
    told = frozenset() if settings.on_bad_loss == "warn" else TOLD
    return NonFiniteWatch(run, expected=OVERFLOWS.get(settings.precision, frozenset()), told=told)


def quieten() -> None:
    """Leave out what Lightning says of itself, and warnings that a user can do nothing about."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    ignored = [
        r".*does not have many workers.*",  # encoding a small image is faster than passing it between processes
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 on torch 2.14
        r".*It is recommended to use `self.log\(.*sync_dist=True\)`.*",  # metrics are of all ranks already
        r"FSDP2-wrapped module .* returned a view tensor.*",  # our blocks change nothing in place
        r"You're resuming from a checkpoint that ended before the epoch ended.*",  # our batches go on where it ended
    ]
    for message in ignored:
        warnings.filterwarnings("ignore", message)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C be a KeyboardInterrupt: Lightning makes a silent exit of it, and ignores it ever after."""
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
