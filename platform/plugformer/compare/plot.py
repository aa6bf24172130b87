"""Curves of a comparison as a figure for a paper."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from plugformer.compare.colours import ON_LIGHT, dashes
from plugformer.compare.comparison import Comparison
from plugformer.compare.curves import TITLES, Axis, check_axis, group_curve
from plugformer.errors import UserError, unknown
from plugformer.figures import MARKERS, STYLE
from plugformer.run_dir import replacing

FORMATS = ("png", "pdf", "svg")
PANEL = 3.1, 2.3  # inches
ACROSS = 3  # panels beside each other
LINE = 0.17  # inches of a legend's line
MARKED = 8  # points of a curve that are marked, about


def draw(comparison: Comparison, path: Path, *, axis: Axis = "step") -> Path:
    """Write a panel for each metric that has a course: a line a group, in a band of ± its sample deviation.

    Args:
        comparison: whose metrics are drawn.
        path: of the file; its ending says which format.
        axis: what they are drawn over.

    Raises:
        UserError: another ending, no metric with a course, or runs that can't be told along this axis.
    """
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise unknown(f"--plot {path}: no format is named {path.suffix or 'by an ending'}", ending, FORMATS)
    check_axis(comparison.groups, axis)
    metrics = courses(comparison, axis)
    if not metrics:
        raise UserError(
            f"--plot {path}: nothing to draw: none of {', '.join(comparison.metrics)} has a course over {axis}.\n"
            f"  Choose with --metric among: {', '.join(_with_course(comparison, axis)) or 'none'}"
        )
    with mpl.rc_context(STYLE):
        columns = 2 if len(metrics) == 4 else min(ACROSS, len(metrics))
        rows = math.ceil(len(metrics) / columns)
        legend = LINE * len(comparison.groups) + 0.15
        figure = Figure(figsize=(PANEL[0] * max(columns, 1.5), PANEL[1] * rows + legend), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, metric in zip(panels, metrics, strict=False):
            _draw_panel(panel, comparison, metric, axis)
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
        handles, labels = _legend(figure)
        figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=7.5, handlelength=3.2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                figure.savefig(file, format=ending, dpi=200)
        except OSError as error:
            raise UserError(f"--plot {path}: can't be written ({error.strerror}).") from None
    return path


def courses(comparison: Comparison, axis: Axis) -> list[str]:
    """The metrics shown that some group has a course of; of a test metric, validation's in its place."""
    wanted = [name.replace("test/", "val/", 1) for name in comparison.metrics]
    having = _with_course(comparison, axis)
    return [name for name in dict.fromkeys(wanted) if name in having]


def _with_course(comparison: Comparison, axis: Axis) -> list[str]:
    names = dict.fromkeys(name for run in comparison.runs for name in run.history if "/" in name)
    return [name for name in names if any(group_curve(group, name, axis) for group in comparison.groups)]


def _draw_panel(panel: Axes, comparison: Comparison, metric: str, axis: Axis) -> None:
    for number, group in enumerate(comparison.groups):
        curve = group_curve(group, metric, axis)
        if curve is None:
            continue
        colour = ON_LIGHT[number % len(ON_LIGHT)]
        panel.plot(
            curve.x,
            curve.mean,
            color=colour,
            linewidth=1.4,
            dashes=dashes(number) or (None, None),
            marker=MARKERS[number % len(MARKERS)],
            markevery=max(1, len(curve.x) // MARKED),
            markersize=3,
            label=_plain(label(comparison, number)),
        )
        if len(group.runs) > 1:
            low = [mean - deviation for mean, deviation in zip(curve.mean, curve.deviation, strict=True)]
            high = [mean + deviation for mean, deviation in zip(curve.mean, curve.deviation, strict=True)]
            panel.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.set_title(_plain(metric), loc="left", fontsize=8.5, fontweight="bold")
    panel.set_xlabel(TITLES[axis], fontsize=7.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=axis != "seconds"))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.tick_params(labelsize=7, width=0.6)
    panel.grid(True, color="#e6e6e6", linewidth=0.5)
    panel.set_axisbelow(True)


def _plain(text: str) -> str:
    """Not to be read as mathematics, nor to be hidden."""
    escaped = text.replace("$", r"\$")
    return f"\u200b{escaped}" if text.startswith("_") else escaped


def _legend(figure: Figure) -> tuple[list[Any], list[str]]:
    """A line of each group that is drawn anywhere."""
    drawn: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            drawn.setdefault(name, handle)
    return list(drawn.values()), list(drawn)


def label(comparison: Comparison, number: int) -> str:
    """What tells a group from the others, its number of runs, and whether something speaks against comparing it."""
    group = comparison.groups[number]
    runs = f" · {len(group.runs)} runs" if len(group.runs) > 1 else ""
    kinds = dict.fromkeys(mark.kind for mark in comparison.marks if mark.unfair and number in mark.groups)
    words = {"data": "other data", "task": "other task", "monitor": "other monitor", "not a number": "NaN"}
    warned = f" · {', '.join(words.get(kind, kind) for kind in kinds)}" if kinds else ""
    return f"{group.label}{runs}{warned}"
