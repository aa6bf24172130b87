"""Encoded samples as one batch."""

from collections.abc import Sequence

import torch

from plugformer.data.encoded import Encoded
from plugformer.interfaces import Batch, Features, Targets, Tokenizer


class Collate:
    """Brings the encoded samples of a batch together, in a loader's worker."""

    def __init__(self, *, tokenizer: Tokenizer, targets: Targets | None) -> None:
        self.tokenizer = tokenizer
        self.targets = targets

    def __call__(self, encoded: Sequence[Encoded]) -> Batch:
        return {
            "inputs": self.tokenizer.collate([item["inputs"] for item in encoded]),
            "targets": self.targets.collate([item["targets"] for item in encoded]) if self.targets else {},
            "index": torch.tensor([item["index"] for item in encoded]),
        }


def stack(features: Sequence[Features]) -> Features:
    """Features whose shapes are equal, with a batch axis in front."""
    return {key: torch.stack([item[key] for item in features]) for key in features[0]}
