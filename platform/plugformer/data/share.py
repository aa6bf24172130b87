"""A share of the training samples, to learn what few labels are enough for."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from plugformer.interfaces import Sample, UnreadSamples
from plugformer.nn.initialise import seed_for


def take_share(samples: Sequence[Sample], *, share: float, seed: int, labelled: bool) -> Sequence[Sample]:
    """Some of the samples, as they stand, drawn class by class.

    Each class keeps its share, rounded, and at least one sample. A greater share holds all that a smaller one does.

    Args:
        samples: of training; those whose labels are known stay unread.
        share: greater than 0, at most 1.
        seed: decides which.
        labelled: whether they have classes; else they are drawn as one.
    """
    if share == 1:
        return samples
    classes: dict[int, list[int]] = defaultdict(list)
    if labelled:
        known = known_of(samples)
        for index in range(len(samples)):
            classes[known(index)["label"]].append(index)
    else:
        classes[0] = list(range(len(samples)))
    chosen = []
    for label, own in classes.items():
        generator = torch.Generator().manual_seed(seed_for(seed, "share", label))
        order = torch.randperm(len(own), generator=generator).tolist()
        chosen += [own[place] for place in order[: max(1, round(share * len(own)))]]
    return _Chosen(samples, sorted(chosen))


def known_of(samples: Sequence[Sample]) -> Callable[[int], Sample]:
    """What gives the sample of a number or, where it is unread, what is known of it."""
    return samples.known if isinstance(samples, UnreadSamples) else samples.__getitem__


class _Chosen(UnreadSamples):
    """Those of certain numbers."""

    def __init__(self, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        self.samples = samples
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        return self.samples[self.numbers[index]]

    def known(self, index: int) -> Sample:
        return known_of(self.samples)(self.numbers[index])
