"""Loaders of samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from plugformer.data.batches import Batches
from plugformer.data.collate import Collate
from plugformer.data.draws import Bucketed, InOrder, Shuffled
from plugformer.data.encoded import EncodedSamples
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Sample, Targets, Tokenizer
from plugformer.ranks import Rank


def make_loader(
    samples: Sequence[Sample],
    *,
    tokenizer: Tokenizer,
    targets: Targets | None,
    batch_size: int,
    rounds: int = 1,
    rank: Rank = Rank(),  # noqa: B008
    once: bool = False,
    num_workers: int = 0,
    seed: int | None = None,
    bucket: int = 0,
) -> DataLoader[Batch]:
    """Batches of encoded samples.

    Args:
        samples: raw samples.
        tokenizer: fitted.
        targets: of the task, or None for prediction.
        batch_size: samples in a batch, over all processes and rounds; the last one holds what is left.
        rounds, rank, once: how it is shared out, as `Batches` says.
        num_workers: processes that encode.
        seed: given, samples are shuffled, augmented and mixed, anew each epoch; else they come in order, as they are.
        bucket: consecutive batches whose samples are sorted by length among each other; 0 to leave them as they come.
    """
    samples = tokenizer.sequences(samples)
    order = InOrder(len(samples)) if seed is None else Shuffled(len(samples), seed=seed)
    draws: InOrder | Shuffled | Bucketed = order
    if bucket:
        lengths = [tokenizer.length_hint(sample) for sample in samples]
        draws = Bucketed(order, lengths=lengths, batch_size=batch_size, pool=bucket)
    encoded: Dataset[Any] = EncodedSamples(samples, tokenizer=tokenizer, targets=targets, augment=seed is not None)
    return DataLoader(
        encoded,
        batch_sampler=Batches(draws, batch_size=batch_size, rounds=rounds, rank=rank, once=once),
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


def check_divides(batch_size: int, *, accumulate: int, world: int = 1) -> None:
    """
    Raises:
        UserError: a batch can't be shared out evenly so.
    """
    shares = accumulate * world
    if batch_size % shares == 0:
        return
    devices = f" times {world} devices" if world > 1 else ""
    fitting = [number for number in range(1, batch_size + 1) if batch_size % (number * world) == 0]
    near = sorted({max(1, batch_size // shares) * shares, -(-batch_size // shares) * shares})
    raise UserError(
        f"trainer.accumulate={accumulate}{devices} doesn't divide loader.batch_size={batch_size}.\n"
        + (f"  These accumulate do: {', '.join(map(str, fitting))}\n" if fitting else "")
        + f"  Or set loader.batch_size to {' or '.join(map(str, near))}."
    )
