"""Lightning's trainer from a run's settings."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

from plugformer.interfaces import Monitor
from plugformer.ranks import Rank
from plugformer.run_dir import RunDir
from plugformer.settings import TrainerSettings
from plugformer.train.checkpoint_io import AtomicCheckpointIO
from plugformer.train.non_finite import NonFiniteWatch
from plugformer.train.progress import ProgressBar
from plugformer.train.showing.callback import Showing
from plugformer.train.strategies import make_strategy

OVERFLOWS = {"16-mixed": frozenset({"train/grad_norm"})}  # now and then, by design: such a step is left out
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}


def make_trainer(
    settings: TrainerSettings,
    *,
    run: RunDir,
    rank: Rank = Rank(),  # noqa: B008
    monitor: Monitor,
    loggers: list[Logger],
    callbacks: list[Callback],
    batches_per_epoch: int,
) -> pl.Trainer:
    """A trainer of this rank.

    Args:
        settings: of the run.
        run: whose folder checkpoints go into.
        rank: this process's.
        monitor: decides which checkpoint is best.
        loggers: where metrics go.
        callbacks: besides those that every run has.
        batches_per_epoch: of training.
    """
    quieten()
    progress = settings.progress and rank.first and sys.stdout.isatty()  # a file or a pipe wants the result alone
    own: list[Callback] = [ProgressBar()] if progress else []
    shown: list[Callback] = []
    if not settings.fast_dev_run:
        own.append(_checkpoints(run, monitor))
        if settings.media:
            shown.append(Showing(run=run, samples=settings.media))
    return pl.Trainer(
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
        logger=[*loggers, NonFiniteWatch(run, expected=OVERFLOWS.get(settings.precision, frozenset()))],
        callbacks=[*own, *callbacks, *shown],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.path,
    )


def quieten() -> None:
    """Leave out what Lightning says of itself, and warnings that a user can do nothing about."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    ignored = [
        r".*does not have many workers.*",  # encoding a small image is faster than passing it between processes
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 on torch 2.14
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


def _checkpoints(run: RunDir, monitor: Monitor) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="best",
        monitor=monitor.metric,
        mode=monitor.mode,
        save_top_k=1,
        save_last=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
