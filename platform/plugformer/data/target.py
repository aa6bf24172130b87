"""What is to be written for a sample, as a sample of its own."""

from collections.abc import Iterator, Sequence

from plugformer.data.share import known
from plugformer.interfaces import Sample


def target_samples(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Of each sample; those that are files stay unread."""
    return (target_sample(known(samples, index)) for index in range(len(samples)))


def target_sample(sample: Sample) -> Sample:
    return Sample(id=sample.get("id", "a sample"), text=sample["target_text"])
