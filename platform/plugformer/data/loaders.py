"""Loaders of samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from plugformer.data.collate import Collate
from plugformer.data.draws import Bucketed, Draw, InOrder, Shuffled
from plugformer.data.encoded import EncodedSamples
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Sample, Targets, Tokenizer


def make_loader(
    samples: Sequence[Sample],
    *,
    tokenizer: Tokenizer,
    targets: Targets | None,
    batch_size: int,
    num_workers: int = 0,
    seed: int | None = None,
    bucket: int = 0,
) -> DataLoader[Batch]:
    """Batches of encoded samples.

    Args:
        samples: raw samples.
        tokenizer: fitted.
        targets: of the task, or None for prediction.
        batch_size: samples in a batch; the last one holds what is left.
        num_workers: processes that encode.
        seed: given, samples are shuffled, augmented and mixed, anew each epoch; else they come in order, as they are.
        bucket: consecutive batches whose samples are sorted by length among each other; 0 to leave them as they come.
    """
    samples = tokenizer.sequences(samples)
    order = InOrder(len(samples)) if seed is None else Shuffled(len(samples), seed=seed)
    sampler: Sampler[Draw] = order
    if bucket:
        lengths = [tokenizer.length_hint(sample) for sample in samples]
        sampler = Bucketed(order, lengths=lengths, batch_size=batch_size, pool=bucket)
    encoded: Dataset[Any] = EncodedSamples(samples, tokenizer=tokenizer, targets=targets, augment=seed is not None)
    return DataLoader(
        encoded,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=Collate(tokenizer=tokenizer, targets=targets, mix=seed is not None),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # of its own, so that loading draws nothing from the model's
    )


def indexable(samples: Sequence[Sample] | Iterable[Sample], data: str) -> Sequence[Sample]:
    """The samples, if each can be asked for by its number.

    Raises:
        UserError: they are streamed.
    """
    if not isinstance(samples, Sequence):
        raise UserError(
            f"data={data}: streams its samples; training needs data whose samples have numbers.\n"
            f"  `plugformer plugins data {data}` lists the options that may bring a part of them into memory."
        )
    return samples


def small_batch(batch_size: int, accumulate: int) -> int:
    """Samples in each of the batches whose gradients are accumulated.

    Raises:
        UserError: the batch can't be divided so.
    """
    if accumulate < 1 or batch_size % accumulate:
        possible = [number for number in range(1, batch_size + 1) if batch_size % number == 0]
        raise UserError(
            f"trainer.accumulate={accumulate} doesn't divide loader.batch_size={batch_size}.\n"
            f"  These do: {', '.join(map(str, possible))}"
        )
    return batch_size // accumulate
