"""Texts and their translations, or whatever else is to be written for a text."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from plugformer.data.drawing import Drawing
from plugformer.data.files import listed
from plugformer.data.records import Record, check_delimiter, read_csv, read_jsonl
from plugformer.data.rows import Row, Rows
from plugformer.data.splits import SPLITS
from plugformer.data.table import Table
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Split
from plugformer_text.aligned_lines import AlignedLines, SideBySide
from plugformer_text.text_source import PairSource, same_source

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


class ParallelText(PairSource):
    """Pairs of a text and what is to be written for it: lines of files that go together, or columns of a table.

    Sources that are equal but for white space and capitals never stand in two drawn splits. Where splits are given, or
    groups, a warning names the sources of validation and test that are trained on.

    Args:
        source: files of sources, one in each line, as in [corpus.en]; line n goes with line n of target's file.
        target: files of as many lines, as in [corpus.ko]; the first goes with source's first, and so on.
        val_source: files of the sources that validation gets, instead of a share.
        val_target: what goes with them.
        test_source: files of the sources that the test gets, instead of a share.
        test_target: what goes with them.
        paths: files or patterns of files that hold both sides, instead of source and target: .csv and .tsv, whose
            first line names the columns, and .jsonl, a JSON object in each line.
        delimiter: what stands between columns; by default a comma in .csv and a tab in .tsv. With one, a file may have
            any other suffix.
        source_column: whose text is the source, `source` by default.
        target_column: whose text is the target, `target` by default.
        group_column: rows of one value, such as a document, never stand in two drawn splits; by default, rows of one
            source don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        bad_lines: `fail` names lines that are empty or can't be read, and ends the run before training; `skip` leaves
            them out, with what goes with them, and warns, naming them.
        val_fraction: share of the pairs that validation gets, unless it is given.
        test_fraction: share of the pairs that the test gets, unless it is given.
        split_seed: decides which pairs.

    Raises:
        UserError: neither files nor a table, or both, or an option of the other; no such file or column, files of
            different lengths, or lines that can't be used, named by file and line.
    """

    def __init__(
        self,
        *,
        source: list[str] | None = None,
        target: list[str] | None = None,
        val_source: list[str] | None = None,
        val_target: list[str] | None = None,
        test_source: list[str] | None = None,
        test_target: list[str] | None = None,
        paths: list[str] | None = None,
        delimiter: str | None = None,
        source_column: str | None = None,
        target_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        bad_lines: Literal["fail", "skip"] = "fail",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        of_files = {
            "source": source,
            "target": target,
            "val_source": val_source,
            "val_target": val_target,
            "test_source": test_source,
            "test_target": test_target,
        }
        of_tables = {
            "delimiter": delimiter,
            "source_column": source_column,
            "target_column": target_column,
            "group_column": group_column,
            "split_column": split_column,
        }
        self.rows: Rows
        if paths and not source:
            _refuse_others(of_files, "data.paths")
            self.delimiter = None if delimiter is None else check_delimiter(delimiter)
            self.rows = Table(
                kind="parallel_text",
                paths=paths,
                read=self._read,
                columns={
                    "source": source_column or "source",
                    "target": target_column or "target",
                    "group": group_column,
                    "split": split_column,
                },
                types={"source": str, "target": str},
                drawing=drawing,
                bad_lines=bad_lines,
            )
        elif source and not paths:
            _refuse_others(of_tables, "data.source")
            self.rows = AlignedLines(files=_sides(of_files), drawing=drawing, bad_lines=bad_lines)
        else:
            raise UserError(
                f"data=parallel_text: set {'only one' if paths else 'one'} of data.source, for files whose lines go "
                "with those of data.target,\n  as in data.source=[corpus.en] data.target=[corpus.ko], and data.paths, "
                "for tables of both."
            )

    def _read(self, path: Path) -> Iterator[Record]:
        suffix = path.suffix.lower()
        if suffix in _JSON_LINES:
            if self.delimiter is not None:
                raise UserError(f"{path}: data.delimiter has no effect on JSON lines.")
            return read_jsonl(path)
        delimiter = self.delimiter or _DELIMITERS.get(suffix)
        if delimiter is None:
            known = ", ".join((*_DELIMITERS, *_JSON_LINES))
            raise UserError(
                f"{path}: not one of {known}; data.delimiter says how to read another. Of two files whose lines go "
                "together, data.source is one and data.target the other."
            )
        return read_csv(path, delimiter=delimiter)

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        splits = self.rows.split(self.rows.rows, alike=_key)
        self._warn_of_trained(splits)
        return {split: [_sample(row) for row in rows] for split, rows in splits.items()}

    def _warn_of_trained(self, splits: Mapping[Split, list[Row]]) -> None:
        trained = {_key(row) for row in splits["train"]}
        for split in SPLITS[1:]:
            known = [str(row) for row in splits[split] if _key(row) in trained]
            if known:
                warnings.warn(
                    f"{self.rows.where}: sources of {split} that are in train as well ({len(known)} of "
                    f"{len(splits[split])}).\n{listed(known)}",
                    stacklevel=2,
                )


def _key(row: Row) -> str:
    return same_source(row.values["source"])


def _sample(row: Row) -> Sample:
    return Sample(id=row.id, text=row.values["source"], target_text=row.values["target"], group=row.group)


def _sides(options: Mapping[str, list[str] | None]) -> dict[Split, SideBySide]:
    """The files of each split that has any.

    Raises:
        UserError: one side without the other.
    """
    sides: dict[Split, SideBySide] = {}
    for split in SPLITS:
        prefix = "" if split == "train" else f"{split}_"
        given = {side: options[f"{prefix}{side}"] for side in SideBySide._fields}
        for side, other in (("source", "target"), ("target", "source")):
            if given[side] and not given[other]:
                raise UserError(f"data.{prefix}{side}={given[side]}: and what goes with it? Set data.{prefix}{other}.")
        if given["source"] and given["target"]:
            sides[split] = SideBySide(given["source"], given["target"])
    return sides


def _refuse_others(options: Mapping[str, Any], chosen: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"data.{name}={value}: has no effect with {chosen}.\n  Leave one of them out.")
