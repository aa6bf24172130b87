"""Raw samples, encoded by a tokenizer and a task when they are drawn."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch.utils.data import Dataset

from plugformer.data.draws import Draw
from plugformer.interfaces import Features, Sample, Targets, Tokenizer


class Encoded(TypedDict):
    inputs: Features
    targets: Features
    index: int


class EncodedSamples(Dataset[Encoded]):
    """
    Args:
        samples: raw samples.
        tokenizer: a fitted tokenizer.
        targets: of a task; None where there are none, as in prediction.
        augment: whether the tokenizer may vary the samples. What it draws depends on the draw's seed alone, not on
            which worker it happens in or on what was drawn before.
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
        targets = self.targets.encode(sample) if self.targets else {}
        return {"inputs": self._inputs(sample, draw), "targets": targets, "index": draw.index}

    def _inputs(self, sample: Sample, draw: Draw) -> Features:
        if not self.augment:
            return self.tokenizer.encode(sample)
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(draw.seed)
        try:
            return self.tokenizer.encode(sample, augment=True)
        finally:
            torch.default_generator.set_state(before)
