"""metrics.csv: every logged metric, a row a step."""

import csv
from typing import Any

from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.config import Config
from plugformer.run_dir import RunDir, replacing
from plugformer.track.logger import Logger


class Csv(Logger):
    """A row a step in the run directory's metrics.csv; on in every run, whatever else is chosen."""

    def open(self, run: RunDir, config: Config) -> LightningLogger:
        return CsvLogger(run)


class CsvLogger(LightningLogger):
    """Appends rows while the columns stay the same, and rewrites the file whole when a new metric appears.

    Lightning's own CSVLogger wants a folder of versions to itself and deletes what it finds there.
    """

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self._path = run.metrics
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []  # not yet in the file; only the last may still grow

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
    def finalize(self, status: str) -> None:
        self._write(self._rows)
        self._rows = []

    def _write(self, rows: list[dict[str, Any]]) -> None:
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite(rows)
        elif rows:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        before = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                before = list(csv.DictReader(file))
        with replacing(self._path) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows([*before, *rows])
