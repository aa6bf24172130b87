"""Splits of generated samples that share none."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.interfaces import Split
from plugformer.nn.initialise import seed_for
from plugformer.progress import advancing

PATIENCE = 10_000  # samples in a row that are there already, before it is clear that no others come

T = TypeVar("T")


def distinct_splits(
    stream: Callable[[int], Iterator[T]],
    *,
    sizes: Mapping[Split, int],
    seed: int,
    key: Callable[[T], Hashable],
    title: str | None = None,
) -> dict[Split, list[T]]:
    """The first samples of a stream for each split, without those that are there already.

    Each split has a stream of its own, and the test is drawn first: more training samples change nothing else.

    Args:
        stream: endless samples from a seed.
        sizes: how many samples each split has.
        seed: decides all of them.
        key: equal for equal samples.
        title: of a line that shows how far it is; None for none.

    Raises:
        UserError: a split without samples, or more samples than there are different ones.
    """
    check_sizes(sizes)
    known: set[Hashable] = set()
    splits: dict[Split, list[T]] = {}
    with advancing(title or "", sum(sizes.values()), hidden=title is None) as advance:
        for split in reversed(SPLITS):
            kept = splits[split] = []
            in_vain = 0
            for sample in stream(seed_for(seed, split)):
                in_vain += 1
                if (name := key(sample)) not in known:
                    in_vain = 0
                    known.add(name)
                    kept.append(sample)
                    advance()
                if len(kept) == sizes[split]:
                    break
                if in_vain == PATIENCE:
                    raise UserError(
                        f"data.{split}_size={sizes[split]}: with these options there are too few different samples; "
                        f"{len(known)} were found for all splits.\n  Set smaller sizes, or options that allow more."
                    )
    return {split: splits[split] for split in SPLITS}


def check_sizes(sizes: Mapping[Split, int]) -> None:
    """
    Raises:
        UserError: a split without samples.
    """
    for split, size in sizes.items():
        if size < 1:
            raise UserError(f"data.{split}_size={size}: must be at least 1.")
