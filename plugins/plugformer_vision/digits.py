"""1,797 real handwritten digits that ship with scikit-learn."""

from functools import cached_property

import torch
from sklearn.datasets import load_digits

from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import split_by_label
from plugformer.interfaces import DataSource, DataSpec, Sample, Split

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(DataSource):
    """Handwritten digits, 8 × 8 pixels in 17 shades of grey, white on black (Alpaydin and Kaynak 1998, UCI; the test
    part, as scikit-learn ships it). Their text is the English word.

    Args:
        val_fraction: share of the samples that validation gets.
        test_fraction: share of the samples that the test gets.
        split_seed: decides which samples; apart from the run's seed, so that runs of several seeds share their test.
    """

    def __init__(self, *, val_fraction: float = 0.1, test_fraction: float = 0.2, split_seed: int = 0) -> None:
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed

    @property
    def spec(self) -> DataSpec:
        labels = tuple(map(str, range(10)))
        return DataSpec(frozenset({"id", "image", "label", "target_text"}), labels=labels, image=(1, 8, 8))

    @cached_property
    def _all(self) -> list[Sample]:
        digits = load_digits()
        images = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
        return [
            {"id": f"digits/{number}", "image": image, "label": int(label), "target_text": WORDS[label]}
            for number, (image, label) in enumerate(zip(images, digits.target, strict=True))
        ]

    @cached_property
    def _splits(self) -> dict[Split, list[int]]:
        return split_by_label(
            [sample["label"] for sample in self._all],
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )

    def samples(self, split: Split) -> list[Sample]:
        return [self._all[index] for index in self._splits[split]]

    def fingerprint(self) -> str:
        return fingerprint(f"{split}:{self._all[i]['id']}" for split, indices in self._splits.items() for i in indices)
