"""Rows of table files as samples are made of them: columns by what they are for, classes, and splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from plugformer.data.drawing import Drawing, as_split, check_trained, sorted_labels
from plugformer.data.files import match_files, refuse
from plugformer.data.records import Record
from plugformer.data.splits import SPLITS, place
from plugformer.errors import UserError, unknown
from plugformer.interfaces import Split


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    Attributes:
        id: its file's name and its line.
        file, line: where it stands.
        values: what its columns say, by role.
        group: what it can't be parted from; itself, where nothing else is known.
        split: where its column puts it.
    """

    id: str
    file: Path
    line: int
    values: Mapping[str, str]
    group: str
    split: Split | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Table:
    """The rows of all files of a table.

    Three roles of a column have a meaning here: `label` names the classes, rows of one `group` never stand in two drawn
    splits, and `split` says train, val or test of each row; a split that it names nowhere is drawn from train.

    Args:
        kind: the name of the data, for messages.
        paths: files or patterns of files.
        read: the records of a file; raises UserError for one that can't be read at all.
        columns: by role; roles without a column are left out.
        types: of the values of roles that may not have any.
        drawing: how splits are drawn that the table doesn't give.

    Raises:
        UserError: no file matches, no such column, or rows that can't be used, named by file and line; folds of rows
            that have no groups.
    """

    def __init__(
        self,
        *,
        kind: str,
        paths: list[str],
        read: Callable[[Path], Iterable[Record]],
        columns: Mapping[str, str | None],
        types: Mapping[str, Any],
        drawing: Drawing,
    ) -> None:
        self.kind = kind
        self.paths = paths
        self.read = read
        self.columns = {role: column for role, column in columns.items() if column is not None}
        self.types = types
        self.drawing = drawing
        if drawing.folds is not None and "group" not in self.columns:
            raise UserError(
                f"data.folds={drawing.folds}: folds are made of groups.\n"
                "  Say with data.group_column which column names them."
            )

    @cached_property
    def rows(self) -> list[Row]:
        files = match_files("paths", self.paths)
        rows, problems = [], []
        for path in files:
            name = path.name if len({file.name for file in files}) == len(files) else str(path)
            try:
                records = list(self.read(path))
            except UserError as error:
                problems.append(str(error))
                continue
            self._check_columns(path, records)
            for line, values in records:
                try:
                    rows.append(self._row(f"{name}:{line}", path, line, values))
                except UserError as error:
                    problems.append(f"{path}:{line}: {error}")
        refuse(f"data={self.kind}: what can't be used", problems, "Mend it, or leave it out.")
        if not rows:
            raise UserError(f"data.paths={self.paths}: no rows.")
        return rows

    def _check_columns(self, path: Path, records: Sequence[Record]) -> None:
        known = dict.fromkeys(column for _, values in records if not isinstance(values, str) for column in values)
        for role, column in self.columns.items():
            if known and column not in known:
                raise unknown(f"data.{role}_column={column}: {path} has no such column", column, known, "Its columns")

    def _row(self, name: str, file: Path, line: int, record: Mapping[str, Any] | str) -> Row:
        if isinstance(record, str):
            raise UserError(record)
        values = {}
        for role, column in self.columns.items():
            value = record.get(column)
            if value is None or (isinstance(value, str) and not value.strip()):
                raise UserError(f"{column} is empty.")
            if not isinstance(value, self.types.get(role, object)):
                raise UserError(f"{column} is a {type(value).__name__}, not text.")
            values[role] = str(value)
        split = as_split(values["split"]) if "split" in values else None
        return Row(id=name, file=file, line=line, values=values, group=values.get("group", name), split=split)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none without a column of labels."""
        return sorted_labels({row.values["label"] for row in self.rows}) if "label" in self.columns else ()

    def label(self, row: Row) -> int:
        """Its index."""
        return self.labels.index(row.values["label"])

    def split(self, rows: Sequence[Row], *, alike: Callable[[Row], str]) -> dict[Split, list[Row]]:
        """
        Args:
            rows: those that can be used.
            alike: equal for rows that never stand in two drawn splits, if no column says which these are.

        Raises:
            UserError: nothing to train on, or a class of which train has no row.
        """
        if not rows:
            raise UserError(f"data.paths={self.paths}: no row can be used.")
        splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
        if "split" not in self.columns:
            splits["train"] = list(rows)
        if not splits["train"]:
            raise UserError(f"data.split_column={self.columns['split']}: says `train` of no row.")
        missing = [split for split in SPLITS[1:] if not splits[split]]
        splits |= self._draw(self._grouped(splits["train"], alike), missing)
        if "label" in self.columns:
            found = {split: [self.label(row) for row in part] for split, part in splits.items()}
            advice = "or draw others with data.split_seed" if missing else f"or change {self.columns['split']} of some"
            check_trained(
                self.labels,
                found,
                f"data.label_column={self.columns['label']}",
                advice=f"Leave such rows out, {advice}.",
            )
        return splits

    def _grouped(self, rows: Sequence[Row], alike: Callable[[Row], str]) -> list[Row]:
        """With groups that are the first row of each, where no column names them."""
        if "group" in self.columns:
            return list(rows)
        first: dict[str, str] = {}
        return [replace(row, group=first.setdefault(alike(row), row.id)) for row in rows]

    def _draw(self, rows: list[Row], missing: list[Split]) -> dict[Split, list[Row]]:
        stratified = "label" in self.columns and "group" not in self.columns
        drawn = self.drawing.draw(
            missing,
            groups=[row.group for row in rows],
            labels=[self.label(row) for row in rows] if stratified else None,
        )
        return {split: part for split, part in place(rows, drawn).items() if split in ("train", *missing)}
