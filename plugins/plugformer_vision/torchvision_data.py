"""Torchvision's named data sets of labelled images."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torchvision import datasets

from plugformer.data.drawing import Drawing, check_trained
from plugformer.data.files import refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.scan import Found, Scanner, digest
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, counted, unknown
from plugformer.interfaces import DataSource, DataSpec, Sample, Split, UnreadSamples
from plugformer_vision.image_files import IMAGE
from plugformer_vision.torchvision_parts import Part, class_names
from plugformer_vision.torchvision_sets import SETS, Labels


class Torchvision(DataSource):
    """One of torchvision's data sets for the classification of images, from files in its published layout.

    Images and labels are as torchvision reads them.

    Args:
        dataset: its name in torchvision.datasets, such as MNIST, CIFAR10 or OxfordIIITPet.
        root: the folder that torchvision keeps its files in, under the names they are published by.
        variant: of data that comes in several: EMNIST's balanced, bymerge, byclass, letters, digits or mnist; DTD's
            partition 1 to 10; FGVCAircraft's variant, family or manufacturer; Imagenette's full, 320px or 160px. By
            default the first.
        download: fetch the files that aren't there; else nothing is ever fetched.
        val_fraction: share of the training images that validation gets, unless the data comes with its own.
        test_fraction: share of the training images that the test gets, unless the data comes with its own.
        split_seed: decides which images.

    Raises:
        UserError: no such data, or none of such a variant; files that are missing or damaged.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: Path,
        variant: str | None = None,
        download: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        if dataset not in SETS:
            raise unknown(f"data.dataset={dataset}: no such data for the classification of images", dataset, SETS)
        self.dataset = dataset
        self.facts = SETS[dataset]
        self.root = root.expanduser()
        self.variant = self._checked(variant)
        if download and not self.facts.downloads:
            raise UserError(f"data.download=true: torchvision can't fetch {dataset}; bring its files to {self._place}.")
        self.download = download
        self.scanner = Scanner(kind=IMAGE.kind, version=IMAGE.version, probe=IMAGE.inspect)
        self.found: dict[Path, Found] = {}  # by verify
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)

    def _checked(self, variant: str | None) -> str:
        variants = self.facts.variants
        if variant is None:
            return next(iter(variants), "")
        if not variants:
            raise UserError(f"data.variant={variant}: {self.dataset} comes in one form only; leave the option out.")
        if variant not in variants:
            raise unknown(f"data.variant={variant}: {self.dataset} has no such variant", variant, variants)
        return variant

    @property
    def _place(self) -> Path:
        return self.root / self.facts.place

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            frozenset({"id", "image", "label"}), labels=self._labels[self._unused :], image=self.facts.image
        )

    @cached_property
    def _labels(self) -> Labels:
        """As torchvision numbers them; the files are asked only where nothing else tells."""
        known = self.facts.labels
        if known is None:
            return class_names(self._parts["train"].source)
        return known if isinstance(known, tuple) else known[self.variant]

    @property
    def _unused(self) -> int:
        """How many numbers at the front no sample has."""
        return self._labels.count("N/A")

    # ------------------------------------------------------------------------------------------ files

    @cached_property
    def _parts(self) -> dict[Split, Part]:
        """The splits that the data comes in."""
        return {split: Part(self._open(split), f"{self.dataset}/{split}", self.root) for split in self.facts.splits}

    def _open(self, split: Split) -> Any:
        arguments = dict(self.facts.splits[split])
        if self.facts.variants:
            arguments[self.facts.argument] = self.facts.variants[self.variant]
        if self.facts.downloads:
            arguments["download"] = self.download
        if not self.download and not any(self.root.glob(self.facts.place)):
            raise UserError(f"data.dataset={self.dataset}: no files at {self._place}.\n  {self._advice}")
        try:
            return getattr(datasets, self.dataset)(self.root, **arguments)
        except Exception as error:  # its readers of other formats raise whatever their files bring about
            if self.download:
                what = f"data.download=true: {self.dataset} can't be fetched to {self.root}, or not be read from there"
            else:
                what = f"data.dataset={self.dataset}: files at {self._place} are missing or damaged"
            reason = str(error).partition(" You can use download=True")[0]
            raise UserError(f"{what} ({type(error).__name__}: {reason}).\n  {self._advice}") from None

    @property
    def _advice(self) -> str:
        if self.download:
            return "Remove what is there to have all of it fetched anew, or bring the files yourself."
        if not self.facts.downloads:
            return "Torchvision can't fetch them; set data.root to the folder that holds them."
        return (
            "Set data.root to the folder that torchvision keeps its data in, or data.download=true to fetch what is "
            "missing and unpack archives."
        )

    def verify(self) -> None:
        for split, part in self._parts.items():
            where = f"data.dataset={self.dataset}: {split}"
            if not len(part) or len(part.labels) != len(part.source):
                raise UserError(
                    f"{where} has {counted(len(part.source), 'image')} and {counted(len(part.labels), 'label')}."
                )
            if names := class_names(part.source):
                self._check_names(names, where)
            wrong = sorted(set(part.labels) - set(range(self._unused, len(self._labels))))
            refuse(f"{where} has labels that stand for no class", list(map(str, wrong)), "The files are damaged.")
            scan = self.scanner.scan(part.files)
            refuse(f"{where} has files that can't be used", list(scan.bad.values()), self._advice)
            self.found |= scan.good
        check_trained(self.spec.labels, {"train": self._trained}, f"data.dataset={self.dataset}")

    def _check_names(self, names: Labels, where: str) -> None:
        if names != self._labels:
            lacking, strange = sorted(set(self._labels) - set(names)), sorted(set(names) - set(self._labels))
            raise UserError(
                f"{where} has other classes than {self.dataset}: lacking {', '.join(lacking) or 'none'}; "
                f"unknown {', '.join(strange) or 'none'}."
            )

    @property
    def _trained(self) -> list[int]:
        part, indices = self._splits["train"]
        return [part.labels[index] - self._unused for index in indices]

    # ------------------------------------------------------------------------------------------ splits

    @cached_property
    def _splits(self) -> dict[Split, tuple[Part, list[int]]]:
        splits = {split: (part, list(range(len(part)))) for split, part in self._parts.items()}
        missing = [split for split in SPLITS if split not in splits]
        train = self._parts["train"]
        groups = [self._group(train.name(index)) for index in range(len(train))]
        drawn = self.drawing.draw(missing, groups=groups, labels=train.labels)
        return splits | {split: (train, drawn[split]) for split in ("train", *missing)}

    def _group(self, name: str) -> str:
        found = re.match(self.facts.group, name) if self.facts.group else None
        return found[0] if found else name

    def samples(self, split: Split) -> Sequence[Sample]:
        part, indices = self._splits[split]
        return _Lazily(part, indices, self._unused)

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[bytes | str]:
        for split, (part, indices) in self._splits.items():
            for index in indices:
                yield f"{split}:{part.name(index)}:{part.labels[index]}"
                yield digest(part.files[index], self.found) if part.files else part.pixels(index)


class _Lazily(UnreadSamples):
    """Samples whose images are decoded when they are asked for."""

    def __init__(self, part: Part, indices: list[int], unused: int) -> None:
        self.part = part
        self.indices = indices
        self.unused = unused

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        known = self.known(index)
        return {**known, "image": self.part.image(self.indices[index])}

    def known(self, index: int) -> Sample:
        row = self.indices[index]
        return {"id": self.part.name(row), "label": self.part.labels[row] - self.unused}
