"""How a cost grows with the length."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Exponent(NamedTuple):
    """Of a power of the length: 1 for linear growth, 2 for quadratic.

    Attributes:
        value: the slope in a log-log plot.
        standard_error: of the slope; infinite where two lengths leave no room for one.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.standard_error:.2f}"


def fit_exponent(lengths: Sequence[float], values: Sequence[float]) -> Exponent:
    """The power of the length that a cost grows with, by least squares on logarithms.

    Args:
        lengths: at least two, of which not all are equal.
        values: the cost at each length, in any unit; positive.
    """
    assert len(lengths) == len(values) >= 2, "a slope needs two points"
    x, y = [math.log(length) for length in lengths], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    if len(x) == 2:
        return Exponent(slope, math.inf)
    residuals = [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y, strict=True)]
    return Exponent(slope, math.sqrt(sum(each**2 for each in residuals) / (len(x) - 2) / spread))


def crossover(lengths: Sequence[float], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The length from which on ours costs less than theirs, between the measured ones by a power law.

    The shortest length where it already does from there on; None where it doesn't at the longest.

    Args:
        lengths: rising.
        ours, theirs: the costs at each length; positive.
    """
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if gaps[-1] >= 0:
        return None
    for place in range(len(gaps) - 1, 0, -1):
        if gaps[place - 1] >= 0:
            part = gaps[place - 1] / (gaps[place - 1] - gaps[place])
            return math.exp(math.log(lengths[place - 1]) * (1 - part) + math.log(lengths[place]) * part)
    return lengths[0]
