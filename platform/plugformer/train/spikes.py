"""Whether a loss is like those before it."""

import math
from collections import deque
from statistics import median
from typing import Any, Literal

Kind = Literal["NaN", "infinite", "a spike"]

FIRST = 10  # losses, whose median says what it was before anything was learned
FEWEST = 50  # from which on a loss can stand out
WINDOW = 100
NORMAL = 1.4826  # a standard deviation of a normal distribution, in median absolute deviations


class Losses:
    """The last losses of a run.

    A spike is a loss that lies above all of them, by a number of robust standard deviations above their median (the
    median absolute deviation; Rousseeuw and Croux 1993, section 1), and that gives up half of what was learned since
    the first ones: a model that knows its samples has losses near zero, among which a hard one stands out by far and
    does no harm.

    Args:
        deviations: how many; None if nothing is a spike.
    """

    def __init__(self, *, deviations: float | None) -> None:
        self.deviations = deviations
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=WINDOW)

    @property
    def median(self) -> float:
        return median(self._last)

    def judge(self, loss: float) -> Kind | None:
        """What is wrong with it, if anything is."""
        if math.isfinite(loss):
            return "a spike" if self._is_spike(loss) else None
        return "NaN" if math.isnan(loss) else "infinite"

    def add(self, loss: float) -> None:
        """One that training has gone on from; such as are no number aren't kept."""
        if math.isfinite(loss):
            if len(self._first) < FIRST:
                self._first.append(loss)
            self._last.append(loss)

    def state(self) -> dict[str, Any]:
        """As plain data."""
        return {"first": list(self._first), "last": list(self._last)}

    def restore(self, state: dict[str, Any]) -> None:
        self._first = list(state["first"])
        self._last = deque(state["last"], maxlen=WINDOW)

    def _is_spike(self, loss: float) -> bool:
        if self.deviations is None or len(self._last) < FEWEST or loss <= max(self._last):
            return False
        usual = self.median
        spread = NORMAL * median(abs(each - usual) for each in self._last)
        return loss - usual > max(self.deviations * spread, (median(self._first) - usual) / 2)
