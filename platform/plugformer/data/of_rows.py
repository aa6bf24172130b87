"""Data whose samples are files that rows name."""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from plugformer.data.files import listed, refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.of_files import DataOfFiles, FileSamples
from plugformer.data.rows import Row, Rows
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Split


class DataOfRows(DataOfFiles):
    """A row's `path` says which file a sample is; its `text` is the sample's `target_text`."""

    def __init__(self, *, rows: Rows, root: Path | None, bad_files: Literal["fail", "skip"]) -> None:
        """
        Args:
            rows: see above.
            root: where relative paths start; by default, at the folder of the file that the row stands in.
            bad_files: what to do about files that can't be read.
        """
        super().__init__(bad_files=bad_files)
        self.rows = rows
        self.root = None if root is None else root.expanduser()

    @property
    def where(self) -> str:
        return self.rows.where

    @cached_property
    def keys(self) -> frozenset[str]:
        names = {"path": self.medium.key, "text": "target_text"}
        return frozenset(names.get(role, role) for role in {"id", "group", *self.rows.columns} - {"split"})

    @property
    def labels(self) -> tuple[str, ...]:
        return self.rows.labels

    # ------------------------------------------------------------------------------------------ files

    @cached_property
    def _rows_of(self) -> dict[Path, list[Row]]:
        """Of each file."""
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder.")
        rows = defaultdict(list)
        for row in self.rows.rows:
            rows[self.path(row)].append(row)
        return dict(rows)

    def path(self, row: Row) -> Path:
        start = row.file.parent if self.root is None else self.root
        return Path(os.path.normpath(start / Path(row.values["path"]).expanduser()))

    @property
    def paths(self) -> Sequence[Path]:
        return list(self._rows_of)

    def verify(self) -> None:
        for role in ("group", "split"):
            if role in self.rows.columns:
                self._check_files(role)
        if self.bad_files == "fail":
            missing = [f"{row}: {path}" for path, rows in self._rows_of.items() if not path.exists() for row in rows]
            start = "the table's folder; data.root sets another" if self.root is None else f"data.root={self.root}"
            told = f"{self.where}: {self.medium.kind} files that aren't there"
            refuse(told, missing, f"Relative paths start at {start}.")
        super().verify()
        for role in ("group", "split"):
            if role in self.rows.columns:
                self._warn_of_copies(role)

    def tell(self, path: Path, why: str) -> str:
        return f"{self._rows_of[path][0]}: {why}"

    def _check_files(self, role: str) -> None:
        """That a column says one thing of a file, in whatever rows it stands."""
        divided = [
            f"{path}: {', '.join(f'{row.values[role]} in {row}' for row in rows)}"
            for path, rows in self._rows_of.items()
            if len({row.values[role] for row in rows}) > 1
        ]
        refuse(f"{self.rows.option(role)}: files in more than one {role}", divided, "Mend it.")

    def _warn_of_copies(self, role: str) -> None:
        """That files of equal content stand apart, so that what is tested may have been trained on."""
        copies = defaultdict(list)
        for path, found in self.found.good.items():
            copies[found.digest].append(self._rows_of[path][0])
        divided = [
            ", ".join(f"{row} ({row.values[role]})" for row in rows)
            for rows in copies.values()
            if len({row.values[role] for row in rows}) > 1
        ]
        if divided:
            warnings.warn(
                f"{self.rows.option(role)}: equal files in more than one {role} ({len(divided)}), "
                f"so a test may hold what was trained on.\n{listed(divided)}",
                stacklevel=2,
            )

    # ------------------------------------------------------------------------------------------ samples

    @cached_property
    def _splits(self) -> dict[Split, list[Row]]:
        return self.rows.split(self.usable(), alike=self.alike)

    def usable(self) -> list[Row]:
        """Those that samples are made of."""
        return [row for row in self.rows.rows if self.path(row) not in self.found.bad]

    def alike(self, row: Row) -> str:
        """Equal for rows that never stand in two drawn splits, if no column says which these are."""
        return self.digest(self.path(row))

    def samples(self, split: Split) -> Sequence[Sample]:
        unread = [(self.path(row), self._known(row)) for row in self._splits[split]]
        return FileSamples(unread, self.medium.key, self.medium.read)

    def _known(self, row: Row) -> Sample:
        """All but what the file holds."""
        sample = Sample(id=row.id, group=row.group)
        if "label" in row.values:
            sample["label"] = self.rows.label(row)
        if "text" in row.values:
            sample["target_text"] = self.text(row)
        return sample

    def text(self, row: Row) -> str:
        """What is to be written of it."""
        return row.values.get("text", "")

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[str]:
        for split in SPLITS:
            for row in self._splits[split]:
                yield from (split, row.id, row.values.get("label", ""), self.text(row), self.digest(self.path(row)))
