"""Nested operations on lists of digits (Nangia and Bowman 2018), as in Long Range Arena (Tay et al. 2021)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from plugformer.data.cache import Arrays
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Sample, Split
from plugformer_synthetic.distinct import distinct_splits
from plugformer_synthetic.generated import Generated

VERSION = 1  # of what is generated: another number, other samples
OPERATORS = ("MIN", "MAX", "MED", "SM")
SYMBOLS = (*map(str, range(10)), *(f"[{name}" for name in OPERATORS), "]")
CLOSE = len(SYMBOLS) - 1
LEAF = 0.75  # the probability that a node is a digit, below the greatest depth
PATIENCE = 1_000_000  # trees that don't fit, before it is clear that none will


class ListOps(Generated):
    """Expressions such as `[MAX 4 [SM 7 8 ] 0 ]`, each with its value, a digit, as its label.

    The default is Long Range Arena's: trees and their distribution, lengths and sizes, though not its very samples,
    which were drawn without a seed. The root's operator alone tells the label in 0.371 of the cases, so that only
    figures above 0.40 mean anything. What was generated is kept in `cache`.

    Args:
        max_depth: nodes on the longest way from the root to a digit.
        max_args: most arguments of an operator; the fewest are 2.
        min_length: symbols that an expression must have more of.
        max_length: symbols that an expression must have fewer of.
        train_size: training samples.
        val_size: validation samples.
        test_size: test samples.
        sample_seed: decides the samples; apart from the run's seed, so that runs of several seeds share them.
        cache: the folder for what was generated; by default plugformer in the user's cache folder.

    Raises:
        UserError: numbers that no expression can have.
    """

    name = "listops"

    def __init__(
        self,
        *,
        max_depth: int = 10,
        max_args: int = 10,
        min_length: int = 500,
        max_length: int = 2000,
        train_size: int = 96_000,
        val_size: int = 2_000,
        test_size: int = 2_000,
        sample_seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        for name, value in {"max_depth": max_depth, "max_args": max_args}.items():
            if value < 2:
                raise UserError(f"data.{name}={value}: must be at least 2.")
        if min_length < 0:
            raise UserError(f"data.min_length={min_length}: must be at least 0.")
        if max_length - min_length < 2:
            raise UserError(
                f"data.min_length={min_length}, data.max_length={max_length}: no length lies between the two."
            )
        self.shape = Shape(max_depth, max_args, min_length, max_length)
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        super().__init__(sizes=sizes, sample_seed=sample_seed, cache=cache)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "label"}), labels=tuple(map(str, range(10))))

    def made_of(self) -> dict[str, object]:
        return {"version": VERSION, "shape": tuple(self.shape)}

    def make(self) -> Arrays:
        drawn = distinct_splits(
            lambda seed: trees(self.shape, seed),
            sizes=self.sizes,
            seed=self.sample_seed,
            key=lambda tree: tree.symbols,
            title="Generating listops",
        )
        arrays: Arrays = {}
        for split, kept in drawn.items():
            arrays[f"{split}_symbols"] = np.frombuffer(b"".join(tree.symbols for tree in kept), dtype=np.uint8)
            arrays[f"{split}_ends"] = np.cumsum([len(tree.symbols) for tree in kept])
            arrays[f"{split}_labels"] = np.array([tree.value for tree in kept], dtype=np.uint8)
        return arrays

    def samples(self, split: Split) -> Sequence[Sample]:
        return _Expressions(split, *(self.arrays[f"{split}_{part}"] for part in ("symbols", "ends", "labels")))


class _Expressions(Sequence[Sample]):
    """Those of a split, spelt when they are asked for."""

    def __init__(self, split: Split, symbols: np.ndarray, ends: np.ndarray, labels: np.ndarray) -> None:
        self.split = split
        self.symbols = symbols
        self.ends = ends
        self.labels = labels

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        index = range(len(self))[index]
        symbols = self.symbols[self.ends[index - 1] if index else 0 : self.ends[index]]
        return {"id": f"listops/{self.split}/{index}", "text": spell(symbols), "label": int(self.labels[index])}


# ---------------------------------------------------------------------------------------------- trees


class Shape(NamedTuple):
    """What trees are like; lengths are exclusive."""

    max_depth: int
    max_args: int
    min_length: int
    max_length: int


class Tree(NamedTuple):
    """An expression as numbers of symbols, and what it comes to."""

    symbols: bytes
    value: int


def trees(shape: Shape, seed: int) -> Iterator[Tree]:
    """Trees of a fitting length, without end.

    Raises:
        UserError: none fits.
    """
    draw, in_vain = Random(seed).random, 0
    while True:
        symbols = bytearray()
        try:
            value = _grow(symbols, shape, 1, draw)
        except _TooLongError:
            value = -1
        if shape.min_length < len(symbols) < shape.max_length and value >= 0:
            yield Tree(bytes(symbols), value)
            in_vain = 0
        in_vain += 1
        if in_vain > PATIENCE:
            raise UserError(
                f"data.min_length={shape.min_length}, data.max_length={shape.max_length}: of {PATIENCE:,} trees with "
                f"data.max_depth={shape.max_depth} and data.max_args={shape.max_args}, none has such a length."
            )


class _TooLongError(Exception):
    pass


def _grow(symbols: bytearray, shape: Shape, depth: int, draw: Callable[[], float]) -> int:
    """Write the symbols of a random node; its value comes back.

    Raises:
        _TooLongError: as soon as it is known that the tree will be.
    """
    if depth == shape.max_depth or draw() < LEAF:
        digit = int(draw() * 10)
        symbols.append(digit)
        return digit
    place = len(symbols)
    symbols.append(0)
    if place >= shape.max_length:
        raise _TooLongError
    values = [_grow(symbols, shape, depth + 1, draw) for _ in range(2 + int(draw() * (shape.max_args - 1)))]
    operator = int(draw() * len(OPERATORS))
    symbols[place] = 10 + operator
    symbols.append(CLOSE)
    return apply(OPERATORS[operator], values)


def apply(operator: str, values: Sequence[int]) -> int:
    """What an operator makes of digits; the median of an even number of them is rounded down."""
    if operator == "MIN":
        return min(values)
    if operator == "MAX":
        return max(values)
    if operator == "SM":
        return sum(values) % 10
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def spell(symbols: np.ndarray) -> str:
    return " ".join([SYMBOLS[number] for number in symbols.tolist()])
