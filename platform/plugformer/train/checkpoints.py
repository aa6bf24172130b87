"""When a run is saved: its best weights, its last state, and those before it."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from plugformer.data.batches import Batches
from plugformer.data.draws import InOrder
from plugformer.errors import RunFailed
from plugformer.interfaces import Monitor
from plugformer.run_dir import RunDir, onto_disk
from plugformer.settings import TrainerSettings
from plugformer.track.logger import Tracker
from plugformer.train.checkpoint_io import also_as, put, remove
from plugformer.train.resume_generators import generator_states, of_all_ranks, set_generator_states
from plugformer.train.signals import StopSignals


class Checkpoints(Checkpoint):
    """Writes best.ckpt, last.ckpt, and last-1.ckpt and so on before it; and takes up training where one was written.

    Saved is after each epoch, each `save_every` steps, and when a signal asks to stop: always between two optimiser
    steps, once at most. What is best is the last one, too, and the same file on disks that can do so.

    Beside what Lightning keeps (weights, optimiser, schedule, loss scaler, counters, callbacks) a checkpoint holds the
    states of random generators of all ranks, which batches the epoch has left, and what a summary needs.

    Args:
        run: the run directory.
        monitor: decides which is best.
        settings: how often, and how many are kept.
        loader: of training.
        signals: that ask to stop.

    Attributes:
        loss: of the last step that was saved.
        seconds: that training took before this process took it up.
    """

    def __init__(
        self,
        *,
        run: RunDir,
        monitor: Monitor,
        settings: TrainerSettings,
        loader: DataLoader[Any],
        signals: StopSignals | None = None,
    ) -> None:
        self._run, self._monitor, self._settings, self._loader = run, monitor, settings, loader
        self._signals = signals or StopSignals()
        self._best: float | None = None
        self.loss = math.nan
        self.seconds = 0.0
        self._started = 0.0
        self._trainer: pl.Trainer | None = None
        self._pending: dict[str, Any] | None = None  # states of generators, for the next batch
        self._before_validation: dict[str, Any] | None = None

    @property
    def best_model_path(self) -> str:
        """By this name Lightning looks for the best one."""
        return str(self._run.checkpoints / "best.ckpt")

    # ------------------------------------------------------------------------------------------------ when

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._trainer, self._started = trainer, time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self._signals.deferring = True

    def between_steps(self) -> None:
        trainer = self._fitting
        asked = self._signals.agreed()
        every = self._settings.save_every
        if asked or (every and trainer.global_step % every == 0):
            self._save()
        self._stop(asked)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.should_stop:
            return  # the end of training is waited for
        if asked := self._signals.agreed():
            self._save()
            self._stop(asked)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save()
        self._stop(self._signals.agreed())

    def on_train_end(self, *_: Any) -> None:
        self._signals.deferring = False

    def on_exception(self, *_: Any) -> None:
        self._signals.deferring = False

    def _stop(self, asked: int) -> None:
        if asked:
            raise self._signals.stopped(asked)

    @property
    def _fitting(self) -> pl.Trainer:
        assert self._trainer is not None, "training"
        return self._trainer

    # ------------------------------------------------------------------------------------------------ saving

    def _save(self) -> None:
        """
        Raises:
            RunFailed: the disk is full, or the like.
        """
        trainer = self._fitting
        best, self._best = self._best, self._better(trainer.callback_metrics)
        self.loss = float(trainer.callback_metrics.get("train/loss", self.loss))
        new, last = self._run.checkpoints / ".new.ckpt", self._run.checkpoints / "last.ckpt"
        try:
            for logger in trainer.loggers:
                if isinstance(logger, Tracker):
                    logger.flush()  # what was logged before a checkpoint isn't logged again
            trainer.save_checkpoint(new, weights_only=False)
            if trainer.is_global_zero:
                if self._best != best:
                    also_as(new, self._run.checkpoints / "best.ckpt")
                self._keep(last)
                put(new, last)
                onto_disk(self._run.checkpoints)
        except OSError as error:
            remove(new)
            where = last if error.filename in (None, str(new)) else error.filename
            raise RunFailed(
                f"{where}: can't be written ({error.strerror or error}).\n  The run is whole as it was saved before. "
                f"To go on with it: plugformer train resume={self._run.path}"
            ) from None

    def _better(self, metrics: Mapping[str, Any]) -> float | None:
        """The best value so far of what decides."""
        if self._monitor.metric not in metrics:
            return self._best
        worst = math.inf if self._monitor.mode == "min" else -math.inf
        value = float(metrics[self._monitor.metric])
        value = worst if math.isnan(value) else value
        if self._best is None:
            return value
        return min(value, self._best) if self._monitor.mode == "min" else max(value, self._best)

    def _keep(self, last: Path) -> None:
        """Make room for a new last one; at any moment there is a whole one."""
        for path in last.parent.glob("last-*.ckpt"):
            place = path.stem.removeprefix("last-")
            if place.isdecimal() and int(place) >= self._settings.keep_last:
                remove(path)
        alone = self._settings.keep_last == 1 and not last.is_dir()  # a folder can't be replaced in one step
        if alone or not last.exists():
            return
        for number in range(self._settings.keep_last - 2, 0, -1):
            path = last.with_name(f"last-{number}.ckpt")
            if path.exists():
                put(path, last.with_name(f"last-{number + 1}.ckpt"))
        also_as(last, last.with_name("last-1.ckpt"))

    # ------------------------------------------------------------------------------------------------ going on

    def state_dict(self) -> dict[str, Any]:
        trainer = self._fitting
        own = self._before_validation if trainer.validating else self._states()
        assert own is not None
        return {
            "best": self._best,
            "loss": self.loss,
            "seconds": self.seconds + time.perf_counter() - self._started,
            "should_stop": trainer.should_stop,
            "generators": of_all_ranks(own),
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        state, loops = checkpoint["callbacks"][self.state_key], checkpoint["loops"]["fit_loop"]
        self._best, self.loss, self.seconds = state["best"], state["loss"], state["seconds"]
        trainer.should_stop = state["should_stop"]
        if len(state["generators"]) == trainer.world_size:
            self._pending = state["generators"][trainer.global_rank]
        batches, epoch = self._loader.batch_sampler, loops["epoch_progress"]["current"]
        if not isinstance(batches, Batches):
            return
        if not isinstance(batches.sampler, InOrder):  # Lightning comes too late, where workers fetch ahead
            batches.sampler.set_epoch(epoch["processed"])
        whole = epoch["processed"] == epoch["started"] or loops["epoch_loop.state_dict"]["validation_due"]
        batches.start = 0 if whole else loops["epoch_loop.batch_progress"]["current"]["completed"]

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._restore()
            self._before_validation = self._states()

    def on_train_batch_start(self, *_: Any) -> None:
        self._restore()

    def _states(self) -> dict[str, Any]:
        return generator_states(self._fitting.strategy.root_device)

    def _restore(self) -> None:
        """Not before the first batch, for making iterators may draw."""
        if self._pending is not None:
            set_generator_states(self._pending, self._fitting.strategy.root_device)
            self._pending = None
