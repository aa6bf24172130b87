"""Tables with a column of text: CSV, JSON lines, Parquet."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from plugformer.data.drawing import Drawing, alike
from plugformer.data.records import Record, check_delimiter, read_csv, read_jsonl, read_parquet
from plugformer.data.table import Row, Table
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Sample, Split
from plugformer_text.text_source import TextSource


class TextTable(TextSource):
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
        folds: parts of like size that all groups are dealt into, for cross-validation; needs group_column. The test is
            one of them, and validation a share of the others, group by group.
        fold: which of them is the test, from 0; every group is tested once over all.

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
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        self.table = Table(
            kind=self.kind,
            paths=paths,
            read=self._read,
            columns={"text": text_column, "label": label_column, "group": group_column, "split": split_column},
            types={"text": str, "label": str | int},
            drawing=Drawing(
                val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed, folds=folds, fold=fold
            ),
        )

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Record]:
        """The records of a file; a file that can't be read at all raises UserError."""

    @property
    def spec(self) -> DataSpec:
        keys = frozenset({"id", "group", *self.table.columns} - {"split"})
        return DataSpec(keys, labels=self.table.labels)

    @cached_property
    def _splits(self) -> dict[Split, list[Sample]]:
        splits = self.table.split(self.table.rows, alike=lambda row: alike(row.values["text"]))
        return {split: [self._sample(row) for row in rows] for split, rows in splits.items()}

    def _sample(self, row: Row) -> Sample:
        sample = Sample(id=row.id, text=row.values["text"], group=row.group)
        return {**sample, "label": self.table.label(row)} if "label" in row.values else sample


class Csv(TextTable):
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
        folds: parts of like size that all groups are dealt into, for cross-validation; needs group_column. The test is
            one of them, and validation a share of the others, group by group.
        fold: which of them is the test, from 0; every group is tested once over all.

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
        folds: int | None = None,
        fold: int | None = None,
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
            folds=folds,
            fold=fold,
        )
        self.delimiter = check_delimiter(delimiter)

    def _read(self, path: Path) -> Iterator[Record]:
        return read_csv(path, delimiter=self.delimiter)


class Jsonl(TextTable):
    """Rows of files that hold a JSON object in each line."""

    kind = "jsonl"

    def _read(self, path: Path) -> Iterator[Record]:
        return read_jsonl(path)


class Parquet(TextTable):
    """Rows of Parquet files; a row's number, from 1, stands for its line. Needs pyarrow."""

    kind = "parquet"

    def _read(self, path: Path) -> Iterator[Record]:
        try:
            return read_parquet(path, columns=self.table.columns.values())
        except ImportError:
            raise UserError("data=parquet needs pyarrow: pip install 'plugformer[parquet]'") from None
