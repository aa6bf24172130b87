"""Softmax attention where each block of queries sees a list of key blocks.

Tokens stand in blocks of equal size, some places perhaps empty. Time and memory are linear in the number of blocks. On
the CPU, tiles of a few query blocks gather their key blocks into the cache and work there; the backward pass gathers
again instead of keeping what the forward pass gathered. On CUDA it is FlexAttention's work.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from plugformer_attention.sparse.pattern import BlockPattern

TILE_BLOCKS = 8  # query blocks at once: their keys, values and weights stay in the second-level cache
FLEX_BLOCK_SIZES = (16, 32, 64, 128, 256)  # that its kernels can cut into tiles of theirs
CHUNK_PLACES = 4096  # places of heads and samples that are copied at once into contiguous memory


def attend(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
    pattern: BlockPattern,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Softmax attention under a pattern. A query that sees no key gets zeros."""
    if q.device.type == "cuda" and pattern.block_size in FLEX_BLOCK_SIZES and q.dtype != torch.float64:
        # Here, because it is slow to load and of use on CUDA alone.
        from plugformer_attention.sparse.flex import attend_with_flex  # noqa: PLC0415

        return attend_with_flex(q, k, v, pattern)
    out = _attend_listed(q, k, v, pattern.sees, pattern.within, pattern.occupied, pattern.segments)
    return out if pattern.overseers is None else _with_overseers(out, q, k, v, pattern)


def _with_overseers(out: Tensor, q: Tensor, k: Tensor, v: Tensor, pattern: BlockPattern) -> Tensor:
    """`out` with the rows of overseers replaced: they see too many keys for lists, so they are attended densely."""
    assert pattern.overseers is not None
    size, (batch, heads, _, dim) = pattern.block_size, q.shape
    place = torch.arange(size, device=q.device)
    rows = (pattern.overseers.clamp(min=0)[..., None] * size + place).flatten(1)
    absent = (pattern.overseers < 0).repeat_interleave(size, dim=1)
    visible = _seen_by_overseers(rows, k.shape[2], pattern)
    wide = rows[:, None, :, None].expand(batch, heads, -1, dim)
    seeing = F.scaled_dot_product_attention(q.gather(2, wide), k, v, attn_mask=visible)
    # What is absent writes the first overseer's rows once more; of these copies one must have the gradient.
    seeing = torch.where(absent[:, None, :, None], seeing.detach(), seeing)
    return out.scatter(2, wide, seeing)


def _seen_by_overseers(rows: Tensor, keys: int, pattern: BlockPattern) -> Bool[Tensor, "batch 1 rows keys"] | None:
    parts = []
    if pattern.occupied is not None:
        parts.append(pattern.occupied[:, None, None, :])
    if pattern.segments is not None:
        own = pattern.segments.gather(1, rows.expand(pattern.segments.shape[0], -1))
        parts.append(own[:, None, :, None] == pattern.segments[:, None, None, :])
    if pattern.causal:
        parts.append(rows[:, None, :, None] >= torch.arange(keys, device=rows.device))
    visible = None
    for part in parts:
        visible = part if visible is None else visible & part
    return visible


# ---------------------------------------------------------------------------------------------- gathered tiles


class _Tile(NamedTuple):
    """A few query blocks, numbered through heads and samples of a chunk, and the key blocks that they see."""

    queries: slice
    keys: Int[Tensor, "blocks_seen"]
    hidden: Bool[Tensor, "blocks #block_size places"] | None


