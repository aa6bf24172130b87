"""Time and memory against length, as one figure for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from plugformer.bench.layers import Candidate
from plugformer.bench.points import BASELINE, Cost, Growth, Point
from plugformer.figures import MARKERS, STYLE
from plugformer.measure import Exponent

# Told apart by eyes of every kind (Okabe and Ito 2008); exact attention is black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7A7A7A")
LINE = 9.5  # points between the labels of two lines


def draw(
    points: Sequence[Point], growths: Sequence[Growth], candidates: Sequence[Candidate], folder: Path, subtitle: str
) -> list[Path]:
    """Write bench.pdf and bench.png; nothing if nothing was measured. Forward and backward pass together."""
    measured = [point for point in points if "training" in point.costs and point.costs["training"].seconds]
    if not measured:
        return []
    with mpl.rc_context(STYLE):
        longest = max(len(point.label) for point in measured)
        figure = Figure(
            figsize=(6.2 + 0.11 * longest, 3.3), layout="constrained"
        )  # labels take nothing from the panels
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2)
        grown = {growth.label: growth for growth in growths if growth.which == "training"}
        shown = [candidate for candidate in candidates if any(p.label == candidate.label for p in measured)]
        for panel, value, title, formatter in (
            (panels[0], _seconds, "Time, forward + backward", _as_time),
            (panels[1], _mebibytes, "Peak memory, forward + backward", _as_memory),
        ):
            slopes = {name: growth.time if value is _seconds else growth.memory for name, growth in grown.items()}
            _draw_panel(panel, measured, shown, slopes, value, title, formatter)
        figure.supxlabel(f"tokens N   ({subtitle})", fontsize=7.5)
        figure.canvas.draw()  # only now is it known where everything stands
        for panel in panels:
            _label_lines(panel)
        paths = [folder / "bench.pdf", folder / "bench.png"]
        for path in paths:
            figure.savefig(path, dpi=200)
    return paths


def _seconds(cost: Cost) -> float:
    assert cost.median is not None
    return cost.median


def _mebibytes(cost: Cost) -> float:
    return cost.peak / 2**20


def _draw_panel(
    panel: Axes,
    points: Sequence[Point],
    candidates: Sequence[Candidate],
    slopes: dict[str, Exponent | None],
    value: Any,
    title: str,
    formatter: Any,
) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_title(title, loc="left", fontsize=8.5, fontweight="bold")
    number = 0
    for candidate in candidates:
        own = [point for point in points if point.label == candidate.label]
        lengths, values = [point.length for point in own], [value(point.costs["training"]) for point in own]
        exact = candidate.label == BASELINE
        colour = "black" if exact else COLOURS[number % len(COLOURS)]
        marker = "o" if exact else MARKERS[(number + 1 + number // len(COLOURS)) % len(MARKERS)]
        number += not exact
        slope = slopes.get(candidate.label)
        known = slope is not None and slope.standard_error < float("inf")  # two points lie on any line
        panel.plot(
            lengths,
            values,
            color=colour,
            marker=marker,
            markersize=3.6,
            markerfacecolor="white" if candidate.is_peer else colour,
            markeredgewidth=0.9,
            linewidth=1.1 if candidate.is_peer else 1.5,
            linestyle=(0, (4, 1.6)) if candidate.is_peer else "-",
            label=candidate.label + (f"  $N^{{{slope.value:.2f}}}$" if slope and known else ""),
            zorder=4 if candidate.is_peer else 3,
        )
    lengths = sorted({point.length for point in points})
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{round(length):,}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="x", labelrotation=0 if len(lengths) < 6 else 35, labelsize=7)
    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=20))
    panel.yaxis.set_major_formatter(FuncFormatter(formatter))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="y", labelsize=7)
    panel.grid(True, which="major", color="#e6e6e6", linewidth=0.5)
    panel.set_axisbelow(True)


def _label_lines(panel: Axes) -> None:
    """Each line's name at its end, moved apart where they would overlap."""
    figure = panel.get_figure()
    assert figure is not None
    step = LINE * figure.dpi / 72
    lines = sorted(panel.get_lines(), key=lambda line: _end(line)[1])
    heights = _spread([panel.transData.transform(_end(line))[1] for line in lines], step)
    right = panel.transAxes.transform((1.0, 0.0))[0]
    for line, height in zip(lines, heights, strict=True):
        x, y = panel.transData.transform(_end(line))
        panel.annotate(
            str(line.get_label()),
            xy=_end(line),
            xytext=((max(right, x) + step * 0.5 - x) * 72 / figure.dpi, (height - y) * 72 / figure.dpi),
            textcoords="offset points",
            color=line.get_color(),
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": line.get_color(),
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 2,
            },
        )


def _end(line: Any) -> tuple[float, float]:
    x, y = line.get_data()
    return float(x[-1]), float(y[-1])


def _spread(wanted: Sequence[float], step: float) -> list[float]:
    """Rising numbers at least a step apart, as near to the wanted ones as a few passes bring them."""
    groups: list[list[float]] = []  # runs of neighbours that touch, each a step apart around their mean
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and _middle(groups[-2]) + step * (len(groups[-2]) + len(groups[-1])) / 2 > _middle(
            groups[-1]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_middle(group) + step * (place - (len(group) - 1) / 2) for group in groups for place in range(len(group))]


def _middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)


def _as_time(seconds: float, _: int) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:g} µs"
    return f"{seconds * 1e3:g} ms" if seconds < 1 else f"{seconds:g} s"


def _as_memory(mebibytes: float, _: int) -> str:
    return f"{mebibytes:,.10g} MiB"
