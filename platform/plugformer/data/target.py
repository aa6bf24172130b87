"""What is to be written for a sample, as a sample of its own."""

import warnings
from collections.abc import Iterator, Sequence

from plugformer.data.share import known_of
from plugformer.interfaces import Sample, Tokenizer


def target_samples(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Of each sample; those that are files stay unread."""
    return map(target_sample, map(known_of(samples), range(len(samples))))


def target_sample(sample: Sample) -> Sample:
    return Sample(id=sample.get("id", "a sample"), text=sample["target_text"])


def warn_if_cut(tokenizer: Tokenizer, samples: Sequence[Sample]) -> None:
    """A text without its end teaches to end too soon.

    Args:
        tokenizer: of the texts that are to be written, fitted.
        samples: of training.

    Raises:
        UserError: a text that the tokenizer refuses to cut.
    """
    room, cut = len(tokenizer.spec.grid), 0
    for sample in target_samples(samples):
        features = tokenizer.encode(sample)
        full = len(features["ids"]) >= room and "bytes" in features
        cut += full and int(features["bytes"].sum()) < len(sample["text"].encode())
    if cut:
        warnings.warn(
            f"{cut} of {len(samples)} training samples have a target text of more than {room} tokens, which is cut in "
            "training; those that are written are compared with the whole text.\n"
            "  Set a greater target_tokenizer.max_length, or tokenizer.max_length where one tokenizer is for both.",
            stacklevel=3,
        )
