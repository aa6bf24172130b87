"""Rows of table files."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from plugformer.data.drawing import Drawing, as_split
from plugformer.data.files import listed, match_files, refuse
from plugformer.data.records import Record
from plugformer.data.rows import Row, Rows
from plugformer.errors import UserError, unknown


class Table(Rows):
    """The rows of all files of a table.

    Args:
        kind: the name of the data, for messages.
        paths: files or patterns of files.
        read: the records of a file; raises UserError for one that can't be read at all.
        columns: by role; roles without a column are left out.
        types: of the values of roles that may not have any.
        drawing: how splits are drawn that the table doesn't give.
        bad_lines: whether rows that can't be used end the run or are left out with a warning, where there is an option
            of that name; else they end it.

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
        bad_lines: Literal["fail", "skip"] | None = None,
    ) -> None:
        self.kind = kind
        self.paths = paths
        self.read = read
        self.columns = {role: column for role, column in columns.items() if column is not None}
        self.types = types
        self.drawing = drawing
        self.bad_lines = bad_lines
        if drawing.folds is not None and "group" not in self.columns:
            raise UserError(
                f"data.folds={drawing.folds}: folds are made of groups.\n"
                "  Say with data.group_column which column names them."
            )

    @property
    def where(self) -> str:
        return f"data.paths={self.paths}"

    def option(self, role: str) -> str:
        return f"data.{role}_column={self.columns[role]}"

    @cached_property
    def rows(self) -> list[Row]:
        files = match_files("paths", self.paths)
        rows, problems, bad_rows = [], [], []
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
                    bad_rows.append(f"{path}:{line}: {error}")
        self._tell(problems, bad_rows)
        if not rows:
            raise UserError(f"{self.where}: no rows.")
        return rows

    def _tell(self, problems: list[str], bad_rows: list[str]) -> None:
        """Of files and of rows that can't be used."""
        what = f"data={self.kind}: what can't be used"
        if self.bad_lines == "skip" and bad_rows and not problems:
            warnings.warn(f"{what} ({len(bad_rows)}).\n{listed(bad_rows)}\n  It is left out.", stacklevel=2)
            return
        skip = ", or leave such lines out with data.bad_lines=skip." if self.bad_lines and not problems else None
        refuse(what, [*problems, *bad_rows], f"Mend it{skip or ', or leave it out.'}")

    def _check_columns(self, path: Path, records: Sequence[Record]) -> None:
        known = dict.fromkeys(column for _, values in records if not isinstance(values, str) for column in values)
        for role, column in self.columns.items():
            if known and column not in known:
                raise unknown(f"{self.option(role)}: {path} has no such column", column, known, "Its columns")

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
