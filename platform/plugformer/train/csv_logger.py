"""metrics.csv: every logged metric, a row a step."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.config import Config
from plugformer.run_dir import RunDir, replacing
from plugformer.track.logger import Logger, Tracker

Row = dict[str, Any]


class Csv(Logger):
    """A row a step in the run directory's metrics.csv; on in every run, whatever else is chosen."""

    def open(self, run: RunDir, config: Config) -> LightningLogger:
        return CsvLogger(run)


class CsvLogger(LightningLogger, Tracker):
    """Appends rows while the columns stay the same, and rewrites the file whole when a new metric appears.

    Rows that are there already, of a run that goes on, stay. Lightning's own CSVLogger wants a folder of versions to
    itself and deletes what it finds there.
    """

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self._path = run.metrics
        self._columns, written = read_rows(self._path)
        self._rows: list[Row] = []  # not yet in the file; only the last may still grow
        self._last = written[-1]["step"] if written else None  # step that is in the file

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self._rows or self._rows[-1]["step"] != step:
            self._rows.append({"step": step})
        self._rows[-1] |= metrics

    @rank_zero_only
    def save(self) -> None:
        """Write all rows that are complete."""
        self._write(self._rows[:-1])
        self._rows = self._rows[-1:]

    @rank_zero_only
    def flush(self) -> None:
        """Write all rows, and wait until they are on the disk."""
        self.finalize("")
        if self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write(self._rows)
        self._rows = []

    def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        if new or str(rows[0]["step"]) == self._last:
            self._columns += new
            before = read_rows(self._path)[1]
            if before and before[-1]["step"] == str(rows[0]["step"]):  # it was flushed before it was complete
                rows = [before.pop() | rows[0], *rows[1:]]
            write_rows(self._path, self._columns, [*before, *rows])
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
        self._last = str(rows[-1]["step"])


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The columns, and the rows as they are written; of a file that isn't there, none.

    A last row that was being written when its run was killed is left out.
    """
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(_whole_lines(file))
        found = list(rows)
        return list(rows.fieldnames or []), found


def write_rows(path: Path, columns: list[str], rows: list[Row]) -> None:
    """Instead of what was there."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    return (line for line in lines if line.endswith("\n"))