class _Chunk:
    """Some heads of some samples in contiguous memory, block by block."""

    def __init__(self, where: tuple[slice, slice], block_size: int, dtype: torch.dtype) -> None:
        self.where, self.block_size, self.dtype = where, block_size, dtype

    def take(self, x: Tensor) -> Float[Tensor, "blocks block_size head_dim"]:
        return x[self.where].to(self.dtype).reshape(-1, self.block_size, x.shape[-1])

    def put(self, x: Tensor, blocks: Tensor) -> None:
        target = x[self.where]
        target.copy_(blocks.view(target.shape))

    def tiles(
        self, sees: Tensor, occupied: Tensor | None, segments: Tensor | None, shape: torch.Size
    ) -> Iterator[_Tile]:
        batch, heads, keys, _ = shape
        samples, some_heads = (range(count)[part] for count, part in zip((batch, heads), self.where, strict=True))
        sees = sees.expand(batch, heads, -1, -1)[self.where]
        blocks, seen = keys // self.block_size, sees.shape[-1]
        query_blocks = sees.shape[2]
        lanes = torch.arange(len(samples) * len(some_heads), device=sees.device)
        absent = (sees < 0).reshape(-1, seen)
        listed = sees.clamp(min=0).reshape(len(lanes), -1, seen)
        in_chunk = (listed + blocks * lanes[:, None, None]).view(-1, seen)
        of_sample = listed + blocks * (lanes // len(some_heads) + samples.start)[:, None, None]
        of_sample = of_sample.view(-1, seen)
        own = of_sample[:, 0]
        if occupied is not None:
            occupied = occupied.expand(batch, -1).reshape(-1, self.block_size)
        if segments is not None:
            segments = segments.reshape(-1, self.block_size)
        for start in range(0, len(lanes) * query_blocks, TILE_BLOCKS):
            rows = slice(start, start + TILE_BLOCKS)
            hidden = absent[rows, :, None].expand(-1, -1, self.block_size).flatten(1)[:, None]
            if occupied is not None:
                hidden = hidden | ~occupied[of_sample[rows]].flatten(1)[:, None]
            if segments is not None:
                hidden = hidden | (segments[own[rows]][:, :, None] != segments[of_sample[rows]].flatten(1)[:, None])
            # The CPU can look, and most tiles hide nothing; another device would have to wait for the answer.
            hides = hidden.device.type != "cpu" or bool(hidden.any())
            yield _Tile(rows, in_chunk[rows].flatten(), hidden if hides else None)


def _chunks(q: Tensor, k: Tensor, block_size: int) -> Iterator[_Chunk]:
    """All heads of several samples while those are short, one head of one sample when they are long."""
    batch, heads, keys, _ = k.shape
    lanes = max(1, CHUNK_PLACES // max(keys, 1))
    heads_at_once, samples_at_once = min(heads, lanes), max(1, lanes // heads)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    for sample in range(0, batch, samples_at_once):
        for head in range(0, heads, heads_at_once):
            where = (slice(sample, sample + samples_at_once), slice(head, head + heads_at_once))
            yield _Chunk(where, block_size, dtype)


def _weights(q: Tensor, k: Tensor, within: Tensor | None, unseen: Tensor | None, hidden: Tensor | None) -> Tensor:
    """Softmax over `[blocks, block_size, places]`.

    Args:
        within: the pattern's as numbers to be added to the logits.
        unseen: the same as bool, True for what is not seen.
    """
    if within is None:
        logits = torch.bmm(q, k.transpose(1, 2))
    else:
        logits = torch.baddbmm(within.expand(q.shape[0], -1, -1), q, k.transpose(1, 2))
    if hidden is None:
        return torch.softmax(logits, -1, out=logits)
    hidden = hidden if unseen is None else hidden | unseen
    logits.masked_fill_(hidden, torch.finfo(logits.dtype).min)
    return torch.softmax(logits, -1, out=logits).masked_fill_(hidden, 0.0)


def _rules(within: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    if within is None:
        return None, None
    return torch.zeros_like(within, dtype=dtype).masked_fill_(~within, float("-inf")), ~within


@torch.no_grad()
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sees: Tensor,
    within: Tensor | None,
    occupied: Tensor | None,
    segments: Tensor | None,
) -> Tensor:
    out = _heads_last(q)
    block_size, scale = q.shape[2] // sees.shape[2], q.shape[3] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        for chunk in _chunks(q, k, block_size):
            queries, keys, values = chunk.take(q) * scale, chunk.take(k), chunk.take(v)
            added, unseen = _rules(within, chunk.dtype)
            made = torch.empty_like(queries)
            for tile in chunk.tiles(sees, occupied, segments, k.shape):
                query = queries[tile.queries]
                key, value = (_gather(part, tile.keys, len(query)) for part in (keys, values))
                made[tile.queries] = torch.bmm(_weights(query, key, added, unseen, tile.hidden), value)
            chunk.put(out, made)
    return out


@torch.no_grad()
def _backward(
    gradient: Tensor,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sees: Tensor,
    within: Tensor | None,
    occupied: Tensor | None,
    segments: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = _heads_last(q), _heads_last(k), _heads_last(v)
    block_size, scale = q.shape[2] // sees.shape[2], q.shape[3] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        for chunk in _chunks(q, k, block_size):
            queries, keys, values, grads = chunk.take(q) * scale, chunk.take(k), chunk.take(v), chunk.take(gradient)
            added, unseen = _rules(within, chunk.dtype)
            # Of the softmax: what all weights of a query have in common (Dao et al. 2022, appendix B.2).
            common = (grads * chunk.take(out)).sum(-1, keepdim=True).neg_()
            dqueries, dkeys, dvalues = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
            for tile in chunk.tiles(sees, occupied, segments, k.shape):
                query, grad = queries[tile.queries], grads[tile.queries]
                key, value = (_gather(part, tile.keys, len(query)) for part in (keys, values))
                weights = _weights(query, key, added, unseen, tile.hidden)
                _scatter(dvalues, tile.keys, torch.bmm(weights.transpose(1, 2), grad))
                shared = common[tile.queries].expand(-1, -1, weights.shape[2])
                dlogits = torch.baddbmm(shared, grad, value.transpose(1, 2)).mul_(weights)
                dqueries[tile.queries] = torch.bmm(dlogits, key)
                _scatter(dkeys, tile.keys, torch.bmm(dlogits.transpose(1, 2), query))
            for whole, part in ((dq, dqueries.mul_(scale)), (dk, dkeys), (dv, dvalues)):
                chunk.put(whole, part)
    return dq, dk, dv


def _heads_last(x: Tensor) -> Tensor:
    """Memory of the same shape in which the heads of a token are neighbours, as the projections have them."""
    batch, heads, length, dim = x.shape
    return x.new_empty(batch, length, heads, dim).transpose(1, 2)


def _gather(blocks: Tensor, which: Tensor, count: int) -> Float[Tensor, "count places head_dim"]:
    return blocks.index_select(0, which).view(count, -1, blocks.shape[-1])


def _scatter(blocks: Tensor, which: Tensor, added: Tensor) -> None:
    blocks.index_add_(0, which, added.view(-1, *blocks.shape[1:]))


# ---------------------------------------------------------------------------------------------- as operators of torch

# An operator is one node of a compiled graph, whose loop over tiles may look at numbers, and is safe to call where
# tensors have none. It is defined by hand because `torch.library.custom_op` loads the whole compiler when first called.
_LIBRARY = torch.library.Library("plugformer_attention", "FRAGMENT")
_PATTERN = "Tensor sees, Tensor? within, Tensor? occupied, Tensor? segments"
_LIBRARY.define(f"block_sparse(Tensor q, Tensor k, Tensor v, {_PATTERN}) -> Tensor")
_LIBRARY.define(
    f"block_sparse_backward(Tensor gradient, Tensor out, Tensor q, Tensor k, Tensor v, {_PATTERN})"
    " -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("block_sparse", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("block_sparse_backward", _backward, "CompositeExplicitAutograd")
_attend_listed = torch.ops.plugformer_attention.block_sparse
_attend_listed_backward = torch.ops.plugformer_attention.block_sparse_backward


def _forward_shape(q: Tensor, k: Tensor, v: Tensor, *pattern: Tensor | None) -> Tensor:
    return _heads_last(q)


def _backward_shapes(
    gradient: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, *pattern: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _heads_last(q), _heads_last(k), _heads_last(v)


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> Any:
    return *_attend_listed_backward(gradient, *ctx.saved_tensors), None, None, None, None


def _forward_flops(q: Any, k: Any, v: Any, sees: Any, *_: Any, **__: Any) -> int:
    """Two products of each query with each key of its list."""
    return 4 * prod(q) * sees[-1] * (q[2] // sees[2])


def _backward_flops(gradient: Any, out: Any, q: Any, k: Any, v: Any, sees: Any, *_: Any, **__: Any) -> int:
    return 10 * prod(q) * sees[-1] * (q[2] // sees[2])


torch.library.register_fake("plugformer_attention::block_sparse", _forward_shape, lib=_LIBRARY)
torch.library.register_fake("plugformer_attention::block_sparse_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("plugformer_attention::block_sparse", _differentiate, setup_context=_keep, lib=_LIBRARY)
register_flop_formula(_attend_listed)(_forward_flops)
register_flop_formula(_attend_listed_backward)(_backward_flops)
