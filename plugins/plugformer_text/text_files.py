"""Text files."""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from plugformer.data.files import match_files, read_text, refuse
from plugformer.data.splits import SPLITS, check_fractions, place, split_by_group
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Split
from plugformer_text.paragraphs import Fresh, Paragraph, join, paragraphs
from plugformer_text.text_source import TextSource


class TextFiles(TextSource):
    """UTF-8 files, of which a sample is a file or a paragraph (what stands between blank lines).

    Files that match `val_paths` or `test_paths` are these splits, whether they match `paths` or not; a split without
    paths is drawn. Equal files and, where paragraphs are split, equal paragraphs never stand in two drawn splits.

    Args:
        paths: patterns of files, as in [notes.txt, corpus/**/*.txt]; `**` stands for any folders.
        val_paths: patterns of the files that validation gets, instead of a share.
        test_paths: patterns of the files that the test gets, instead of a share.
        document: a sample is a whole `file` or a `paragraph`.
        split_by: a `file` is never divided by a split; or each `paragraph` is drawn by itself.
        deduplicate: keep only the first of paragraphs that are equal but for white space, in the order of train, val
            and test where these have paths, and of the files' names; text loses the spacing between its paragraphs.
        val_fraction: share of the characters that validation gets.
        test_fraction: share of the characters that the test gets.
        split_seed: decides which.

    Raises:
        UserError: no file matches a pattern, a file is empty or isn't UTF-8, or options that exclude each other.
    """

    def __init__(
        self,
        *,
        paths: list[str],
        val_paths: list[str] | None = None,
        test_paths: list[str] | None = None,
        document: Literal["file", "paragraph"] = "file",
        split_by: Literal["file", "paragraph"] = "file",
        deduplicate: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        if split_by == "paragraph" and document == "file":
            raise UserError("data.split_by=paragraph divides files: set data.document=paragraph, or split by file.")
        check_fractions(val_fraction, test_fraction)
        given = {"train": paths, "val": val_paths, "test": test_paths}
        self.patterns: dict[str, list[str]] = {split: patterns for split, patterns in given.items() if patterns}
        self.document = document
        self.split_by = split_by
        self.deduplicate = deduplicate
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """The files of each split that has patterns; what is to be drawn stands in train."""
        if "train" not in self.patterns:
            raise UserError("data.paths=[]: name at least one file or pattern.")
        found = {split: match_files(_option(split), patterns) for split, patterns in self.patterns.items()}
        held_out = [path for split in found if split != "train" for path in found[split]]
        twice = sorted({str(path) for path in held_out if held_out.count(path) > 1})
        refuse("Files in data.val_paths and in data.test_paths", twice, "Leave them to one of the two.")
        found["train"] = [path for path in found["train"] if path not in set(held_out)]
        if not found["train"]:
            raise UserError(
                "data.paths: nothing is left to train on; data.val_paths and data.test_paths take all files."
            )
        return found

    @cached_property
    def _texts(self) -> dict[Path, str]:
        texts, problems = {}, []
        for path in [path for files in self._files.values() for path in files]:
            try:
                texts[path] = read_text(path)
            except UserError as error:
                problems.append(str(error))
        refuse("data=text_files: files that can't be used", problems, "Mend them, or leave them out of the patterns.")
        return texts

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        fresh = Fresh()
        splits: dict[Split, list[Sample]] = {}
        for split in SPLITS:
            splits[split] = [s for path in self._files.get(split, []) for s in self._documents(path, fresh)]
        drawn = [split for split in SPLITS[1:] if split not in self._files]
        if drawn:
            splits |= self._draw(splits["train"], drawn)
        for split in SPLITS:
            if split in self._files and not splits[split]:
                raise UserError(
                    f"data.{_option(split)}: each of its paragraphs stands in another file.\n"
                    "  Choose other files, or keep repetitions with data.deduplicate=false."
                )
        return splits

    def _documents(self, path: Path, fresh: Fresh) -> Iterable[Sample]:
        text, name = self._texts[path], self._name(path)
        if not self.deduplicate and self.document == "file":
            yield Sample(id=name, text=text, group=name)
            return
        parts: list[Paragraph] = fresh.of(text) if self.deduplicate else list(paragraphs(text))
        if self.document == "paragraph":
            yield from (Sample(id=f"{name}:{part.line}", text=part.text, group=name) for part in parts)
        elif parts:
            yield Sample(id=name, text=join(parts), group=name)

    def _name(self, path: Path) -> str:
        """Below the folder that all files share, so that another machine names them alike."""
        common = os.path.commonpath([file.parent for file in self._texts])
        return path.relative_to(common).as_posix()

    def _draw(self, samples: list[Sample], drawn: list[Split]) -> dict[Split, list[Sample]]:
        for first, sample in zip(self._first_alike(samples), samples, strict=True):
            sample["group"] = first
        splits = split_by_group(
            [sample["group"] for sample in samples],
            val_fraction=self.fractions["val"] if "val" in drawn else 0.0,
            test_fraction=self.fractions["test"] if "test" in drawn else 0.0,
            seed=self.split_seed,
            sizes=[len(sample["text"]) for sample in samples],
        )
        return {split: part for split, part in place(samples, splits).items() if split in ("train", *drawn)}

    def _first_alike(self, samples: list[Sample]) -> list[str]:
        """For each sample, the first file or paragraph that must stand where it stands, because they are equal."""
        first: dict[str, str] = {}
        if self.split_by == "paragraph":
            return [first.setdefault(" ".join(sample["text"].split()), sample["id"]) for sample in samples]
        whole = {self._name(path): first.setdefault(text, self._name(path)) for path, text in self._texts.items()}
        return [whole[sample["group"]] for sample in samples]


def _option(split: str) -> str:
    return "paths" if split == "train" else f"{split}_paths"
