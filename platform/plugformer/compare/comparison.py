"""Runs side by side: their groups, what is shown of them, and what is to be known before they are believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugformer.compare.configuration import all_differences, flatten
from plugformer.compare.groups import Group, Spread, make_groups, spread_over
from plugformer.compare.marks import Mark, find_marks
from plugformer.compare.numbers import written
from plugformer.compare.run import Run
from plugformer.compare.values import COSTS, Cost, final, last
from plugformer.errors import unknown

MAIN = 4  # test metrics that are shown unless others are asked for


@dataclass(frozen=True)
class Column:
    """
    Attributes:
        metric: its name.
        which: final, or last where the best checkpoint has another value.
    """

    metric: str
    which: str = "final"

    @property
    def title(self) -> str:
        if self.which == "last":
            return f"{self.metric} last"
        return f"{self.metric} best" if self.metric.startswith("val/") else self.metric

    def value(self, run: Run) -> float | None:
        return last(run, self.metric) if self.which == "last" else final(run, self.metric)


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        groups: of runs.
        metrics: that are shown.
        others: that are known of some run besides.
        over: keys in which runs of a group may differ, besides the seed.
        marks: what makes it less than fair.
        notes: what else is to be told.
    """

    groups: list[Group]
    metrics: list[str]
    others: list[str]
    over: list[str]
    marks: list[Mark]
    notes: list[str]

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @property
    def keys(self) -> list[str]:
        """In whose values groups differ."""
        return list(dict.fromkeys(key for group in self.groups for key in group.differs))

    @property
    def columns(self) -> list[Column]:
        columns = []
        for metric in self.metrics:
            columns.append(Column(metric))
            if metric.startswith("val/") and any(last(run, metric) is not None for run in self.runs):
                columns.append(Column(metric, "last"))
        return columns

    @property
    def costs(self) -> dict[str, Cost]:
        """Columns that somebody has a value for; steps a second where samples a second aren't known of all."""
        having = {name: sum(cost.value(run) is not None for run in self.runs) for name, cost in COSTS.items()}
        kept = {name: cost for name, cost in COSTS.items() if having[name]}
        if having["speed/samples"] == len(self.runs):
            kept.pop("speed/steps", None)
        return kept

    def spread(self, group: Group, column: Column) -> Spread | None:
        return spread_over(group, column.value)

    def text(self, group: Group, column: Column) -> str:
        """As it is shown; with the number of runs where not all of them have such a value."""
        spread = self.spread(group, column)
        partly = spread is not None and len(spread.values) < len(group.runs)
        return written(spread) + (f" (of {len(spread.values)})" if spread is not None and partly else "")

    def signs(self, number: int) -> str:
        """Of the marks at a group."""
        return " ".join(mark.sign for mark in self.marks if number in mark.groups)

    def lower_is_better(self, metric: str) -> bool | None:
        """None where nobody knows, or runs don't agree."""
        said = {run.lower_is_better(metric) for run in self.runs}
        return said.pop() if len(said) == 1 else None

    def best(self, column: Column) -> int | None:
        """The number of the group with the best mean, among those of which no mark spoils this metric.

        None where there are no two of them, or nobody knows what is better.
        """
        lower = self.lower_is_better(column.metric)
        unfair = {number for mark in self.marks if mark.spoils(column.metric) for number in mark.groups}
        means = {
            number: found.mean
            for number, group in enumerate(self.groups)
            if number not in unfair and (found := self.spread(group, column)) is not None
        }
        if lower is None or len(means) < 2 or len(set(means.values())) < 2:
            return None
        return (min if lower else max)(means, key=lambda number: means[number])

    def all_differences(self) -> list[str]:
        return all_differences([flatten(run.config) for run in self.runs])


def compare(
    runs: Sequence[Run], *, metrics: Sequence[str] | None = None, over: Sequence[str] = (), notes: Sequence[str] = ()
) -> Comparison:
    """
    Args:
        runs: at least one.
        metrics: as `split/metric`; None for the tasks' monitors and main test metrics.
        over: keys in which runs of a group may differ, besides the seed, such as `data.fold`.
        notes: what is to be told besides.

    Raises:
        UserError: a metric or key that no run has.
    """
    known = _known(runs)
    for metric in metrics or ():
        if metric not in known:
            raise unknown(f"metric={metric}: no such metric in {_these(runs)}", metric, known, "Its metrics")
    keys = {key for run in runs for key in flatten(run.config)}
    for key in over:
        if key not in keys:
            raise unknown(f"over={key}: no such key in {_these(runs)}", key, keys, "Its keys")
    groups = make_groups(runs, over=over)
    shown = list(dict.fromkeys(metrics)) if metrics else _main(runs, known)
    told = list(notes)
    if not [name for name in known if all(final(run, name) is not None for run in runs)]:
        told.append("no metric is common to all runs")
    others = [name for name in known if name not in shown and name not in {*COSTS, "train/epochs"}]
    return Comparison(
        groups=groups,
        metrics=shown,
        others=others,
        over=list(over),
        marks=find_marks(groups, over=over),
        notes=told,
    )


def _these(runs: Sequence[Run]) -> str:
    return str(runs[0].path) if len(runs) == 1 else f"any of these {len(runs)} runs"


def _known(runs: Sequence[Run]) -> list[str]:
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys([*(run.summary or {}), *run.tested, *run.history])
    return [name for name in names if "/" in name]


def _main(runs: Sequence[Run], known: Sequence[str]) -> list[str]:
    """Each monitor, its like on the test split, the test's loss and what else there is of it, up to a few."""
    monitors = list(dict.fromkeys(run.monitor for run in runs))
    alike = [f"test/{monitor.partition('/')[2]}" for monitor in monitors]
    test = [name for name in known if name.startswith("test/")]
    ranked = [*(name for name in test if name in alike), *(name for name in test if name not in alike)]
    ranked.sort(key=lambda name: (name not in alike, name != "test/loss"))
    shown = [name for name in [*monitors, *ranked[: max(MAIN, len(alike))]] if name in known]
    return shown or [name for name in ("val/loss", "train/loss") if name in known]
