"""How training goes besides its loss: what it costs, how fast it is, and how large its steps are."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from plugformer.budget import PassCost
from plugformer.interfaces import Batch
from plugformer.measure.norms import Update, gradient_norm
from plugformer.measure.stopwatch import Clock, Stopwatch, clock_of
from plugformer.measure.tokens import EmbeddedTokens, TokenCount
from plugformer.train.device import peak_flops, peak_memory
from plugformer.train.group import largest, summed
from plugformer.train.module import TrainingModule

PARTS = ("data", "forward", "backward", "optimizer")


class Telemetry(Callback):
    """Logs with every row of training metrics:

    - `train/grad_norm`, before clipping; `train/update_norm`, relative to the weights; `train/lr_N` of each group of
      parameters, the highest first, where their learning rates differ;
    - `time/step` and its parts, in seconds, the mean over the steps since the row before. `time/data` is all that lies
      between two steps: the wait for a batch, its way to the device, and logging;
    - `speed/samples`, `speed/tokens` and `speed/flops` a second; padding is no token. `speed/mfu` is the share that
      the last are of what the device could do at best (Chowdhery et al. 2022, appendix B);
    - `memory/peak` in bytes; `batch/padding`, `batch/length` and `batch/longest` of sequences, in tokens.

    Of several processes, samples and tokens are those of all together, and memory is that of the one with the most. It
    changes nothing of the training, and waits for the device, and for the other processes, at these steps alone.

    Args:
        cost: of the longest samples, from which that of others follows by their tokens; None if nobody knows.
        precision: as `trainer.precision`.
        clock: which takes the time; by default, the device's.
    """

    def __init__(self, *, cost: PassCost | None, precision: str = "32-true", clock: Clock | None = None) -> None:
        self.cost, self.precision, self._own_clock = cost, precision, clock
        self._update: Update | None = None
        self._of_step: dict[str, float | Tensor] = {}
        self._stepped = False
        self._steps = self._samples = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._shares_data = cast("TrainingModule", module).world > 1
        self._devices = trainer.world_size
        self._tokens = EmbeddedTokens(cast("TrainingModule", module).model.trunk.embeddings)
        self._watch = Stopwatch(self._own_clock or clock_of(module.device))
        self._peak_flops = peak_flops(module.device, self.precision)

    def on_train_epoch_start(self, *_: Any) -> None:
        self._watch.start("data")

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, _: int) -> None:
        self._samples += len(batch["index"])
        self._tokens.counting = True
        self._watch.start("forward")

    def on_before_backward(self, *_: Any) -> None:
        self._watch.start("backward")

    def on_after_backward(self, *_: Any) -> None:
        self._watch.start("optimizer")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._stepped = True
        step, every = trainer.global_step + 1, cast("Any", trainer).log_every_n_steps
        if step % every and step != trainer.max_steps:  # after the last there is a row, too
            return
        self._watch.start(None)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._of_step = {**_rates(optimizer), "train/grad_norm": gradient_norm(parameters)}
        self._update = Update(parameters)
        self._watch.start("optimizer")

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._watch.start(None)
        self._tokens.counting = False
        self._steps += self._stepped
        self._stepped = False
        if self._update is not None:
            self._of_step["train/update_norm"] = self._update.norm()
            self._update = None
            metrics = {name: float(value) for name, value in self._of_step.items()} | self._since_last(module.device)
            for logger in trainer.loggers:  # the module's own log would take a percent of a small model's time
                logger.log_metrics(metrics, step=trainer.global_step - 1)
        self._watch.start("data")

    def on_validation_start(self, *_: Any) -> None:
        self._watch.start(None)

    def on_train_epoch_end(self, *_: Any) -> None:
        self._watch.start(None)

    def on_train_end(self, *_: Any) -> None:
        self._tokens.close()

    def _since_last(self, device: torch.device) -> dict[str, float]:
        """Means over the steps since it was last asked for."""
        spent, tokens = self._watch.read(), self._tokens.take()
        seconds, steps, samples = sum(spent.values()), self._steps, float(self._samples)
        self._steps = self._samples = 0
        memory = peak_memory(device)
        if self._shares_data:
            samples, tokens = _of_all_ranks(samples, tokens, device)
        if self._devices > 1 and memory is not None:
            memory = int(*largest([memory], device))
        metrics = {"time/step": seconds / steps, **{f"time/{part}": spent.get(part, 0.0) / steps for part in PARTS}}
        metrics |= _of_batches(tokens)
        metrics["speed/samples"] = samples / seconds
        metrics["speed/tokens"] = float(tokens.real) / seconds
        if self.cost is not None:
            metrics["speed/flops"] = self.cost.flops / self.cost.tokens * metrics["speed/tokens"]
            if self._peak_flops is not None:
                metrics["speed/mfu"] = metrics["speed/flops"] / (self._peak_flops * self._devices)
        return metrics if memory is None else {**metrics, "memory/peak": memory}


def _of_all_ranks(samples: float, tokens: TokenCount, device: torch.device) -> tuple[float, TokenCount]:
    """The same, of all processes together."""
    samples, sequences, places, real = summed([samples, tokens.sequences, tokens.places, float(tokens.real)], device)
    (longest,) = largest([float(tokens.longest)], device)
    return samples, TokenCount(int(sequences), int(places), int(real), int(longest))


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Of groups, where they differ; those that begin with the same are one."""
    rates = {group["initial_lr"]: group["lr"] for group in optimizer.param_groups}
    if len(rates) == 1:
        return {}
    return {f"train/lr_{number}": rates[first] for number, first in enumerate(sorted(rates, reverse=True))}


def _of_batches(tokens: TokenCount) -> dict[str, float]:
    return {
        "batch/padding": tokens.padding,
        "batch/length": float(tokens.real) / tokens.sequences,
        "batch/longest": float(tokens.longest),
    }
