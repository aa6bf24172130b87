"""Encoded samples as one batch."""

from collections.abc import Sequence

import torch

from plugformer.data.encoded import Encoded, seeded
from plugformer.interfaces import Batch, Features, Targets, Tokenizer
from plugformer.nn.initialise import seed_for


class Collate:
    """Brings the encoded samples of a batch together, in a loader's worker.

    Args:
        tokenizer: fitted.
        targets: of the task; None where there are none.
        mix: whether the tokenizer may mix samples; how depends on the seed of the batch's first sample alone.
    """

    def __init__(self, *, tokenizer: Tokenizer, targets: Targets | None, mix: bool = False) -> None:
        self.tokenizer = tokenizer
        self.targets = targets
        self.mix = mix and tokenizer.spec.mixes

    def __call__(self, encoded: Sequence[Encoded]) -> Batch:
        inputs = self.tokenizer.collate([item["inputs"] for item in encoded])
        if self.mix:
            with seeded(seed_for(encoded[0]["seed"], "mix")):
                inputs = self.tokenizer.mix(inputs)
        return {
            "inputs": inputs,
            "targets": self.targets.collate([item["targets"] for item in encoded]) if self.targets else {},
            "index": torch.tensor([item["index"] for item in encoded]),
        }


def stack(features: Sequence[Features]) -> Features:
    """Features whose shapes are equal, with a batch axis in front."""
    return {key: torch.stack([item[key] for item in features]) for key in features[0]}
