"""The source of Python's standard library: 10 MB of code and of the English in it."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch

from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import SPLITS, place, split_by_group
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, DataSpec, Sample, Split
from plugformer.nn.initialise import seed_for
from plugformer_text.standard_library import read_source, source_files


class PythonSource(DataSource):
    """The standard library's files without its tests and generated tables (PSF licence), one sample a file: 80 % of the
    bytes, 10 % and 10 %.

    Args:
        group: what is never divided by a split: a `file`, or a whole top-level `package`, whose files are alike.
        max_bytes: take about this many of the 10 million bytes, by whole files. A larger slice holds a smaller one, and
            so does its train, its val and its test.
        split_seed: decides which files; apart from the run's seed, so that runs of several seeds share their test.
    """

    def __init__(
        self, *, group: Literal["file", "package"] = "file", max_bytes: int | None = None, split_seed: int = 0
    ) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise UserError(f"data.max_bytes={max_bytes}: must be at least 1.")
        self.group = group
        self.max_bytes = max_bytes
        self.split_seed = split_seed

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "group"}))

    @cached_property
    def _splits(self) -> dict[Split, list[str]]:
        files = source_files()
        sizes = {name: path.stat().st_size for name, path in files.items()}
        splits = place(
            list(files),
            split_by_group(
                [self._group(name) for name in files],
                val_fraction=0.1,
                test_fraction=0.1,
                seed=self.split_seed,
                sizes=list(sizes.values()),
            ),
        )
        if self.max_bytes is None:
            return splits
        share = self.max_bytes / sum(sizes.values())
        return {split: self._slice(names, sizes, share) for split, names in splits.items()}

    def _group(self, name: str) -> str:
        return name if self.group == "file" else name.partition("/")[0]

    def _slice(self, names: list[str], sizes: dict[str, int], share: float) -> list[str]:
        """The first files, in an order that doesn't depend on the share, up to it; one at least."""
        generator = torch.Generator().manual_seed(seed_for(self.split_seed, "slice"))
        left = share * sum(sizes[name] for name in names)
        kept: list[str] = []
        for index in torch.randperm(len(names), generator=generator).tolist():
            left -= sizes[names[index]]
            if kept and left < 0:
                break
            kept.append(names[index])
        return sorted(kept)

    def samples(self, split: Split) -> Sequence[Sample]:
        return _Lazily([(name, self._group(name)) for name in self._splits[split]])

    def fingerprint(self) -> str:
        return fingerprint(
            part for split in SPLITS for s in self.samples(split) for part in (split, s["id"], s["text"])
        )


class _Lazily(Sequence[Sample]):
    """Files that are read when they are asked for."""

    def __init__(self, files: list[tuple[str, str]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        name, group = self.files[index]
        return {"id": name, "text": read_source(name), "group": group}
