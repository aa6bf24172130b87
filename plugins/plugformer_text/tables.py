"""Tables with a column of text: CSV, JSON lines, Parquet."""

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from plugformer.data.drawing import Drawing, alike, as_split, check_trained, sorted_labels
from plugformer.data.files import match_files, read_text, refuse
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, unknown
from plugformer.interfaces import DataSpec, Sample, Split
from plugformer_text.text_source import TextSource, place

LONGEST_FIELD = 2**31 - 1


class Record(NamedTuple):
    """
    Attributes:
        line: where it begins in its file, from 1.
        values: by column; a string says why there are none.
    """

    line: int
    values: Mapping[str, Any] | str


class Table(TextSource):
    """
    Args:
        paths: files or patterns of files, as in [reviews.csv, more/*.csv].
        text_column: whose text a sample is; every row must have one.
        label_column: whose values are the classes, in their order; none by default.
        group_column: rows of one value never stand in two drawn splits; by default, rows of one text don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        val_fraction: share of the rows that validation gets, unless it is given.
        test_fraction: share of the rows that the test gets, unless it is given.
        split_seed: decides which rows.

    Raises:
        UserError: no file matches, no such column, or rows that can't be used, named by file and line.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        *,
        paths: list[str],
        text_column: str = "text",
        label_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.paths = paths
        self.columns: dict[str, str] = {"text": text_column}
        for role, column in {"label": label_column, "group": group_column, "split": split_column}.items():
            if column is not None:
                self.columns[role] = column
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Record]:
        """The records of a file; a file that can't be read at all raises UserError."""

    @property
    def spec(self) -> DataSpec:
        keys = frozenset({"id", "group", *self.columns} - {"split"})
        return DataSpec(keys, labels=self._labels if "label" in self.columns else ())

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        """What the columns say of each row, by role, and its `id`."""
        files = match_files("paths", self.paths)
        rows, problems = [], []
        for path in files:
            name = path.name if len({file.name for file in files}) == len(files) else str(path)
            try:
                records = list(self._read(path))
            except UserError as error:
                problems.append(str(error))
                continue
            self._check_columns(path, records)
            for line, values in records:
                try:
                    rows.append({"id": f"{name}:{line}", **self._row(values)})
                except UserError as error:
                    problems.append(f"{path}:{line}: {error}")
        refuse(f"data={self.kind}: what can't be used", problems, "Mend it, or leave it out.")
        return rows

    def _check_columns(self, path: Path, records: list[Record]) -> None:
        known = dict.fromkeys(column for _, values in records if not isinstance(values, str) for column in values)
        for role, column in self.columns.items():
            if known and column not in known:
                raise unknown(f"data.{role}_column={column}: {path} has no such column", column, known, "Its columns")

    def _row(self, values: Mapping[str, Any] | str) -> dict[str, str]:
        if isinstance(values, str):
            raise UserError(values)
        row = {}
        for role, column in self.columns.items():
            value = values.get(column)
            if value is None or (isinstance(value, str) and not value.strip()):
                raise UserError(f"{column} is empty.")
            if not isinstance(value, {"text": str, "label": str | int}.get(role, object)):
                raise UserError(f"{column} is a {type(value).__name__}, not text.")
            row[role] = str(value)
        return row | ({"split": as_split(row["split"])} if "split" in row else {})

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        return sorted_labels({row["label"] for row in self._rows})

    @cached_property
    def _splits(self) -> dict[Split, list[Sample]]:
        rows = self._rows
        if not rows:
            raise UserError(f"data.paths={self.paths}: no rows.")
        splits: dict[Split, list[dict[str, str]]] = {s: [r for r in rows if r.get("split") == s] for s in SPLITS}
        if "split" not in self.columns:
            splits["train"] = rows
        if not splits["train"]:
            raise UserError(f"data.split_column={self.columns['split']}: says `train` of no row.")
        missing = [split for split in SPLITS[1:] if not splits[split]]
        splits |= self._draw(splits["train"], missing)
        samples = {split: [self._sample(row) for row in part] for split, part in splits.items()}
        if "label" in self.columns:
            found = {split: [sample["label"] for sample in part] for split, part in samples.items()}
            check_trained(self._labels, found, f"data.label_column={self.columns['label']}")
        return samples

    def _draw(self, rows: list[dict[str, str]], missing: list[Split]) -> dict[Split, list[dict[str, str]]]:
        first: dict[str, str] = {}
        for row in rows:
            row.setdefault("group", first.setdefault(alike(row["text"]), row["id"]))
        stratified = "label" in self.columns and "group" not in self.columns
        drawn = self.drawing.draw(
            missing,
            groups=[row["group"] for row in rows],
            labels=[self._labels.index(row["label"]) for row in rows] if stratified else None,
        )
        return {split: part for split, part in place(rows, drawn).items() if split in ("train", *missing)}

    def _sample(self, row: dict[str, str]) -> Sample:
        sample = Sample(id=row["id"], text=row["text"], group=row.get("group", row["id"]))
        return {**sample, "label": self._labels.index(row["label"])} if "label" in row else sample


