"""Metrics over a run's course, and over the runs of a group."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

from plugformer.compare.groups import Group, Spread
from plugformer.compare.history import Series
from plugformer.compare.run import Run
from plugformer.errors import UserError

T = TypeVar("T")
Axis = Literal["step", "epoch", "seconds", "tokens"]
AXES: tuple[Axis, ...] = ("step", "epoch", "seconds", "tokens")
TITLES = {"step": "optimiser steps", "epoch": "epochs", "seconds": "seconds of training", "tokens": "tokens trained on"}


@dataclass(frozen=True)
class Curve:
    """A metric over the runs of a group, where all of them have it.

    Attributes:
        x: places on the axis; the mean of the runs'.
        mean: of the runs.
        deviation: of the sample; zeros for one run.
    """

    x: list[float]
    mean: list[float]
    deviation: list[float]


def group_curve(group: Group, metric: str, axis: Axis, *, most: int | None = None) -> Curve | None:
    """None if not all its runs have the metric at common steps, or there is no such axis.

    Args:
        group: of runs.
        metric: as `split/metric`.
        axis: what x counts.
        most: points that are kept, evenly spaced with the first and the last; None for all.
    """
    places = [position(run, axis) for run in group.runs]
    by_step = [dict(run.history.get(metric, [])) for run in group.runs]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    known = [place for place in places if place is not None]
    if not steps or len(known) < len(places):
        return None
    curve = Curve([], [], [])
    for step in thinned(steps, most):
        spread = Spread.of([values[step] for values in by_step])
        assert spread is not None
        curve.x.append(math.fsum(place(step) for place in known) / len(known))
        curve.mean.append(spread.mean)
        curve.deviation.append(spread.deviation or 0.0)
    return curve


def thinned(points: Sequence[T], most: int | None) -> Sequence[T]:
    """Evenly spaced, with the first and the last."""
    if most is None or len(points) <= most:
        return points
    return [points[each] for each in sorted({round(k * (len(points) - 1) / (most - 1)) for k in range(most)})]


def position(run: Run, axis: Axis) -> Callable[[int], float] | None:
    """From a step, counted from 0, to its end's place on an axis; None where that isn't known of the run."""
    if axis == "step":
        return lambda step: step + 1
    if axis == "epoch":
        per_epoch = _steps_per_epoch(run)
        return None if per_epoch is None else lambda step: (step + 1) / per_epoch
    if axis == "seconds":
        if run.history.get("time/step"):
            return _summed(run.history["time/step"])
        took = (run.summary or {}).get("train/seconds")
        return None if took is None or not run.steps else lambda step: (step + 1) * took / run.steps
    times, rates = dict(run.history.get("time/step", [])), run.history.get("speed/tokens", [])
    tokens = [(step, rate * times[step]) for step, rate in rates if step in times]
    return _summed(tokens) if tokens else None


def _steps_per_epoch(run: Run) -> float | None:
    epochs_at = dict(run.history.get("epoch", []))
    validated = [step for name, points in run.history.items() if name.startswith("val/") for step, _ in points]
    ends = [(step + 1) / (epochs_at[step] + 1) for step in validated if step in epochs_at]
    if ends:
        return max(ends)  # of the whole ones: training may end within an epoch
    epochs = (run.summary or {}).get("train/epochs")
    return run.steps / epochs if epochs else None


def _summed(per_step: Series) -> Callable[[int], float]:
    """What was spent until the end of a step, if each point holds for the steps since the one before it."""
    finite = [(step, value) for step, value in per_step if math.isfinite(value)] or [(0, math.nan)]
    steps = [-1, *(step for step, _ in finite)]
    spent = [value * (step - before) for (step, value), before in zip(finite, steps, strict=False)]
    totals = [0.0, *accumulate(spent)]

    def place(step: int) -> float:
        after = min(max(1, bisect_left(steps, step)), len(finite))
        return totals[after] + (step - steps[after]) * finite[after - 1][1]

    return place


def check_axis(groups: Sequence[Group], axis: Axis) -> None:
    """
    Raises:
        UserError: runs whose course can't be told by it.
    """
    lacking = [run for group in groups for run in group.runs if run.history and position(run, axis) is None]
    if lacking:
        possible = [each for each in AXES if all(position(run, each) for group in groups for run in group.runs)]
        needs = {"seconds": "time/step", "tokens": "time/step and speed/tokens", "epoch": "a validation"}.get(axis, "")
        raise UserError(
            f"--x {axis}: {lacking[0].path} doesn't tell; its metrics.csv has no {needs}.\n"
            f"  Possible: {', '.join(possible)}"
        )
