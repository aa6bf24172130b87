"""Files in folders, one folder a class."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from plugformer.data.drawing import Drawing, check_trained
from plugformer.data.files import unreadable, visible_files
from plugformer.data.fingerprint import fingerprint
from plugformer.data.of_files import DataOfFiles, FileSamples
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Split


class File(NamedTuple):
    """
    Attributes:
        label: number of its class.
        split: where folders give it.
        group: where there are groups.
    """

    path: Path
    label: int
    split: Split | None
    group: str | None


class ClassFolders(DataOfFiles):
    """Files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`.

    Args:
        root: the folder. If it holds a folder `train` and at least one other split, these splits are taken as they
            are; a missing one is drawn from `train`.
        val_fraction: share of the samples that validation gets, unless it has a folder.
        test_fraction: share of the samples that the test gets, unless it has a folder.
        split_seed: decides which samples.
        group: a regular expression; what it finds in a file's path below the root, such as '[^/]*(?=_)' in
            cat/rex_3.png, names a group that is never divided by a split. By default splits are drawn class by class.
        bad_files: `fail` names the files that can't be read and ends the run before training; `skip` leaves such
            files out and warns, naming them.

    Raises:
        UserError: no such folder, fewer than two classes, a class without files or without one to train on, a file
            without a group, or a group that the given folders divide.
    """

    def __init__(
        self,
        *,
        root: Path,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        group: str | None = None,
        bad_files: Literal["fail", "skip"] = "fail",
    ) -> None:
        super().__init__(bad_files=bad_files)
        self.root = root.expanduser()
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        self.group = _compile(group)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset({"id", self.medium.key, "label", *(["group"] if self.group else [])})

    @cached_property
    def _roots(self) -> dict[Split | None, Path]:
        """The folders that hold the class folders, by the split they stand for."""
        if not self.root.is_dir():
            raise UserError(f"{self.where}: no such folder.")
        given: dict[Split | None, Path] = {s: self.root / s for s in SPLITS if (self.root / s).is_dir()}
        return given if "train" in given and len(given) > 1 else {None: self.root}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        classes = sorted({folder.name for root in self._roots.values() for folder in _visible_folders(root)})
        if len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise UserError(f"{self.where}: expected a folder for each of at least two classes, found {found}.")
        return tuple(classes)

    @cached_property
    def files(self) -> list[File]:
        found = [
            File(path, label, split, self._group(path))
            for split, root in self._roots.items()
            for label, name in enumerate(self.labels)
            for path in visible_files(root / name)
        ]
        empty = sorted(set(self.labels) - {self.labels[file.label] for file in found})
        if empty:
            raise UserError(f"{self.where}: no files in the class folders {', '.join(empty)}.")
        return found

    @property
    def where(self) -> str:
        return f"data.root={self.root}"

    @cached_property
    def paths(self) -> list[Path]:
        return [file.path for file in self.files]

    def probe(self, path: Path) -> tuple[int, ...]:
        if path.suffix.lower() not in self.medium.suffixes:
            raise UserError(f"{path}: not one of {', '.join(self.medium.suffixes)}.")
        return super().probe(path)

    @cached_property
    def _splits(self) -> dict[Split, list[File]]:
        good = [file for file in self.files if file.path not in self.found.bad]
        splits = {split: [file for file in good if file.split == split] for split in SPLITS}
        given = None not in self._roots
        if not splits["train"] and given:
            raise UserError(f"{self.where}: the folder train holds no file that can be used.")
        self._check_groups(splits)
        missing = [split for split in SPLITS[1:] if not splits[split]]
        splits |= self._drawn(splits["train"] or good, missing)
        labels = {split: [file.label for file in files] for split, files in splits.items()}
        if self.group and missing:
            check_trained(
                self.labels, labels, f"data.group={self.group.pattern}", lacks="all groups of {} are held out",
                advice="Set another data.split_seed, or smaller data.val_fraction and data.test_fraction.",
            )  # fmt: skip
        check_trained(
            self.labels, labels, self.where,
            lacks=f"{'the folder ' if given else ''}train has no file of {{}} that can be used, so it can't be learned",
            advice="Bring some, or leave its folders out.",
        )  # fmt: skip
        return splits

    def _drawn(self, pool: list[File], missing: list[Split]) -> dict[Split, list[File]]:
        if not missing:
            return {}
        drawn = self.drawing.draw(
            missing,
            groups=[str(file.path) if file.group is None else file.group for file in pool],
            labels=None if self.group else [file.label for file in pool],
        )
        return {split: [pool[index] for index in drawn[split]] for split in (SPLITS[0], *missing)}

    def _group(self, path: Path) -> str | None:
        if self.group is None:
            return None
        name = path.relative_to(self.root).as_posix()
        found = self.group.search(name)
        if found is None:
            raise UserError(f"data.group={self.group.pattern}: finds nothing in {name}, so the file has no group.")
        return found[0]

    def _check_groups(self, splits: dict[Split, list[File]]) -> None:
        stands: dict[str, Split] = {}
        for split, files in splits.items():
            for file in files:
                if file.group is not None and stands.setdefault(file.group, split) != split:
                    raise UserError(
                        f"data.group={self.group and self.group.pattern}: the folders {stands[file.group]} and {split} "
                        f"both hold files of {file.group}.\n  Move them, or leave data.group out."
                    )

    def samples(self, split: Split) -> Sequence[Sample]:
        unread = [(file.path, self._known(file)) for file in self._splits[split]]
        return FileSamples(unread, self.medium.key, self.medium.read)

    def _known(self, file: File) -> Sample:
        """All but what the file holds."""
        known = Sample(id=file.path.relative_to(self.root).as_posix(), label=file.label)
        return known if file.group is None else {**known, "group": file.group}

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[str]:
        for split, files in self._splits.items():
            for file in files:
                yield f"{split}:{self.labels[file.label]}:{file.path.relative_to(self.root).as_posix()}"
                yield self.digest(file.path)


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group={pattern}: not a regular expression ({error}).") from None


def _visible_folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        unreadable(error)
