"""Which sample is drawn when, and with which seed: a function of the run's seed and the epoch alone.

Two runs of one seed therefore see the same samples in the same order, equally augmented, whatever their model, their
number of workers or their history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import Sampler

from plugformer.nn.initialise import seed_for


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one epoch.

    Attributes:
        index: its place in the split.
        seed: of whatever is random in encoding it and its targets.
    """

    index: int
    seed: int


def draw_as_it_is(index: int) -> Draw:
    """With the same seed whenever it is drawn."""
    return Draw(index, seed_for(0, "draw", index))


class InOrder(Sampler[Draw]):
    """Every sample once, as they stand, each with the same seed whenever it is drawn."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        return map(draw_as_it_is, range(self.length))


class Shuffled(Sampler[Draw]):
    """Every sample once an epoch, in an order of the epoch's own; the trainer calls `set_epoch`."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(seed_for(self.seed, "order", self.epoch))
        for index in torch.randperm(self.length, generator=generator).tolist():
            yield Draw(index, seed_for(self.seed, "draw", self.epoch, index))


class Bucketed(Sampler[Draw]):
    """The draws of another sampler, arranged so that the samples of a batch are of like length and padded little.

    Each pool of `pool` consecutive batches is sorted by length and cut into batches, which then come in an order that
    has nothing to do with length. The same samples are drawn, with the same seeds.

    Args:
        draws: in the order they would have otherwise.
        lengths: of every sample, by its index.
        batch_size: samples in a batch; the last one holds what is left.
        pool: batches that are sorted together.
    """

    def __init__(self, draws: InOrder | Shuffled, *, lengths: Sequence[int], batch_size: int, pool: int) -> None:
        self.draws = draws
        self.lengths = lengths
        self.batch_size = batch_size
        self.pool = pool

    def set_epoch(self, epoch: int) -> None:
        if isinstance(self.draws, Shuffled):
            self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Draw]:
        draws = iter(self.draws)
        while pool := list(islice(draws, self.pool * self.batch_size)):
            pool.sort(key=lambda draw: self.lengths[draw.index])
            batches = [pool[start : start + self.batch_size] for start in range(0, len(pool), self.batch_size)]
            # A draw's seed is a hash; the one batch that may not be full has to stay the last.
            batches.sort(key=lambda batch: (-len(batch), batch[0].seed))
            for batch in batches:
                yield from batch
