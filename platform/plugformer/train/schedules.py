"""Learning rates over time: a linear warm-up, then what the schedule is named for."""

import math
from abc import abstractmethod
from typing import Literal

from plugformer.errors import UserError
from plugformer.interfaces import Schedule


class WarmUp(Schedule):
    """Linear warm-up from almost nothing to the full rate.

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.

    Raises:
        UserError: a share beyond 0 … 1, or a negative number of steps.
    """

    def __init__(self, *, warmup: int | float = 0.1) -> None:
        self.warmup = _check_steps("warmup", warmup)

    def factor(self, step: int, total_steps: int) -> float:
        warmup = _steps(self.warmup, total_steps)
        return (step + 1) / (warmup + 1) if step < warmup else self.after(step, warmup, total_steps)

    @abstractmethod
    def after(self, step: int, warmup: int, total_steps: int) -> float:
        """The factor at a step after the first `warmup` ones; 1 at the first of them."""


class Decay(WarmUp):
    """Warm-up, then one `decay` to the end.

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.
        final: what is left of the full rate at the end.
    """

    def __init__(self, *, warmup: int | float = 0.1, final: float = 0.0) -> None:
        super().__init__(warmup=warmup)
        self.final = _check_final(final)

    def after(self, step: int, warmup: int, total_steps: int) -> float:
        progress = (step - warmup) / max(1, total_steps - warmup)
        return self.final + (1 - self.final) * self.decay(min(progress, 1.0))

    @abstractmethod
    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""


class Cosine(Decay):
    """Half a cosine (Loshchilov and Hutter 2017, without restarts)."""

    def decay(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


class Linear(Decay):
    """A straight line (Devlin et al. 2019)."""

    def decay(self, progress: float) -> float:
        return 1 - progress


class Constant(WarmUp):
    """The full rate to the end.

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.
    """

    def __init__(self, *, warmup: int | float = 0.0) -> None:
        super().__init__(warmup=warmup)

    def after(self, step: int, warmup: int, total_steps: int) -> float:
        return 1.0


class InverseSqrt(WarmUp):
    """In proportion to one over the root of the step, however many are to come (Vaswani et al. 2017, section 5.3).

    Their `warmup_steps`, at the last of which the rate is highest, is one more than `warmup`.
    """

    def after(self, step: int, warmup: int, total_steps: int) -> float:
        return math.sqrt((warmup + 1) / (step + 1))


class Wsd(WarmUp):
    """Warm-up, then the full rate, and a decay at the end: warmup-stable-decay (Hu et al. 2024, section 4).

    Args:
        warmup: a whole number of steps, or a share of all steps if it has a decimal point.
        decay: how long the decay is, counted likewise; never more than the warm-up leaves.
        shape: of the decay: linear, or sqrt, one minus the root of the progress (Hägele et al. 2024, section 3).
        final: what is left of the full rate at the end.

    Raises:
        UserError: a share beyond 0 … 1 or a negative number of steps; shares that add up to more than all steps.
    """

    def __init__(
        self,
        *,
        warmup: int | float = 0.01,
        decay: int | float = 0.1,
        shape: Literal["linear", "sqrt"] = "linear",
        final: float = 0.0,
    ) -> None:
        super().__init__(warmup=warmup)
        self.decay, self.final = _check_steps("decay", decay), _check_final(final)
        if isinstance(warmup, float) and isinstance(decay, float) and warmup + decay > 1:
            raise UserError(f"schedule.warmup={warmup} and schedule.decay={decay} are more than all steps together.")
        self.shape = shape

    def after(self, step: int, warmup: int, total_steps: int) -> float:
        start = max(warmup, total_steps - _steps(self.decay, total_steps))
        progress = min(max(0.0, (step - start) / max(1, total_steps - start)), 1.0)
        lost = progress if self.shape == "linear" else math.sqrt(progress)
        return 1 - (1 - self.final) * lost


def _steps(length: int | float, total_steps: int) -> int:
    return round(length * total_steps) if isinstance(length, float) else length


def _check_steps(name: str, length: int | float) -> int | float:
    if length < 0 or (isinstance(length, float) and not length <= 1):
        raise UserError(f"schedule.{name}={length}: a share from 0.0 to 1.0, or a whole number of steps.")
    return length


def _check_final(final: float) -> float:
    if not 0 <= final <= 1:
        raise UserError(f"schedule.final={final}: a share of the full rate, from 0.0 to 1.0.")
    return final
