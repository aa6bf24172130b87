"""Looks at the loss of every step, and ends training or goes back where it shows that something went wrong."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor, nn

from plugformer.errors import RunFailed
from plugformer.interfaces import Batch
from plugformer.run_dir import RunDir
from plugformer.train.bad_batches import SeenBatch, append
from plugformer.train.module import TrainingModule
from plugformer.train.rollback import Snapshot
from plugformer.train.spikes import WINDOW, Kind, Losses

EVERY = 50  # steps between two copies of the weights
MOST = 10  # times that a run goes back


@dataclass(frozen=True)
class Step:
    """
    Attributes:
        number: from 0, as in metrics.csv.
        index: int `[samples]` of each small batch of this process, on the device.
        loss: tells that of the global batch, once the device knows it.
    """

    number: int
    epoch: int
    index: Sequence[Tensor]
    loss: Callable[[], float]


class LossWatch(Callback):
    """Stops, goes back or warns when a loss is NaN, infinite or a spike, and writes down of which samples it was.

    On the CPU it looks before the weights are changed. Elsewhere it looks a step late, so that the device needn't be
    waited for, but before anything is validated or saved. All processes see the same loss and do the same.

    Args:
        run: the run directory.
        on_bad_loss, spike, save_every: as in `trainer`.
    """

    def __init__(
        self, run: RunDir, *, on_bad_loss: Literal["stop", "skip", "warn"], spike: float | None, save_every: int | None
    ) -> None:
        self._run, self._on_bad_loss, self._save_every = run, on_bad_loss, save_every
        self._losses = Losses(deviations=spike)
        self._trainer: pl.Trainer | None = None
        self._index: list[Tensor] = []
        self._waiting: Step | None = None
        self._before: SeenBatch | None = None
        self._warned = self._going_back = False
        self._snapshot: Snapshot | None = None
        self._due = True
        self._rollbacks = 0

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, _: int) -> None:
        self._index.append(batch["index"])

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._look(trainer)
        loss = cast("TrainingModule", module).step_loss
        self._waiting = Step(trainer.global_step, trainer.current_epoch, self._index, _reading(loss))
        self._index = []
        copying = self._on_bad_loss == "skip" and (self._due or trainer.global_step % EVERY == 0)
        if copying or looks_at_once(loss.device):
            self._look(trainer)
        if copying and not self._going_back:
            self._snapshot = None  # the one before needn't be held any longer
            self._snapshot = Snapshot(step=trainer.global_step, modules=_with_weights(trainer), optimizer=optimizer)
            self._due = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._save_every is not None and trainer.global_step % self._save_every == 0:
            self._look(trainer)
        self._go_back(trainer)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)
        self._go_back(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._look(trainer)
        self._go_back(trainer)

    def on_save_checkpoint(self, *_: Any) -> None:
        self._due = True  # a run that goes on from here copies its weights here as well

    def state_dict(self) -> dict[str, Any]:
        if self._trainer is not None:  # saving because of a signal, perhaps
            self._look(self._trainer)
            self._go_back(self._trainer)
        return {"losses": self._losses.state(), "warned": self._warned, "rollbacks": self._rollbacks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses.restore(state_dict["losses"])
        self._warned, self._rollbacks = state_dict["warned"], state_dict["rollbacks"]

    def _look(self, trainer: pl.Trainer) -> None:
        """At the step that waits, if one does."""
        step, self._waiting = self._waiting, None
        if step is None or self._going_back:
            return
        loss = step.loss()
        seen, before = SeenBatch(step.number, step.epoch, loss, step.index), self._before
        self._before = seen
        wrong = self._losses.judge(loss)
        if wrong is None:
            self._losses.add(loss)
            self._warned = False
        elif self._warned:
            self._losses.add(loss)  # so are losses now
        else:
            self._log(trainer, {"train/loss": loss}, step.number)
            append(self._run, wrong, [each for each in (before, seen) if each is not None], trainer)
            self._act(trainer, wrong, seen)

    def _act(self, trainer: pl.Trainer, wrong: Kind, seen: SeenBatch) -> None:
        """
        Raises:
            RunFailed: training is not to go on, or can't.
        """
        told = f"train/loss is {wrong} at step {seen.step}"
        if wrong == "a spike":
            told += f": {seen.loss:.4g}, where the median of the last {WINDOW} is {self._losses.median:.4g}"
        samples = f"{self._run.bad_batches} names its samples"
        if self._on_bad_loss == "warn":
            self._warned = True
            if wrong == "a spike" and trainer.is_global_zero:  # else `NonFiniteWatch` has told
                warnings.warn(f"{told}. Training goes on.\n  {samples}.", stacklevel=2)
        elif self._on_bad_loss == "stop":
            saved = (self._run.checkpoints / "last.ckpt").exists()
            without = f"To go on without them: plugformer train resume={self._run.path} trainer.on_bad_loss=skip"
            raise RunFailed(
                f"{told}.\n  {samples}. A lower optimizer.lr, more steps of warm-up or a smaller "
                "trainer.gradient_clip may help.\n  "
                + (without if saved else "To leave such batches out: trainer.on_bad_loss=skip")
            )
        elif self._snapshot is None:
            raise RunFailed(f"{told}, and there are no good weights to go back to.\n  {samples}.")
        elif self._rollbacks == MOST:
            raise RunFailed(
                f"{told}, and training went back {MOST} times before.\n  {samples}. A lower optimizer.lr or more steps "
                "of warm-up may help."
            )
        else:
            self._rollbacks += 1
            self._going_back = True
            if trainer.is_global_zero:
                warnings.warn(
                    f"{told}. Training goes on after that batch, with the weights of step {self._snapshot.step} "
                    f"({self._rollbacks} of at most {MOST} times).\n  {samples}.",
                    stacklevel=2,
                )

    def _go_back(self, trainer: pl.Trainer) -> None:
        """Once the step that went wrong, or the one after it, has changed the weights."""
        if self._going_back:
            assert self._snapshot is not None
            self._snapshot.restore()
            self._going_back, self._waiting, self._before = False, None, None
            self._log(trainer, {"train/rollbacks": self._rollbacks}, trainer.global_step - 1)

    @staticmethod
    def _log(trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


def looks_at_once(device: torch.device) -> bool:
    """Whether a number there can be read without waiting for it."""
    return device.type == "cpu"


def _reading(loss: Tensor) -> Callable[[], float]:
    """Tells a number that is on its way from the device, as soon as it is asked for."""
    if loss.device.type != "cuda":
        return lambda: float(loss)
    here = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(loss, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> float:
        arrived.synchronize()
        return float(here)

    return read


def _with_weights(trainer: pl.Trainer) -> list[nn.Module]:
    """The model and, where there is one, the average of its weights."""
    callbacks: list[Callback] = cast("Any", trainer).callbacks
    averages = [each._average_model for each in callbacks if isinstance(each, WeightAveraging)]
    return [trainer.lightning_module, *(each for each in averages if each is not None)]
