"""Raw samples, encoded by a tokenizer and a task when they are drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch.utils.data import Dataset

from plugformer.data.draws import Draw
from plugformer.interfaces import Features, Sample, Targets, Tokenizer


class Encoded(TypedDict):
    inputs: Features
    targets: Features
    index: int
    seed: int


class EncodedSamples(Dataset[Encoded]):
    """
    Args:
        samples: raw samples.
        tokenizer: a fitted tokenizer.
        targets: of a task; None where there are none, as in prediction.
        augment: whether the tokenizer may vary the samples.

    What is random depends on the draw's seed alone, not on which worker it happens in or on what was drawn before.
    """

    def __init__(
        self, samples: Sequence[Sample], *, tokenizer: Tokenizer, targets: Targets | None, augment: bool = False
    ) -> None:
        self.samples = samples
        self.tokenizer = tokenizer
        self.targets = targets
        self.augment = augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Encoded:
        sample = self.samples[draw.index]
        with seeded(draw.seed):
            inputs = self.tokenizer.encode(sample, augment=self.augment)
            targets = self.targets.encode(sample, inputs) if self.targets else {}
        return {"inputs": inputs, "targets": targets, "index": draw.index, "seed": draw.seed}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's generator depend on this seed alone, and leave no trace in it."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
