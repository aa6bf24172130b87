"""Single figures of a run: metrics, and what it cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from plugformer.compare.history import Series
from plugformer.compare.run import Run


def final(run: Run, metric: str) -> float | None:
    """The value that counts: of val and test the best checkpoint's, of train the last, of what is a rate the median.

    Of a run that isn't over it is what is known so far.
    """
    if run.summary is not None and metric in run.summary:
        return run.summary[metric]
    if metric in run.tested:
        return run.tested[metric]
    points = run.history.get(metric)
    if not points:
        return None
    split = metric.partition("/")[0]
    if split == "val" and run.best_step is not None:
        return dict(points).get(run.best_step)
    if split in ("speed", "time", "batch"):
        return statistics.median(_numbers(points) or [math.nan])
    if split == "memory":
        return max(_numbers(points), default=math.nan)
    return points[-1][1]


def last(run: Run, metric: str) -> float | None:
    """As it was logged last, before the best checkpoint was tested."""
    points = run.history.get(metric)
    return points[-1][1] if points else None


def _numbers(points: Series) -> list[float]:
    return [value for _, value in points if math.isfinite(value)]


def parameters(run: Run) -> float | None:
    return final(run, "model/parameters") or run.model.get("parameters")


def seconds(run: Run) -> float | None:
    return final(run, "train/seconds")


def steps_per_second(run: Run) -> float | None:
    took = seconds(run)
    return run.steps / took if took else None


@dataclass(frozen=True)
class Cost:
    """A column of what runs cost.

    Attributes:
        title: with its unit.
        value: of a run, None where it isn't known.
        scale: by which the value is divided to be shown.
        digits: behind the point.
    """

    title: str
    value: Callable[[Run], float | None]
    scale: float = 1
    digits: int = 0


def _logged(metric: str) -> Callable[[Run], float | None]:
    return lambda run: final(run, metric)


COSTS = {
    "model/parameters": Cost("parameters", parameters),
    "train/steps": Cost("steps", lambda run: run.steps or None),
    "train/seconds": Cost("seconds", seconds, digits=1),
    "speed/samples": Cost("samples/s", _logged("speed/samples")),
    "speed/tokens": Cost("tokens/s", _logged("speed/tokens")),
    "speed/steps": Cost("steps/s", steps_per_second, digits=1),
    "memory/peak": Cost("peak, MiB", _logged("memory/peak"), scale=2**20),
}
