"""metrics.csv as it was logged: every metric against the optimiser steps."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from plugformer.errors import UserError

Series = list[tuple[int, float]]  # of one metric: step and value, in the order in which they were logged


def read_history(path: Path) -> dict[str, Series]:
    """Every metric of a metrics.csv by its name; nothing if there is no such file.

    The last line may be half, as a run leaves it that was killed while it wrote: it is left out.

    Raises:
        UserError: any other damage, by its line.
    """
    if not path.exists():
        return {}
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged ({error}).") from None
    if not lines:
        return {}
    try:
        names, *rows = csv.reader(lines, strict=True)
    except csv.Error as error:
        raise UserError(f"{path}: damaged ({error}).") from None
    if "step" not in names:
        raise UserError(f"{path}:1: damaged (no column is named step).")
    return _by_name(path, names, rows)


def _by_name(path: Path, names: list[str], rows: Iterable[list[str]]) -> dict[str, Series]:
    place = names.index("step")
    series: dict[str, Series] = {name: [] for name in names if name != "step"}
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise UserError(f"{path}:{number}: damaged ({len(row)} cells where {len(names)} are expected).")
        try:
            step = int(row[place])
        except ValueError:
            raise UserError(f"{path}:{number}: damaged ({row[place]!r} is no step).") from None
        for name, cell in zip(names, row, strict=True):
            if cell and name != "step":
                series[name].append((step, _number(path, number, name, cell)))
    return {name: points for name, points in series.items() if points}


def _number(path: Path, line: int, name: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{path}:{line}: damaged ({cell!r} under {name} is no number).") from None


def without_last_test(history: Mapping[str, Series], steps: int | None) -> dict[str, Series]:
    """Without what the best checkpoint reached in its last evaluation: that stands behind the curves of training.

    Args:
        history: as it was read.
        steps: that the whole training took; None where the run isn't over.
    """
    end = _last_test(history) if steps is None else steps
    if end is None:
        return dict(history)
    kept = {
        name: [point for point in points if point[0] < end or not name.startswith("val/")]
        for name, points in history.items()
        if not name.startswith("test/")
    }
    return {name: points for name, points in kept.items() if points}


def _last_test(history: Mapping[str, Series]) -> int | None:
    """Its step, if a run that isn't over has come so far: one after that of the last validation, in the next epoch."""
    epochs = dict(history.get("epoch", []))
    validated = sorted({step for name, points in history.items() if name.startswith("val/") for step, _ in points})
    trained = max((points[-1][0] for name, points in history.items() if name.startswith("train/")), default=-1)
    if len(validated) < 2 or trained >= validated[-1]:
        return None
    before, last = validated[-2:]
    follows = last == before + 1 and epochs.get(last, 0) > epochs.get(before, 0)
    return last if follows else None
