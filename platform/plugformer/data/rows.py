"""Rows that samples are made of: columns by what they are for, classes, and splits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from plugformer.data.drawing import Drawing, check_trained, sorted_labels
from plugformer.data.splits import SPLITS, place
from plugformer.errors import UserError
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


class Rows(ABC):
    """
    Three roles of a column have a meaning here: `label` names the classes, rows of one `group` never stand in two drawn
    splits, and `split` says train, val or test of each row; a split that it names nowhere is drawn from train.

    Attributes:
        columns: by role.
        drawing: how splits are drawn that the rows don't give.
        item: what messages call a row.
    """

    columns: Mapping[str, str]
    drawing: Drawing
    item: ClassVar[str] = "row"

    @property
    @abstractmethod
    def rows(self) -> list[Row]: ...

    @property
    @abstractmethod
    def where(self) -> str:
        """The option that says where they are, with its value."""

    @abstractmethod
    def option(self, role: str) -> str:
        """The option that says where a role's values stand, with its value."""

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
            raise UserError(f"{self.where}: no {self.item} can be used.")
        splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
        if "split" not in self.columns:
            splits["train"] = list(rows)
        if not splits["train"]:
            raise UserError(f"{self.option('split')}: says `train` of no {self.item}.")
        missing = [split for split in SPLITS[1:] if not splits[split]]
        splits |= self._draw(self._grouped(splits["train"], alike), missing)
        if "label" in self.columns:
            found = {split: [self.label(row) for row in part] for split, part in splits.items()}
            advice = "or draw others with data.split_seed" if missing else f"or change {self.columns['split']} of some"
            check_trained(self.labels, found, self.option("label"), advice=f"Leave such rows out, {advice}.")
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
