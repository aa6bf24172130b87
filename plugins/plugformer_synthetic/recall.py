"""Multi-query associative recall (Arora et al. 2023, Zoology)."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from plugformer.data.fingerprint import fingerprint
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, DataSpec, Sample, Split
from plugformer_synthetic.distinct import check_sizes, distinct_splits

AT_ONCE = 500  # sequences that are drawn together


class Recall(DataSource):
    """Pairs of a key and a value, then some of the keys again, each of which has to be answered with its value.

    `k3 v7 k1 v2 _ _ k1 v2 _ _ k3 v7`: each key comes once more, at a distance that follows a power law (section 4 and
    appendix E). Unlike in the paper's code, where a query's answer is not part of the input, it stands behind it.

    Args:
        num_pairs: pairs, and so queries, of a sequence.
        length: symbols of a sequence, an even number and at least four for each pair.
        vocab_size: symbols in all, of which half are values, one is the blank and the others are keys.
        power: exponent of the distances' cumulative distribution; the nearer to 0, the sooner keys tend to return.
        filler: what stands where no query does: the blank, or symbols drawn anew from the whole vocabulary.
        train_size: training samples.
        val_size: validation samples.
        test_size: test samples.
        sample_seed: decides the samples; apart from the run's seed, so that runs of several seeds share them.

    Raises:
        UserError: numbers that can't be.
    """

    def __init__(
        self,
        *,
        num_pairs: int = 8,
        length: int = 64,
        vocab_size: int = 8192,
        power: float = 0.01,
        filler: Literal["blank", "random"] = "blank",
        train_size: int = 100_000,
        val_size: int = 3_000,
        test_size: int = 3_000,
        sample_seed: int = 0,
    ) -> None:
        if num_pairs < 1:
            raise UserError(f"data.num_pairs={num_pairs}: must be at least 1.")
        if length % 2 or length < 4 * num_pairs:
            raise UserError(
                f"data.length={length}: must be even and at least {4 * num_pairs}, four for each of "
                f"data.num_pairs={num_pairs}."
            )
        if vocab_size // 2 - 1 < num_pairs:
            raise UserError(
                f"data.vocab_size={vocab_size}: must be at least {2 * num_pairs + 2}, for a key and a value of each of "
                f"data.num_pairs={num_pairs} and the blank."
            )
        if power <= 0:
            raise UserError(f"data.power={power}: must be greater than 0.")
        self.num_pairs = num_pairs
        self.length = length
        self.vocab_size = vocab_size
        self.power = power
        self.filler = filler
        self.sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        check_sizes(self.sizes)
        self.sample_seed = sample_seed

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "answers"}))

    @cached_property
    def _splits(self) -> dict[Split, "_Sequences"]:
        drawn = distinct_splits(
            self._stream, sizes=self.sizes, seed=self.sample_seed, key=lambda each: each.symbols.tobytes()
        )
        return {split: _Sequences(split, kept, self.vocab_size) for split, kept in drawn.items()}

    def _stream(self, seed: int) -> Iterator["_Drawn"]:
        """Numbers of symbols: 0 is the blank, then come the keys, then the values."""
        generator = np.random.Generator(np.random.PCG64(seed))
        first_value = self.vocab_size // 2
        room = self.length // 2 - self.num_pairs  # places for queries
        distance = np.arange(1, room + 1)
        likelihood = np.log(distance) * (self.power - 1)  # its logarithm, up to a constant
        while True:
            keys = 1 + _choose(generator, np.zeros(first_value - 1), self.num_pairs)
            values = first_value + _choose(generator, np.zeros(self.vocab_size - first_value), self.num_pairs)
            query = 2 * (self.num_pairs + _choose(generator, likelihood, self.num_pairs))
            symbols = np.zeros((AT_ONCE, self.length), dtype=np.int32)
            if self.filler == "random":
                symbols[:] = generator.random(symbols.shape) * self.vocab_size
            symbols[:, 0 : 2 * self.num_pairs : 2] = keys
            symbols[:, 1 : 2 * self.num_pairs : 2] = values
            np.put_along_axis(symbols, query, keys.astype(np.int32), 1)
            np.put_along_axis(symbols, query + 1, values.astype(np.int32), 1)
            yield from map(_Drawn, symbols, np.sort(query + 1, 1))

    def samples(self, split: Split) -> Sequence[Sample]:
        return self._splits[split]

    def fingerprint(self) -> str:
        return fingerprint(
            part
            for split, sequences in self._splits.items()
            for part in (split, sequences.symbols.tobytes(), sequences.answers.tobytes())
        )


class _Drawn(NamedTuple):
    """int `[length]`, the symbols, and `[pairs]`, the places of the answers."""

    symbols: np.ndarray
    answers: np.ndarray


class _Sequences(Sequence[Sample]):
    """Those of a split, spelt when they are asked for."""

    def __init__(self, split: Split, drawn: Sequence[_Drawn], vocab_size: int) -> None:
        self.split = split
        self.symbols = np.stack([each.symbols for each in drawn])
        self.answers = np.stack([each.answers for each in drawn])
        first_value = vocab_size // 2
        self.names = [
            "_",
            *(f"k{n}" for n in range(1, first_value)),
            *(f"v{n}" for n in range(first_value, vocab_size)),
        ]

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        index = range(len(self))[index]
        return {
            "id": f"recall/{self.split}/{index}",
            "text": " ".join([self.names[number] for number in self.symbols[index].tolist()]),
            "answers": tuple(self.answers[index].tolist()),
        }


def _choose(generator: np.random.Generator, likelihood: np.ndarray, count: int) -> np.ndarray:
    """int `[AT_ONCE, count]`: so many different numbers each, one after the other by their likelihoods.

    By the Gumbel-max trick (Vieira 2014; Kool et al. 2019).

    Args:
        generator: draws.
        likelihood: float `[choices]`, logarithms, up to a constant.
        count: how many.
    """
    score = -np.log(-np.log(generator.random((AT_ONCE, len(likelihood))))) + likelihood
    chosen = np.argpartition(-score, count - 1, 1)[:, :count]
    return np.take_along_axis(chosen, np.argsort(-np.take_along_axis(score, chosen, 1), 1), 1)
