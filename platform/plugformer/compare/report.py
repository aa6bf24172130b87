"""A comparison as plain values, for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from plugformer.compare.comparison import Comparison
from plugformer.compare.configuration import flatten
from plugformer.compare.groups import Group, spread_over
from plugformer.compare.marks import code_name
from plugformer.compare.run import Run
from plugformer.compare.values import COSTS, final, last
from plugformer.run_dir import plain


def report(comparison: Comparison) -> dict[str, Any]:
    """All of it: `groups` with their spreads, `runs` with their own numbers, `marks`, and keys that differ."""
    known = [*comparison.metrics, *comparison.others, *COSTS]
    described: dict[str, Any] = {
        "metrics": comparison.metrics,
        "lower_is_better": {name: comparison.lower_is_better(name) for name in comparison.metrics},
        "over": ["seed", *comparison.over],
        "groups": [
            {
                "label": group.label,
                "differs": group.differs,
                "finished": group.finished,
                "seeds": group.seeds,
                "runs": [str(run.path) for run in group.runs],
                "metrics": {name: _spread(group, partial(_value, name=name)) for name in known},
                "last": {name: _spread(group, partial(last, metric=name)) for name in known if name.startswith("val/")},
                "marks": comparison.signs(number).split(),
            }
            for number, group in enumerate(comparison.groups)
        ],
        "marks": [{**asdict(mark), "unfair": mark.unfair} for mark in comparison.marks],
        "notes": comparison.notes,
        "differences": {
            key: {str(run.path): flatten(run.config).get(key) for run in comparison.runs}
            for key in comparison.all_differences()
        },
        "runs": [_describe(run) for run in comparison.runs],
    }
    result: dict[str, Any] = plain(described)
    return result


def _value(run: Run, name: str) -> float | None:
    return COSTS[name].value(run) if name in COSTS else final(run, name)


def _spread(group: Group, value: Callable[[Run], float | None]) -> dict[str, Any] | None:
    spread = spread_over(group, value)
    if spread is None:
        return None
    return {"mean": spread.mean, "deviation": spread.deviation, "n": len(spread.values), "values": spread.values}


def _describe(run: Run) -> dict[str, Any]:
    return {
        "path": run.path,
        "finished": run.finished,
        "seed": run.seed,
        "monitor": run.monitor,
        "steps": run.steps,
        "best_step": run.best_step,
        "summary": run.summary,
        "so_far": None if run.finished else {name: final(run, name) for name in [*run.history, *run.tested]},
        "data": run.data,
        "code": code_name(run),
        "command": run.environment.get("command"),
        "python": run.environment.get("python"),
        "platform": run.environment.get("platform"),
        "plugins": run.plugins,
        "job": run.job or None,
        "model": run.model or None,
        "config": run.config,
    }
