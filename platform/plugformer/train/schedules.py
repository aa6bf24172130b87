"""Learning rates over time: a linear warm-up, then a decay."""

import math
from abc import abstractmethod

from plugformer.errors import UserError
from plugformer.interfaces import Schedule


class WarmUp(Schedule):
    """Linear warm-up from almost nothing to the full rate, then `decay`.

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.
        final: what is left of the full rate at the end.

    Raises:
        UserError: a share beyond 0 … 1, or a negative number of steps.
    """

    def __init__(self, *, warmup: int | float = 0.1, final: float = 0.0) -> None:
        if warmup < 0 or (isinstance(warmup, float) and warmup > 1):
            raise UserError(f"schedule.warmup={warmup}: a share from 0.0 to 1.0, or a whole number of steps.")
        self.warmup = warmup
        self.final = final

    def factor(self, step: int, total_steps: int) -> float:
        warmup = round(self.warmup * total_steps) if isinstance(self.warmup, float) else self.warmup
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.final + (1 - self.final) * self.decay(min(progress, 1.0))

    @abstractmethod
    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""


class Cosine(WarmUp):
    """Half a cosine (Loshchilov and Hutter 2017, without restarts)."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


class Linear(WarmUp):
    """A straight line (Devlin et al. 2019)."""

    def decay(self, progress: float) -> float:
        return 1 - progress


class Constant(WarmUp):
    """The full rate to the end; `final` has no effect where nothing decays, so it isn't an option.

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.
    """

    def __init__(self, *, warmup: int | float = 0.0) -> None:
        super().__init__(warmup=warmup)

    def decay(self, progress: float) -> float:
        return 1.0
