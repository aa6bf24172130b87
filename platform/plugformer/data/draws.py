"""Which sample is drawn when, and with which seed: a function of the run's seed and the epoch alone.

Two runs of one seed therefore see the same samples in the same order, equally augmented, whatever their model, their
number of workers or their history.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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


class InOrder(Sampler[Draw]):
    """Every sample once, as they stand, each with the same seed whenever it is drawn."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(index, seed_for(0, "draw", index)) for index in range(self.length))


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
