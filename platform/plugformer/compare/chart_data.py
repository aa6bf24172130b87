"""Curves as the page's script draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plugformer.compare.colours import dashes
from plugformer.compare.comparison import Comparison
from plugformer.compare.curves import AXES, TITLES, Axis, group_curve, position, thinned
from plugformer.compare.groups import Group
from plugformer.compare.run import Run

POINTS = 300  # of a curve that stand in the page


def chart_data(comparison: Comparison, *, axis: Axis) -> dict[str, Any]:
    """Axes, groups and charts, those of the shown metrics first; places on the axes stand once for equal steps."""
    places: dict[tuple[str, tuple[int, ...]], int] = {}
    tables: list[dict[str, list[float] | None]] = []

    def at(who: str, runs: Sequence[Run], steps: Sequence[int]) -> int:
        key = (who, tuple(steps))
        if key not in places:
            places[key] = len(tables)
            tables.append({each: _positions(runs, steps, each) for each in AXES})
        return places[key]

    main = [name.replace("test/", "val/", 1) for name in comparison.metrics]
    names = dict.fromkeys([*main, "train/loss", *(name for run in comparison.runs for name in run.history)])
    charts = []
    for metric in (name for name in names if "/" in name):
        curves = [_curve(number, group, metric, at) for number, group in enumerate(comparison.groups)]
        drawn = [curve for curve in curves if curve is not None]
        if drawn:
            charts.append({"metric": metric, "main": metric in (*main, "train/loss"), "curves": drawn})
    return {
        "axis": axis,
        "axes": [
            {"name": each, "title": TITLES[each]} for each in AXES if any(table[each] is not None for table in tables)
        ],
        "groups": [
            {"label": group.label, "runs": len(group.runs), "dashes": dashes(number), "signs": comparison.signs(number)}
            for number, group in enumerate(comparison.groups)
        ],
        "places": tables,
        "charts": charts,
    }


def _curve(number: int, group: Group, metric: str, at: Any) -> dict[str, Any] | None:
    curve = group_curve(group, metric, "step", most=POINTS)
    if curve is None:
        return None
    steps = [round(x) - 1 for x in curve.x]
    single = []
    if len(group.runs) > 1:
        for run in group.runs:
            kept = thinned(run.history[metric], POINTS)
            single.append(
                {
                    "seed": str(run.seed),
                    "at": at(str(run.path), [run], [step for step, _ in kept]),
                    "y": [rounded(value) for _, value in kept],
                }
            )
    return {
        "group": number,
        "at": at(f"group {number}", group.runs, steps),
        "mean": [rounded(value) for value in curve.mean],
        "deviation": [rounded(value) for value in curve.deviation] if len(group.runs) > 1 else None,
        "single": single,
    }


def _positions(runs: Sequence[Run], steps: Sequence[int], axis: Axis) -> list[float] | None:
    places = [position(run, axis) for run in runs]
    if any(place is None for place in places):
        return None
    means = [math.fsum(place(step) for place in places if place) / len(places) for step in steps]
    return [float(f"{mean:.6g}") if axis == "seconds" else float(f"{mean:.9g}") for mean in means]


def rounded(value: float) -> float | None:
    """To six digits; None for what JSON can't hold, where a curve has a gap."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
