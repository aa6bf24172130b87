"""Dividing samples into train, val and test."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar, get_args

import torch

from plugformer.errors import UserError, counted
from plugformer.interfaces import Split
from plugformer.nn.initialise import seed_for

SPLITS: tuple[Split, ...] = get_args(Split)

Item = TypeVar("Item")


def place(items: Sequence[Item], splits: Mapping[Split, Iterable[int]]) -> dict[Split, list[Item]]:
    """The items that the indices of each split stand for."""
    return {split: [items[index] for index in indices] for split, indices in splits.items()}


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """
    Raises:
        UserError: shares that can't be.
    """
    for name, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not 0 <= fraction < 1:
            raise UserError(f"data.{name}={fraction}: must be at least 0 and less than 1.")
    if val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on."
        )


def split_by_label(
    labels: Sequence[int], *, val_fraction: float, test_fraction: float, seed: int
) -> dict[Split, list[int]]:
    """Indices of each split, drawn class by class so that all splits have about the same shares of them.

    Raises:
        UserError: a split that should get a share gets none.
    """
    check_fractions(val_fraction, test_fraction)
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    splits: dict[Split, list[int]] = {"train": [], "val": [], "test": []}
    all_labels = torch.as_tensor(labels)
    for label in all_labels.unique().tolist():
        own = (all_labels == label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=generator)]
        num_test, num_val = round(test_fraction * len(own)), round(val_fraction * len(own))
        splits["test"] += own[:num_test].tolist()
        splits["val"] += own[num_test : num_test + num_val].tolist()
        splits["train"] += own[num_test + num_val :].tolist()
    wanted = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for split, indices in splits.items():
        if wanted[split] and not indices:
            raise UserError(
                f"data: of {counted(len(all_labels), 'sample')} none is left for {split}; set data.val_fraction and "
                "data.test_fraction so that every class gives some."
            )
    return {split: sorted(indices) for split, indices in splits.items()}


def split_by_group(
    groups: Sequence[Hashable],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    sizes: Sequence[int] | None = None,
) -> dict[Split, list[int]]:
    """Indices of each split, such that no group stands in two of them.

    Groups come in an order of the seed's, and each is drawn into one of the splits that still have room for it, the
    more likely the more room there is: sizes come near their shares, and large groups may be held out like small
    ones, as long as a split can hold them.

    Args:
        groups: of each sample, such as its file, its speaker, or its own text where texts repeat.
        val_fraction, test_fraction: shares; a split that has one gets at least one group.
        seed: decides which.
        sizes: of each sample, where shares are not of the number of samples but, say, of bytes.

    Raises:
        UserError: fewer groups than splits.
    """
    check_fractions(val_fraction, test_fraction)
    share = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    wanted = [split for split in SPLITS if share[split]]
    size: Counter[Hashable] = Counter()
    for group, own in zip(groups, sizes or [1] * len(groups), strict=True):
        size[group] += own
    if len(size) < len(wanted):
        raise UserError(
            f"data: {counted(len(groups), 'sample')} in {counted(len(size), 'group')} can't be split into "
            f"{', '.join(wanted)}, because a group is never divided.\n"
            "  Bring more groups, or set data.val_fraction or data.test_fraction to 0."
        )
    place = _place_groups(size, {split: share[split] * size.total() for split in wanted}, seed)
    splits: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for index, group in enumerate(groups):
        splits[place[group]].append(index)
    return splits


def _place_groups(size: Counter[Hashable], targets: dict[Split, float], seed: int) -> dict[Hashable, Split]:
    generator = torch.Generator().manual_seed(seed_for(seed, "split"))
    order = torch.randperm(len(size), generator=generator).tolist()
    draws = torch.rand(len(size), generator=generator, dtype=torch.float64).tolist()
    names, room, place = list(size), dict(targets), {}
    for number, draw in zip(order, draws, strict=True):
        own = size[names[number]]
        fitting = {split: left for split, left in room.items() if left >= own > 0}
        mark = draw * sum(fitting.values())
        chosen = max(room, key=lambda split: room[split])  # where none has room for all of it
        for split, left in fitting.items():
            chosen, mark = split, mark - left
            if mark < 0:
                break
        place[names[number]] = chosen
        room[chosen] -= own
    return _fill_empty(place, size, targets)


def _fill_empty(
    place: dict[Hashable, Split], size: Counter[Hashable], targets: dict[Split, float]
) -> dict[Hashable, Split]:
    """A split that is too small for any group still gets the one that comes closest to its size."""
    for split, target in targets.items():
        held = Counter(place.values())
        if not held[split]:
            movable = {group: abs(size[group] - target) for group, now in place.items() if held[now] > 1}
            place[min(movable, key=movable.__getitem__)] = split
    return place


def linked(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """For each item, the number of the first that it is linked with: by a key that both have, or by way of others.

    Args:
        keys: of each item.
    """
    first = list(range(len(keys)))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    owner: dict[Hashable, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            one, other = sorted((root(owner.setdefault(key, index)), root(index)))
            first[other] = one
    return [root(index) for index in range(len(keys))]


def deal_groups(groups: Sequence[Hashable], *, parts: int, seed: int) -> list[list[int]]:
    """Indices of each of some parts of like size, such that no group stands in two of them and every part has one.

    The largest groups come first, each to the part that is the smallest so far (Graham 1969, longest processing time);
    the seed decides among equals.

    Args:
        groups: of each sample.
        parts: how many; at most as many as there are groups.
        seed: decides which.
    """
    size = Counter(groups)
    assert 0 < parts <= len(size), f"{parts} parts of {len(size)} groups"
    generator = torch.Generator().manual_seed(seed_for(seed, "folds"))
    names = list(size)
    drawn = [names[number] for number in torch.randperm(len(names), generator=generator).tolist()]
    sizes, part_of = [0] * parts, {}
    for name in sorted(drawn, key=lambda name: -size[name]):
        part_of[name] = min(range(parts), key=sizes.__getitem__)
        sizes[part_of[name]] += size[name]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for index, group in enumerate(groups):
        dealt[part_of[group]].append(index)
    return dealt
