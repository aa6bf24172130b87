"""The sparse mechanisms once more, as plain as can be: loops and sets that say who sees whom, then a masked softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plugformer.interfaces import Grid, Mask
from plugformer_attention.sparse.places import tile_of

Place = tuple[int, ...]
Pattern = Callable[[int, "Sequence"], list[set[int]]]  # of a head, which tokens each token sees


@dataclass(frozen=True, eq=False)
class Sequence:
    """One sample.

    Attributes:
        places: where each token lies; None for tokens on no grid, which see and are seen by all.
        real: the numbers of the tokens that are not padding.
        grid: that they lie on.
        causal: whether a query sees nothing behind it.
    """

    places: list[Place | None]
    real: list[int]
    grid: Grid
    causal: bool


def softmax_over(
    visible: Bool[Tensor, "batch heads queries keys"],
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
) -> Float[Tensor, "batch heads queries head_dim"]:
    logits = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~visible, float("-inf"))
    return logits.softmax(-1).nan_to_num() @ v


def local_visibility(window: int, q: Tensor, k: Tensor, mask: Mask) -> Bool[Tensor, "batch heads queries keys"]:
    @cache  # the same for all heads
    def near(sequence: Sequence) -> list[set[int]]:
        everyone = set(range(len(sequence.places)))
        nowhere = {token for token, place in enumerate(sequence.places) if place is None}
        return [
            everyone
            if here is None
            else nowhere
            | {
                token
                for token, there in enumerate(sequence.places)
                if there is not None and max(abs(a - b) for a, b in zip(here, there, strict=True)) <= window
            }
            for here in sequence.places
        ]

    return _visibility(lambda head, sequence: near(sequence), q, k, mask)


class Choice(NamedTuple):
    """Of blocks, as BigBird's options name them; `draws` int `[random, heads, blocks]`."""

    block_size: int
    num_window_blocks: int
    num_global_blocks: int
    draws: Tensor


def bigbird_visibility(choice: Choice, q: Tensor, k: Tensor, mask: Mask) -> Bool[Tensor, "batch heads queries keys"]:
    def pattern(head: int, sequence: Sequence) -> list[set[int]]:
        sides = tile_of(sequence.grid, choice.block_size).shape
        shape = [ceil(size / side) for size, side in zip(sequence.grid.shape, sides, strict=True)]
        # Numbered with the last axis slowest.
        lattice = [place[::-1] for place in product(*map(range, reversed(shape)))]
        held: dict[Place | None, set[int]] = {block: set() for block in (None, *lattice)}
        block_of = []
        for token, place in enumerate(sequence.places):
            block = None if place is None else tuple(a // b for a, b in zip(place, sides, strict=True))
            block_of.append(block)
            held[block].add(token)
        real = [lattice.index(block) for token in sequence.real if (block := block_of[token]) is not None]
        count = 1 + max(real, default=-1)
        all_see = _global_blocks(lattice, count, choice.num_global_blocks, causal=sequence.causal)
        everyone = set(range(len(sequence.places)))
        sees: dict[Place | None, set[int]] = dict.fromkeys((None, *all_see), everyone)
        for block in lattice:
            if block not in sees:
                seen = _seen_blocks(choice, lattice, count, all_see, block, head, causal=sequence.causal)
                sees[block] = held[None].union(*(held[other] for other in seen))
        return [sees[block] for block in block_of]

    return _visibility(pattern, q, k, mask)


def _global_blocks(lattice: list[Place], count: int, number: int, *, causal: bool) -> list[Place]:
    if causal:
        return lattice[:number]
    left, found = lattice[:count], []
    for turn in range(min(number, count)):
        found.append(left.pop(0 if turn % 2 == 0 else -1))
    return found


def _seen_blocks(
    choice: Choice, lattice: list[Place], count: int, all_see: list[Place], block: Place, head: int, *, causal: bool
) -> set[Place]:
    number = lattice.index(block)
    if causal:
        window = set(lattice[max(0, number - choice.num_window_blocks + 1) : number + 1])
        left = [other for other in lattice[:number] if other not in window and other not in all_see]
    else:
        half = choice.num_window_blocks // 2
        window = {other for other in lattice if all(abs(a - b) <= half for a, b in zip(other, block, strict=True))}
        left = [other for other in lattice[:count] if other not in window and other not in all_see]
    drawn = set()
    for draw in choice.draws[:, head, number % choice.draws.shape[2]].tolist():
        if left:
            drawn.add(left.pop(draw * len(left) // 2**31))
    return window | set(all_see) | drawn


def _visibility(pattern: Pattern, q: Tensor, k: Tensor, mask: Mask) -> Tensor:
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    visible = []
    for sample in range(batch):
        sequence = _sequence(mask, keys, sample)
        real = set(sequence.real)
        segment = [0] * keys if mask.segments is None else mask.segments[sample].tolist()
        for head in range(heads):
            for query, seen in list(enumerate(pattern(head, sequence)))[keys - queries :]:
                allowed = {key for key in seen & real if segment[key] == segment[query]}
                visible.append([key in allowed and not (mask.causal and key > query) for key in range(keys)])
    return torch.tensor(visible, device=q.device).view(batch, heads, queries, keys)


def _sequence(mask: Mask, keys: int, sample: int) -> Sequence:
    real = list(range(keys)) if mask.valid is None else mask.valid[sample].nonzero()[:, 0].tolist()
    layout = mask.layout
    if layout is None or mask.causal or len(layout.grids) > 1 or len(layout.grids[0].shape) < 2:
        leading = 0 if layout is None else layout.leading
        # Counted from the first real token, round to the padding before it.
        rest = max(1, keys - leading)
        begin = next((token for token in real if token >= leading), leading)
        places: list[Place | None] = [None if token < leading else ((token - begin) % rest,) for token in range(keys)]
        return Sequence(places, real, Grid(("position",), (rest,)), mask.causal)
    row = sample if len(layout.coordinates) > 1 else 0
    index, coordinates = layout.grid_index[row].tolist(), layout.coordinates[row].tolist()
    places = [tuple(place) if number == 0 else None for number, place in zip(index, coordinates, strict=True)]
    return Sequence(places, real, layout.grids[0], mask.causal)
