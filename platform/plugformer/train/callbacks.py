"""Callbacks by name. The base is Lightning's, so any of its callbacks is a plugin away."""

from collections.abc import Sequence
from typing import Literal

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping

from plugformer.settings import TrainerSettings

__all__ = ["Callback", "EarlyStopping", "check_callbacks"]


class EarlyStopping(LightningEarlyStopping):
    """Ends training when a metric no longer gets better.

    Args:
        monitor: the metric, as `split/metric`.
        mode: whether less or more of it is better.
        patience: validations without improvement that are waited for.
        min_delta: a smaller change is no improvement.
    """

    def __init__(
        self,
        *,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta, check_finite=True)


def check_callbacks(callbacks: Sequence[Callback], settings: TrainerSettings) -> None:
    """Ask each that has a method `check(settings)`.

    Raises:
        UserError: one can't do its work in such a run.
    """
    for callback in callbacks:
        if hasattr(callback, "check"):
            callback.check(settings)
