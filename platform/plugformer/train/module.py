"""A model in training, as Lightning wants it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from plugformer.interfaces import Batch, Confusion, Optimizer, Output, Schedule, Split, Task
from plugformer.model import Model, mechanisms
from plugformer.nn.depth import parameter_depths
from plugformer.nn.parameters import group_parameters
from plugformer.spread import clip_gradients
from plugformer.train.divided import Divided, whole
from plugformer.train.layer_rates import decay_by_layer
from plugformer.train.weighting import GlobalBatch


class TrainingModule(pl.LightningModule):
    """
    Args:
        model: what is trained.
        optimizer: makes the torch optimiser.
        schedule: the factor of its learning rates over the steps.
        layer_decay: what each layer's learning rate is of that of the one above it.
        record: what every checkpoint says of its origin, as plain values.

    Attributes:
        step_loss: of the global batch that was last learned from, over all its small batches and processes; a scalar
            on the device.
    """

    step_loss: Tensor

    def __init__(
        self,
        *,
        model: Model,
        optimizer: Optimizer,
        schedule: Schedule,
        record: dict[str, Any],
        layer_decay: float = 1.0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.layer_decay = layer_decay
        self.record = record
        self.world = world
        self.global_batch: GlobalBatch | None = None
        self.test_split = "test"
        metrics = dict(model.task.metrics())
        if world == 1:
            for metric in metrics.values():  # of ranks that see the same, each knows all
                metric.distributed_available_fn = _no
        self.val_metrics = MetricCollection(metrics)
        self.test_metrics = self.val_metrics.clone()
        self.tables: dict[str, list[list[Any]]] = {}
        self.confusions: dict[str, Confusion | None] = {}
        self.mechanisms = mechanisms(model)

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, Divided):
            strategy.divide_once(self.model)

    def on_train_start(self) -> None:
        accumulate = self.trainer.accumulate_grad_batches
        if self.world > 1 or accumulate > 1:
            self.global_batch = GlobalBatch(world=self.world, accumulate=accumulate)

    def on_train_batch_start(self, *_: Any) -> None:
        for mechanism in self.mechanisms:
            mechanism.before_step(self.trainer.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.model(batch)
        loss, last = output.loss, self._is_last_round(batch_idx)
        if self.global_batch is not None:
            loss = self.global_batch.add(output.loss, output.weight, last=last)
        if last:
            self.step_loss = output.loss.detach() if self.global_batch is None else self.global_batch.loss
            self.log("train/loss", self.step_loss, batch_size=output.weight, prog_bar=True)
            self.log("train/lr", self._learning_rate(), batch_size=output.weight)
        return loss

    def _is_last_round(self, batch_idx: int) -> bool:
        """Whether an optimiser step follows: the last global batch of an epoch may have fewer rounds."""
        trainer = self.trainer
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            return True
        return trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches

    def on_after_backward(self) -> None:
        if self.global_batch is not None and self._is_last_round(self.trainer.fit_loop.batch_idx):
            self.global_batch.finish(self.model.parameters())

    def _learning_rate(self) -> float:
        """Of the first group; where layers have their own, the highest."""
        rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
        return rates[0] if self.layer_decay == 1 else max(rates)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == self.trainer.max_steps:  # within an epoch Lightning would end unvalidated
            self.trainer.check_val_every_n_epoch = 1
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        return {"output": self._update("val", self.val_metrics, batch)}

    def on_validation_epoch_end(self) -> None:
        self._finish("val", self.val_metrics)

    def test_step(self, batch: Batch) -> dict[str, Any]:
        return {"output": self._update(self.test_split, self.test_metrics, batch)}

    def on_test_epoch_end(self) -> None:
        self._finish(self.test_split, self.test_metrics)

    def _update(self, split: str, metrics: MetricCollection, batch: Batch) -> Output:
        output = self.model(batch)
        which = cast("Split", split)
        with self._parts_callable():
            compared = self.model.task.compared(self.model.trunk, batch, output, split=which)
        metrics.update(output.predictions, output.targets, **compared)
        shared, weight = self.world > 1, output.weight
        if shared:  # Lightning rounds a mean of whole numbers over ranks
            weight = torch.as_tensor(weight, dtype=torch.float32, device=output.predictions.device)
        how: dict[str, Any] = {"on_epoch": True, "sync_dist": shared, "prog_bar": split == "val"}
        self.log(f"{split}/loss", output.loss, batch_size=weight, **how)
        return output

    def _finish(self, split: str, metrics: MetricCollection) -> None:
        values = metrics.compute()
        metrics.reset()
        self.tables |= {f"{split}_{name}": rows for name, rows in self.model.task.tables(values).items()}
        self.confusions[split] = self.model.task.confusion(values)
        for name, value in values.items():
            if value.numel() == 1:
                monitored = f"{split}/{name}" == self.model.task.monitor.metric
                self.log(f"{split}/{name}", value.float(), prog_bar=monitored)

    def evaluate(
        self, trainer: pl.Trainer, batches: DataLoader[Batch], *, split: str, checkpoint: str | None
    ) -> dict[str, float]:
        """All metrics of a split as `split/metric`.

        Args:
            trainer: which moves model and batches.
            batches: of the split.
            split: names the metrics.
            checkpoint: whose weights are tested, as Lightning's `ckpt_path`; None for those the model has now.
        """
        self.test_split = split
        (values,) = trainer.test(self, batches, ckpt_path=checkpoint, verbose=False, weights_only=True)
        return {name: float(value) for name, value in values.items() if name.startswith(f"{split}/")}

    def _parts_callable(self) -> AbstractContextManager[None]:
        """For tasks that call parts of the model, as to write texts."""
        asks = type(self.model.task).compared is not Task.compared
        return whole(self.model) if asks else nullcontext()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is not None and isinstance(self.trainer.strategy, Divided):
            clip_gradients(list(self.model.parameters()), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer.build(group_parameters(self.model))
        if self.layer_decay != 1:
            depths = parameter_depths(self.model.trunk, self.model.task)
            optimizer = decay_by_layer(optimizer, depths, self.layer_decay)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plugformer"] = self.record


def _no() -> bool:
    return False