class Csv(Table):
    """Rows of CSV files whose first line names the columns.

    Args:
        paths: files or patterns of files, as in [reviews.csv, more/*.csv].
        delimiter: what stands between columns; "\\t" for tabs.
        text_column: whose text a sample is; every row must have one.
        label_column: whose values are the classes, in their order; none by default.
        group_column: rows of one value never stand in two drawn splits; by default, rows of one text don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        val_fraction: share of the rows that validation gets, unless it is given.
        test_fraction: share of the rows that the test gets, unless it is given.
        split_seed: decides which rows.

    Raises:
        UserError: no file matches, no such column, or rows that can't be used, named by file and line.
    """

    kind = "csv"

    def __init__(
        self,
        *,
        paths: list[str],
        delimiter: str = ",",
        text_column: str = "text",
        label_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            paths=paths,
            text_column=text_column,
            label_column=label_column,
            group_column=group_column,
            split_column=split_column,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        self.delimiter = delimiter.replace("\\t", "\t")
        if len(self.delimiter) != 1:
            raise UserError(f"data.delimiter={delimiter}: must be one character, or \\t for a tab.")

    def _read(self, path: Path) -> Iterator[Record]:
        lines = io.StringIO(read_text(path), newline="")
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        header: list[str] = []
        before, limit = 0, csv.field_size_limit(LONGEST_FIELD)  # by default a document may have 128 KiB
        try:
            for fields in reader:
                line, before = before + 1, reader.line_num
                if not fields:
                    continue
                if not header:
                    header = fields
                    if len(set(header)) < len(header):
                        raise UserError(f"{path}: its first line names a column twice: {', '.join(header)}.")
                elif len(fields) == len(header):
                    yield Record(line, dict(zip(header, fields, strict=True)))
                else:
                    yield Record(line, f"has {len(fields)} columns, the first line has {len(header)}.")
        except csv.Error as error:
            yield Record(before + 1, f"not CSV ({error}).")
        finally:
            csv.field_size_limit(limit)


class Jsonl(Table):
    """Rows of files that hold a JSON object in each line."""

    kind = "jsonl"

    def _read(self, path: Path) -> Iterator[Record]:
        for line, text in enumerate(read_text(path).split("\n"), 1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except ValueError as error:
                yield Record(line, f"not JSON ({error}).")
            else:
                yield Record(line, values if isinstance(values, dict) else "not a JSON object.")


class Parquet(Table):
    """Rows of Parquet files; a row's number, from 1, stands for its line. Needs pyarrow."""

    kind = "parquet"

    def _read(self, path: Path) -> Iterator[Record]:
        try:
            import pyarrow  # noqa: PLC0415  # an optional dependency
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            raise UserError("data=parquet needs pyarrow: pip install 'plugformer[parquet]'") from None
        try:
            file = parquet.ParquetFile(path)
            table = file.read([column for column in file.schema_arrow.names if column in self.columns.values()])
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise UserError(f"{path}: not a Parquet file that can be read ({error}).") from None
        missing = dict.fromkeys(set(file.schema_arrow.names) - set(table.column_names))
        return (Record(number, {**missing, **row}) for number, row in enumerate(table.to_pylist(), 1))
