"""The same attention on CUDA, by FlexAttention's kernels."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from plugformer_attention.sparse.pattern import BlockPattern


def attend_with_flex(q: Tensor, k: Tensor, v: Tensor, pattern: BlockPattern) -> Tensor:
    return _compiled()(q, k, v, block_mask=block_mask(pattern, q, k))


@cache
def _compiled() -> Any:
    # Uncompiled it makes all logits. Sizes are static, as the kernels are tuned for them.
    return torch.compile(flex_attention)


def block_mask(pattern: BlockPattern, q: Tensor, k: Tensor) -> BlockMask:
    """A pattern as FlexAttention wants it.

    It holds a number for each pair of blocks, where the pattern itself has lists; with blocks of 64 that is one for
    4096 pairs of tokens.
    """
    size = pattern.block_size
    batch, heads, blocks = q.shape[0], q.shape[1], k.shape[2] // size
    sees = pattern.sees.expand(batch, heads, -1, -1)
    listed, seen = sees >= 0, sees.shape[3]
    column = torch.where(listed, sees, blocks)

    # Which entry of a query block's list each key block is, `seen` if it is in none.
    entry = torch.arange(seen, device=q.device).expand_as(column)
    entry = column.new_full((*column.shape[:3], blocks + 1), seen).scatter(3, column, entry)[..., :-1]
    whole = torch.ones(seen + 1, dtype=torch.bool, device=q.device)
    within = whole.new_ones(size, seen + 1, size)
    if pattern.within is not None:
        within = torch.cat([pattern.within.unflatten(1, (seen, size)), within[:, :1]], 1)
        whole = within.all(0).all(-1)
    whole = whole[entry]
    visits = entry < seen
    overseer = torch.zeros(batch, sees.shape[2], dtype=torch.bool, device=q.device)
    if pattern.overseers is not None:
        row = torch.where(pattern.overseers < 0, sees.shape[2], pattern.overseers).expand(batch, -1)
        overseer = torch.zeros(batch, sees.shape[2] + 1, dtype=torch.bool, device=q.device).scatter(1, row, True)[
            :, :-1
        ]
        visits = visits | overseer[:, None, :, None]
        whole = whole | overseer[:, None, :, None]
        if pattern.causal:
            whole = whole & ~overseer[:, None, :, None]
    if pattern.occupied is not None:
        whole = whole & pattern.occupied.unflatten(1, (-1, size)).all(-1)[:, None, None]
    if pattern.segments is not None:
        whole = torch.zeros_like(whole)

    def visible(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Whether a place of the query blocks sees a place of a key block that its block visits."""
        from_block, to_block = query // size, key // size
        listed_as = entry[sample, head, from_block, to_block]
        allowed = within[query % size, listed_as, key % size]
        oversees = overseer[sample, from_block]
        allowed = allowed | oversees
        if pattern.causal:
            allowed = allowed & (~oversees | (key <= query))
        if pattern.occupied is not None:
            allowed = allowed & pattern.occupied[sample if len(pattern.occupied) > 1 else 0, key]
        if pattern.segments is not None:
            allowed = allowed & (pattern.segments[sample, query] == pattern.segments[sample, key])
        return allowed

    partly = _ordered(visits & ~whole)
    wholly = _ordered(visits & whole)
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=size, mask_mod=visible, seq_lengths=(q.shape[2], k.shape[2])
    )


def _ordered(visits: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row visits, and which, those first."""
    order = visits.int().argsort(dim=-1, descending=True, stable=True)
    return visits.sum(-1, dtype=torch.int32), order.int()
