"""An average of the weights over the steps."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from plugformer.errors import UserError
from plugformer.settings import TrainerSettings


class Ema(WeightAveraging):
    """Validates, tests and saves an exponential moving average of the weights (Polyak and Juditsky 1992; Tarvainen and
    Valpola 2017, Mean teachers, section 2).

    A checkpoint's weights are the average: whatever reads it (evaluation, prediction, generation, export, another run
    that begins from it) has them without more ado. Beside them are the weights that training goes on with. The average
    is only of weights; what else a model holds, such as the random features of a step, is as training has it.

    Args:
        decay: share of the average that stays at a step; the first steps have less, (1 + steps) / (10 + steps), so that
            a short run isn't averaged with its first weights.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise UserError(f"callback.ema.decay={decay}: must be greater than 0 and less than 1.")
        super().__init__()
        self.decay = decay
        self._step = 0
        self._swapped = False

    def check(self, settings: TrainerSettings) -> None:
        """
        Raises:
            UserError: weights that can't be averaged so.
        """
        if settings.strategy in ("fsdp", "tensor_parallel"):
            raise UserError(
                f"callback=ema can't go with trainer.strategy={settings.strategy}: it averages whole weights. "
                "Set trainer.strategy=ddp or leave it out."
            )
        if settings.precision == "bf16-true":
            raise UserError(
                "callback=ema can't go with trainer.precision=bf16-true, which rounds away what a step adds to an "
                "average. Set trainer.precision=bf16-mixed."
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.precision_plugin.convert_module(pl_module)  # as Lightning does later
            self._average_model = AveragedModel(pl_module, device=pl_module.device, multi_avg_fn=self._average)
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()  # it is looked at in every step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        self._step = self._step if step_idx is None else step_idx
        return step_idx is not None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:  # each is where the other belongs
            average, weights = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["current_model_state"], checkpoint["state_dict"] = weights, average

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """To go on. To test, Lightning has loaded the average, in whose place this would put the other weights."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @torch.no_grad()
    def _average(self, average: Any, weights: Any, _: Tensor | int) -> None:
        decay = min(self.decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(average, weights, 1 - decay)
