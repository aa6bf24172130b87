"""What is measured, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Literal

from plugformer.measure import Exponent, crossover, fit_exponent

Pass = Literal["forward", "training"]
PASSES: dict[Pass, str] = {"forward": "forward", "training": "forward + backward"}
BASELINE = "full"


@dataclass
class Cost:
    """Of one pass of one layer at one length.

    Attributes:
        peak: bytes at the worst moment, beyond weights and inputs.
        seconds: one figure a round.
        flops: of matrix products, where they were counted.
        bytes: that all operations read and write, where they were counted.
    """

    peak: int
    seconds: list[float] = field(default_factory=list)
    flops: int | None = None
    bytes: int | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """None of a single round."""
        if len(self.seconds) < 2:
            return None
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def rate(self, amount: int | None) -> float | None:
        """`flops` or `bytes` a second."""
        return amount / self.median if amount is not None and self.median else None

    def as_json(self) -> dict[str, Any]:
        quartiles = self.quartiles or (None, None)
        return {
            "peak_bytes": self.peak,
            "median_seconds": self.median,
            "lower_quartile_seconds": quartiles[0],
            "upper_quartile_seconds": quartiles[1],
            "seconds": self.seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "flops_per_second": self.rate(self.flops),
            "bytes_per_second": self.rate(self.bytes),
        }


@dataclass
class Point:
    """One layer at one length.

    Attributes:
        note: why it wasn't measured; empty if it was.
        failed: whether that is a fault, not a limit of time, memory or ability.
    """

    label: str
    length: int
    costs: dict[Pass, Cost] = field(default_factory=dict)
    note: str = ""
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "length": self.length,
            "note": self.note,
            "failed": self.failed,
            **{name: cost.as_json() for name, cost in self.costs.items()},
        }


@dataclass(frozen=True)
class Growth:
    """How one layer's costs grow, in one pass; None where too little was measured.

    Attributes:
        time, memory: powers of the length.
        crossover: from which length on it is faster than exact attention.
        crossover_is_bound: whether that is the shortest length measured, so that it may lie below.
        speedup: how many times faster than exact attention it is at the longest length that both were measured at.
        speedup_at: that length.
    """

    label: str
    which: Pass
    time: Exponent | None
    memory: Exponent | None
    crossover: float | None
    crossover_is_bound: bool
    speedup: float | None
    speedup_at: int | None

    def as_json(self) -> dict[str, Any]:
        exponents = {
            name: None if fit is None else {"exponent": fit.value, "standard_error": _finite(fit.standard_error)}
            for name, fit in (("time", self.time), ("memory", self.memory))
        }
        rest = ("crossover", "crossover_is_bound", "speedup", "speedup_at")
        return {"label": self.label, "pass": self.which, **exponents, **{name: getattr(self, name) for name in rest}}


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def find_growth(points: Sequence[Point], label: str, which: Pass, *, fit_from: int = 1) -> Growth:
    ours = _medians(points, label, which)
    memory = {p.length: p.costs[which].peak for p in points if p.label == label and which in p.costs}
    theirs = _medians(points, BASELINE, which)
    shared = sorted(set(ours) & set(theirs)) if label != BASELINE else []
    crossing = crossover(shared, [ours[n] for n in shared], [theirs[n] for n in shared]) if shared else None
    return Growth(
        label,
        which,
        _fit(ours, fit_from),
        _fit(memory, fit_from),
        crossing,
        bool(shared) and crossing == shared[0],
        theirs[shared[-1]] / ours[shared[-1]] if shared else None,
        shared[-1] if shared else None,
    )


def _medians(points: Sequence[Point], label: str, which: Pass) -> dict[int, float]:
    costs = {p.length: p.costs[which] for p in points if p.label == label and which in p.costs}
    return {length: cost.median for length, cost in costs.items() if cost.median}


def _fit(values: dict[int, Any], fit_from: int) -> Exponent | None:
    kept = {length: value for length, value in values.items() if length >= fit_from and value > 0}
    return fit_exponent(list(kept), list(kept.values())) if len(kept) > 1 else None
