"""Tokens of one bucket side by side, so that what a token sees is an interval.

Each round sorts the tokens by bucket and, within a bucket, by position. The place of a token in that order is its
*slot*; slots are cut into blocks, and a block of queries has one window of keys around it: itself, some slots before it
and some behind it. Whichever way tokens are cut into chunks, those that a query may see stand in one interval of its
window, `first` to `last`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

Order = Literal["both", "sorted", "ranked"]


@dataclass(frozen=True)
class Window:
    """Slots that a block of queries is compared with.

    Attributes:
        block: queries in a block.
        back, ahead: slots before and behind it; multiples of `block`.
        causal: whether a query sees slots before its own only.
    """

    block: int
    back: int
    ahead: int
    causal: bool

    @classmethod
    def of(cls, order: Order, length: int, chunk_length: int) -> "Window":
        """
        Args:
            order: how tokens are cut into chunks. `both`, `sorted`: the sorted sequence is cut every `chunk_length`
                slots; a token sees its own chunk and the one before, and in `both` the one behind. `ranked`: each
                bucket is cut on its own; a token sees its own chunk and the one before.
            length: of the sequence.
            chunk_length: tokens in a chunk.
        """
        causal = order != "both"
        if length <= chunk_length:
            return cls(block=length, back=0, ahead=0, causal=causal)
        if order != "ranked":
            return cls(block=chunk_length, back=chunk_length, ahead=0 if causal else chunk_length, causal=causal)
        # The first slot of the chunk before may be 2 · chunk_length - 1 slots away, and chunks begin anywhere. The
        # smaller the blocks, the less a window holds in vain, and the slower are the products.
        block = -(-chunk_length // 2)
        return cls(block=block, back=-(-(2 * chunk_length - 1) // block) * block, ahead=0, causal=True)

    @property
    def width(self) -> int:
        return self.back + self.block + self.ahead


@dataclass(frozen=True)
class Slots:
    """The sorted tokens of each round.

    Attributes:
        token: int `[rounds, slots]`, which token stands in a slot.
        first: float `[rounds, slots]`, the first place in its block's window that the slot's token sees.
        last: the same of the last place; None where `Window.causal` says it.
    """

    token: Int[Tensor, "rounds slots"]
    first: Float[Tensor, "rounds slots"]
    last: Float[Tensor, "rounds slots"] | None


def sort_slots(group: Int[Tensor, "rounds batch heads length"], window: Window, ranked: int | None) -> Slots:
    """
    Args:
        group: tokens see others of their group alone. A group is one of its round, sample and head.
        window: whose `block` divides the length.
        ranked: tokens in a chunk, where each group is cut into chunks on its own.
    """
    rounds, batch, heads, length = group.shape
    of_group, place = group.flatten().sort(stable=True)  # in one dimension, where a radix sort is used
    start = _starts(of_group)
    slot = torch.arange(len(place), device=place.device)
    if ranked is not None:
        start = start + ((slot - start) // ranked - 1).clamp(min=0) * ranked
    begin = slot // window.block * window.block - window.back  # of the window
    last = None if window.causal else _per_round(len(place) - 1 - _starts(of_group.flip(0)).flip(0) - begin, rounds)
    tokens = torch.arange(batch * length * heads, device=place.device)
    tokens = rearrange(tokens, "(batch length heads) -> (batch heads length)", batch=batch, heads=heads)
    return Slots(
        token=rearrange(tokens[place % len(tokens)], "(rounds slots) -> rounds slots", rounds=rounds),
        first=_per_round((start - begin).clamp(min=0), rounds),
        last=last,
    )


def ranks(group: Int[Tensor, "*rows length"]) -> Int[Tensor, "*rows length"]:
    """How many tokens of its group stand before each."""
    of_group, place = group.flatten().sort(stable=True)
    rank = torch.arange(len(place), device=place.device) - _starts(of_group)
    return torch.empty_like(rank).index_copy_(0, place, rank).view(group.shape)


def _starts(of_group: Int[Tensor, "slots"]) -> Int[Tensor, "slots"]:
    """Of each slot, the slot that its group begins with."""
    slot = torch.arange(len(of_group), device=of_group.device)
    begins = torch.ones_like(of_group, dtype=torch.bool)
    begins[1:] = of_group[1:] != of_group[:-1]
    return (slot * begins).cummax(0).values


def _per_round(place: Int[Tensor, "all_slots"], rounds: int) -> Float[Tensor, "rounds slots"]:
    return rearrange(place, "(rounds slots) -> rounds slots", rounds=rounds).float()
