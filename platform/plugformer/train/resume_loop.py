"""The loop over training batches, with what a checkpoint needs: moments at which nothing is under way."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop


class StepLoop(_TrainingEpochLoop):
    """Lightning's, which calls `between_steps` after each optimiser step but an epoch's last.

    At that moment all is done that belongs to the step: its metrics are logged and its validation, if any, is over.
    Lightning has no hook there; `on_train_batch_end` comes before the step's metrics are logged.

    A run that was saved within a validation validates before it goes on.

    Args:
        trainer: whose loop it is to be.
        between_steps: of which nothing comes back.
    """

    def __init__(self, trainer: pl.Trainer, *, between_steps: Callable[[], None]) -> None:
        super().__init__(trainer, trainer.min_steps, trainer.max_steps)
        self._between_steps = between_steps
        self._validation_due = False

    def advance(self, data_fetcher: Any) -> None:
        due, self._validation_due = self._validation_due, False
        if due:  # all batches of the epoch are learned from
            self.val_loop.restarting = False
            return
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        if not (self._should_accumulate() or self._num_ready_batches_reached() or self.trainer.should_stop):
            self._between_steps()

    def _broadcast_sigterm_tensor(self) -> None:
        """Ranks agree on when to stop between steps, and not only where the first of them was asked to."""

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validation_due": self.trainer.validating}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._validation_due = state_dict.get("validation_due", False)
