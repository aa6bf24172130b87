"""Shows validations and the test in the run directory, and tells trackers where."""

import time
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, distributed

from plugformer.interfaces import Batch
from plugformer.run_dir import RunDir
from plugformer.train import report
from plugformer.train.divided import TensorParallel, whole
from plugformer.train.module import TrainingModule
from plugformer.train.showing.view import View

SHARE = 0.05  # of the time of validations that showing them may take


class Showing(Callback):
    """Writes what there is to see and hear of a split: `samples`, its first ones, always the same; `hardest`, those
    with the highest loss; `confusion`; and `attention`, of the first sample.

    It is done at the first validation, at the last, at the test, and at every validation in between as long as all of
    it takes no more than a twentieth of the time that validations take. It changes nothing of the training, and draws
    nothing from its generators.

    Args:
        run: the run directory.
        samples: rows of each table.
    """

    def __init__(self, *, run: RunDir, samples: int) -> None:
        self.run, self.samples = run, samples
        self._found: list[tuple[Tensor, Tensor]] = []  # indices and losses of each batch
        self._started = 0.0
        self._validated = self._spent = 0.0  # seconds of all validations, and of showing them
        self._last = 0.0  # of the last one that was shown

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(trainer.strategy, TensorParallel):
            report.say("trainer.media: nothing is shown, for no process of tensor_parallel has a model to itself")

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._found.clear()
        self._started = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._keep(cast("TrainingModule", module), outputs, batch)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._validated += time.perf_counter() - self._started
        too_dear = self._spent + self._last > SHARE * self._validated
        left_out = self._spent and too_dear and not _is_last(trainer)
        if trainer.strategy.broadcast(left_out):  # by the first process's clock
            return
        started = time.perf_counter()
        self._show(trainer, cast("TrainingModule", module), "val", trainer.val_dataloaders)
        self._last = time.perf_counter() - started
        self._spent += self._last

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._found.clear()

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._keep(cast("TrainingModule", module), outputs, batch)

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        training = cast("TrainingModule", module)
        if training.test_split == "test":  # what is tested besides is validation's best
            self._show(trainer, training, "test", trainer.test_dataloaders)

    def _keep(self, module: TrainingModule, outputs: Any, batch: Batch) -> None:
        losses = module.model.task.losses(outputs["output"])
        if losses is not None:
            self._found.append((batch["index"], losses.detach()))

    def _show(self, trainer: pl.Trainer, module: TrainingModule, split: str, loader: Any) -> None:
        losses = self._losses()
        self._found.clear()
        if isinstance(trainer.strategy, TensorParallel):
            return
        if trainer.world_size > 1:
            losses = _of_all_ranks(losses)
        with whole(module.model):
            if trainer.is_global_zero:
                self._write(trainer, module, split, loader, losses)

    def _write(
        self, trainer: pl.Trainer, module: TrainingModule, split: str, loader: Any, losses: dict[int, float]
    ) -> None:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            view = View(self.run, trainer, module, split=split, loader=loader, losses=losses)
            view.samples(range(min(self.samples, len(view.encoded))))
            view.hardest(self.samples)
            view.confusion()
            view.attention()

    def _losses(self) -> dict[int, float]:
        """By index, of the samples that were evaluated."""
        if not self._found:
            return {}
        indices, losses = (torch.cat(parts).tolist() for parts in zip(*self._found, strict=True))
        return dict(zip(indices, losses, strict=True))


def _of_all_ranks(losses: dict[int, float]) -> dict[int, float]:
    """With those of the samples that the others evaluated."""
    each: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(each, losses)
    return {index: loss for own in each for index, loss in own.items()}


def _is_last(trainer: pl.Trainer) -> bool:
    """Whether no validation will follow."""
    every = trainer.check_val_every_n_epoch or 1
    return trainer.should_stop or trainer.current_epoch + every >= (trainer.max_epochs or 0)
