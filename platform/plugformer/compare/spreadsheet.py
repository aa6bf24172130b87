"""A comparison as a CSV file, a row a group, for spreadsheets and papers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from plugformer.compare.comparison import Comparison
from plugformer.compare.configuration import told
from plugformer.compare.groups import Spread, spread_over
from plugformer.errors import UserError
from plugformer.run_dir import replacing

FIGURES = ("", " deviation", " n")  # what is told of each, behind its name


def write_csv(comparison: Comparison, path: Path) -> Path:
    """What tells groups apart, then mean, sample deviation and number of runs of each figure.

    Raises:
        UserError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(_heads(comparison))
            writer.writerows(_rows(comparison))
    except OSError as error:
        raise UserError(f"--csv {path}: can't be written ({error.strerror}).") from None
    return path


def _heads(comparison: Comparison) -> list[str]:
    figures = [*(column.title for column in comparison.columns), *comparison.costs]
    return ["label", *comparison.keys, "seeds", "marks", *(f"{name}{what}" for name in figures for what in FIGURES)]


def _rows(comparison: Comparison) -> Iterator[list[object]]:
    for number, group in enumerate(comparison.groups):
        keys = [told(group.differs[key]) if key in group.differs else "" for key in comparison.keys]
        spreads = [comparison.spread(group, column) for column in comparison.columns]
        spreads += [spread_over(group, cost.value) for cost in comparison.costs.values()]
        seeds = " ".join(map(str, group.seeds))
        kinds = "; ".join(mark.kind for mark in comparison.marks if number in mark.groups)
        yield [group.label, *keys, seeds, kinds, *(figure for spread in spreads for figure in _figures(spread))]


def _figures(spread: Spread | None) -> tuple[object, object, int]:
    if spread is None:
        return "", "", 0
    return spread.mean, "" if spread.deviation is None else spread.deviation, len(spread.values)
