"""Images in folders, one folder a class."""

import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import SPLITS, split_by_group, split_by_label
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, DataSpec, Sample, Split
from plugformer_vision.images import SUFFIXES, image_shape, read_image


class _File(NamedTuple):
    path: Path
    label: int
    split: Split | None  # where folders give it


class ImageFolder(DataSource):
    """PNG and JPEG files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`.

    Args:
        root: the folder. If it holds a folder `train` and at least one other split, these splits are taken as they
            are; a missing one is drawn from `train`.
        val_fraction: share of the samples that validation gets, unless it has a folder.
        test_fraction: share of the samples that the test gets, unless it has a folder.
        split_seed: decides which samples.
        group: a regular expression; what it finds in a file's path below the root, such as '[^/]*(?=_)' in
            cat/rex_3.png, names a group that is never divided by a split. By default splits are drawn class by class.
        bad_files: `fail` names every file that can't be read and ends the run before training; `skip` leaves such
            files out and warns, naming them.

    Raises:
        UserError: no such folder, fewer than two classes, a class without files, or a file without a group.
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
        self.root = root.expanduser()
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.group = _compile(group)
        self.bad_files = bad_files
        self._bad: dict[Path, str] = {}

    @cached_property
    def spec(self) -> DataSpec:
        """The image shape is the first readable file's; the tokenizer finds out whether the others share it."""
        first = next((file.path for file in self._files if not _problem(file.path)), self._files[0].path)
        return DataSpec(frozenset({"id", "image", "label"}), labels=self._classes, image=image_shape(first))

    @cached_property
    def _roots(self) -> dict[Split | None, Path]:
        """The folders that hold the class folders, by the split they stand for."""
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder.")
        given: dict[Split | None, Path] = {s: self.root / s for s in SPLITS if (self.root / s).is_dir()}
        return given if "train" in given and len(given) > 1 else {None: self.root}

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        classes = sorted({folder.name for root in self._roots.values() for folder in _visible(root) if folder.is_dir()})
        if len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise UserError(
                f"data.root={self.root}: expected a folder for each of at least two classes, found {found}."
            )
        return tuple(classes)

    @cached_property
    def _files(self) -> list[_File]:
        found = [
            _File(path, label, split)
            for split, root in self._roots.items()
            for label, name in enumerate(self._classes)
            for path in sorted((root / name).rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]
        empty = sorted(set(self._classes) - {self._classes[file.label] for file in found})
        if empty:
            raise UserError(f"data.root={self.root}: no files in the class folders {', '.join(empty)}.")
        return found

    def verify(self) -> None:
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
            problems = pool.map(_problem, [file.path for file in self._files])
        self._bad = {file.path: problem for file, problem in zip(self._files, problems, strict=True) if problem}
        if not self._bad:
            return
        named = "\n".join(f"  {problem}" for problem in self._bad.values())
        found = f"data.root={self.root}: {len(self._bad)} of {len(self._files)} files can't be used.\n{named}"
        if self.bad_files == "fail":
            raise UserError(f"{found}\n  Mend or remove them, or leave them out with data.bad_files=skip.")
        warnings.warn(f"{found}\n  They are left out.", stacklevel=2)

    @cached_property
    def _splits(self) -> dict[Split, list[_File]]:
        good = [file for file in self._files if file.path not in self._bad]
        splits = {split: [file for file in good if file.split == split] for split in SPLITS}
        missing = [split for split in SPLITS[1:] if not splits[split]]
        if not splits["train"] and None not in self._roots:
            raise UserError(f"data.root={self.root}: the folder train holds no file that can be used.")
        pool = splits["train"] or good
        if missing:
            val = self.val_fraction if "val" in missing else 0.0
            test = self.test_fraction if "test" in missing else 0.0
            if self.group is None:
                labels = [file.label for file in pool]
                drawn = split_by_label(labels, val_fraction=val, test_fraction=test, seed=self.split_seed)
            else:
                groups = [self._group(self.group, file.path) for file in pool]
                drawn = split_by_group(groups, val_fraction=val, test_fraction=test, seed=self.split_seed)
                self._check_classes({pool[index].label for index in drawn["train"]})
            splits |= {split: [pool[index] for index in drawn[split]] for split in (SPLITS[0], *missing)}
        return splits

    def _check_classes(self, trained: set[int]) -> None:
        if lacking := [name for label, name in enumerate(self._classes) if label not in trained]:
            raise UserError(
                f"data.group={self.group and self.group.pattern}: all groups of {', '.join(lacking)} are held out.\n"
                "  Set another data.split_seed, or smaller data.val_fraction and data.test_fraction."
            )

    def _group(self, pattern: re.Pattern[str], path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        found = pattern.search(name)
        if found is None:
            raise UserError(f"data.group={pattern.pattern}: finds nothing in {name}, so the file has no group.")
        return found[0]

    def samples(self, split: Split) -> Sequence[Sample]:
        return _Lazily(self._splits[split], self.root)

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[bytes | str]:
        for split, files in self._splits.items():
            for file in files:
                yield f"{split}:{self._classes[file.label]}:{file.path.relative_to(self.root).as_posix()}"
                yield file.path.read_bytes()


class _Lazily(Sequence[Sample]):
    """Samples whose images are read when they are asked for."""

    def __init__(self, files: list[_File], root: Path) -> None:
        self.files = files
        self.root = root

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        path, label, _ = self.files[index]
        return {"id": path.relative_to(self.root).as_posix(), "image": read_image(path), "label": label}


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group={pattern}: not a regular expression ({error}).") from None


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _problem(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        return f"{path}: not one of {', '.join(SUFFIXES)}."
    try:
        read_image(path)
    except UserError as error:
        return str(error)
    return ""
