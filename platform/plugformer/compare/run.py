"""One run, as far as its directory tells."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plugformer.compare.configuration import complete
from plugformer.compare.history import Series, read_history, without_last_test
from plugformer.compare.metrics import lower_is_better
from plugformer.errors import UserError
from plugformer.run_dir import RunDir, read_json


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        dir: where it stands.
        config: the resolved composition, with the defaults of what it leaves out.
        summary: final metrics as `split/metric`, NaN where they aren't numbers; None while the run isn't over.
        history: what was logged while it trained.
        tested: what its best checkpoint reached so far, of a run that isn't over.
        data: what data.json says; nothing where it is missing, as with the others.
        environment: environment.json.
        plugins: plugins.json.
        model: model.json.
        job: job.json.
        non_finite: metrics that became NaN or infinite, with the step, counted from 0, if it is known.
        changes: a short name of the code's differences from its revision.
        written: when metrics were last written, in seconds since 1970; None if never.
    """

    dir: RunDir
    config: Mapping[str, Any]
    summary: Mapping[str, float] | None
    history: Mapping[str, Series]
    tested: Mapping[str, float]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    plugins: Mapping[str, Any]
    model: Mapping[str, Any]
    job: Mapping[str, Any]
    non_finite: Mapping[str, int | None]
    changes: str
    written: float | None

    @property
    def path(self) -> Path:
        return self.dir.path

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def task(self) -> str:
        return str(self.config.get("task", {}).get("name"))

    @property
    def steps(self) -> int:
        """Optimiser steps that it has done."""
        if self.summary and (steps := _steps(self.summary)) is not None:
            return steps
        return max((points[-1][0] + 1 for name, points in self.history.items() if "/" in name), default=0)

    @property
    def monitor(self) -> str:
        """The metric by which its best checkpoint was chosen."""
        recorded = self.model.get("monitor") or {}
        option = self.config.get("task", {}).get("monitor")
        return str(recorded.get("metric") or (f"val/{option}" if option else "val/loss"))

    def lower_is_better(self, metric: str) -> bool | None:
        """As its task says of the monitor, and of the same metric of another split; None where nobody knows."""
        mode = (self.model.get("monitor") or {}).get("mode")
        if mode and metric.partition("/")[2] == self.monitor.partition("/")[2]:
            return bool(mode == "min")
        return lower_is_better(metric)

    @cached_property
    def best_step(self) -> int | None:
        """Of the validation that was best by the monitor; None if there was none with a number."""
        lower = self.lower_is_better(self.monitor)
        points = [(value, step) for step, value in self.history.get(self.monitor, []) if not math.isnan(value)]
        if not points or lower is None:
            return None
        return min(points, key=lambda point: point[0] if lower else -point[0])[1]


def read_run(path: Path) -> Run:
    """
    Raises:
        UserError: not a run directory, or a file in it is damaged.
    """
    where = RunDir.open(path)
    summary = _read_summary(where.summary)
    whole = read_history(where.metrics)
    history = without_last_test(whole, None if summary is None else _steps(summary))
    tested = {
        name: points[-1][1]
        for name, points in whole.items()
        if name.startswith(("val/", "test/")) and points[-1] not in history.get(name, [])
    }
    diff = where.git_diff.read_bytes() if where.git_diff.is_file() else b""
    return Run(
        dir=where,
        config=complete(where.read_config()),
        summary=summary,
        history=history,
        tested=tested,
        data=_read_mapping(where.data),
        environment=_read_mapping(where.environment),
        plugins=_read_mapping(where.plugins),
        model=_read_mapping(where.model),
        job=_read_mapping(where.job),
        non_finite=_non_finite(_read_mapping(where.non_finite), summary or {}, whole),
        changes=hashlib.blake2b(diff, digest_size=4).hexdigest() if diff else "",
        written=where.metrics.stat().st_mtime if where.metrics.is_file() else None,
    )


def _steps(summary: Mapping[str, float]) -> int | None:
    steps = summary.get("train/steps", math.nan)
    return int(steps) if math.isfinite(steps) else None


def _non_finite(
    recorded: Mapping[str, int | None], summary: Mapping[str, float], history: Mapping[str, Series]
) -> dict[str, int | None]:
    """As the run noticed, and what stands in its figures anyway."""
    found: dict[str, int | None] = {name: None for name, value in summary.items() if not math.isfinite(value)}
    for name, points in history.items():
        if name == "train/loss" or name.startswith(("val/", "test/")):
            steps = [step for step, value in points if not math.isfinite(value)]
            found |= {name: steps[0]} if steps else {}
    return {**found, **recorded}


def _read_mapping(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: damaged (expected an object).")
    return value


def _read_summary(path: Path) -> Mapping[str, float] | None:
    """What isn't a finite number stands there as null."""
    if not path.exists():
        return None
    values = _read_mapping(path)
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{path}: damaged ({name} is {value!r}, no number).")
    return {name: math.nan if value is None else value for name, value in values.items()}
