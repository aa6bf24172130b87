"""To which package of the standard library does a docstring belong?"""

import ast
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache, cached_property

from plugformer.data.drawing import Drawing, alike
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, counted
from plugformer.interfaces import DataSpec, Sample, Split
from plugformer_text.standard_library import read_source, source_files
from plugformer_text.text_source import TextSource

NUM_FILES = len(SPLITS)


class Docstrings(TextSource):
    """Docstrings of modules, classes and functions of the standard library (PSF licence), labelled with the top-level
    package they come from and split by file, package by package.

    Split at random, the docstrings of one file would stand on both sides and tell each other's package. A package
    therefore counts as a class only if at least three of its files have docstrings, one for each split; modules that
    are a single file can't be split and are left out. Of equal docstrings only the first is kept.

    Args:
        min_per_class: packages with fewer docstrings are left out.
        val_fraction: share of each package's docstrings that validation gets, by whole files.
        test_fraction: share of each package's docstrings that the test gets, by whole files.
        split_seed: decides which files; apart from the run's seed, so that runs of several seeds share their test.
    """

    def __init__(
        self,
        *,
        min_per_class: int = 50,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        self.min_per_class = min_per_class
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "label", "group"}), labels=tuple(self._packages))

    @cached_property
    def _packages(self) -> dict[str, list[Sample]]:
        """The docstrings of each package that counts as a class."""
        packages = defaultdict(list)
        for name, line, text in _all_docstrings():
            packages[name.partition("/")[0]].append(Sample(id=f"{name}:{line}", text=text, group=name))
        kept = {
            package: own
            for package, own in sorted(packages.items())
            if len({sample["group"] for sample in own}) >= NUM_FILES and len(own) >= self.min_per_class
        }
        if len(kept) < 2:
            most = Counter({package: len(own) for package, own in packages.items()}).most_common(3)
            largest = ", ".join(f"{package} {count}" for package, count in most)
            raise UserError(
                f"data.min_per_class={self.min_per_class}: leaves {counted(len(kept), 'package')}, at least 2 are "
                f"needed.\n  The most docstrings: {largest}."
            )
        return kept

    @cached_property
    def _splits(self) -> dict[Split, list[Sample]]:
        splits: dict[Split, list[Sample]] = {split: [] for split in SPLITS}
        for label, own in enumerate(self._packages.values()):
            samples = [Sample(**sample, label=label) for sample in own]
            for split, part in self.drawing.divide(samples, group=lambda sample: sample["group"]).items():
                splits[split] += part
        return splits


@cache  # parsing takes seconds
def _all_docstrings() -> list[tuple[str, int, str]]:
    """The file, line and text of each in a package, the first of equal ones alone."""
    found: dict[str, tuple[str, int, str]] = {}
    for name in source_files():
        if "/" in name:
            for line, text in _docstrings(read_source(name)):
                found.setdefault(alike(text), (name, line, text))
    return list(found.values())


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Each with the line it begins in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and text.strip():
                yield node.body[0].lineno, inspect.cleandoc(text).strip()
