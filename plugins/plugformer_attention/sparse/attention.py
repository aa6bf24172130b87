"""Softmax attention where each block of queries sees a list of key blocks.

Tokens stand in blocks of equal size, some places perhaps empty. Time and memory are linear in the number of blocks. On
the CPU, tiles of a few query blocks gather their key blocks into the cache and work there; the backward pass gathers
again instead of keeping what the forward pass gathered. On CUDA it is FlexAttention's work.
"""

from collections.abc import Container, Iterator
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from plugformer_attention.heads import like_tokens
from plugformer_attention.precision import precise, without_autocast
from plugformer_attention.sparse.pattern import BlockPattern

TILE = 2**17  # logits at once: with their queries, keys and values they stay in a processor's cache
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
    p = pattern
    return _attend_listed(q, k, v, p.sees, p.within, p.occupied, p.segments, p.overseers, p.causal)


# ---------------------------------------------------------------------------------------------- gathered tiles


class _Tile(NamedTuple):
    """A few query blocks, numbered through heads and samples of a chunk, and the key blocks that they see."""

    queries: slice
    keys: Int[Tensor, "blocks_seen"]
    hidden: Bool[Tensor, "blocks #block_size places"] | None

    @property
    def num_blocks(self) -> int:
        return self.queries.stop - self.queries.start


class _Overseers(NamedTuple):
    """Blocks of a chunk whose queries see all keys of their head and sample: too many for lists, so densely.

    Attributes:
        blocks: int `[lanes * overseers]`; where a sample has fewer, the first stands again.
        present: bool `[lanes, rows, 1]`, whether a row is not such a repetition.
        hidden: bool `[lanes, #rows, places]`, what they don't see; None for nothing.
    """

    blocks: Tensor
    present: Tensor
    hidden: Tensor | None

    @property
    def skipped(self) -> Container[int]:
        """Blocks that need no list, where leaving them out doesn't cut the tiles of short sequences to pieces."""
        return set(self.blocks.tolist()) if len(self.present) == 1 else ()


class _Chunk:
    """Some heads of some samples in contiguous memory, block by block."""

    def __init__(self, where: tuple[slice, slice], block_size: int, dtype: torch.dtype) -> None:
        self.where, self.block_size, self.dtype = where, block_size, dtype

    def take(self, x: Tensor) -> Float[Tensor, "blocks block_size head_dim"]:
        return x[self.where].to(self.dtype).reshape(-1, self.block_size, x.shape[-1])

    def put(self, x: Tensor, blocks: Tensor) -> None:
        target = x[self.where]
        target.copy_(blocks.view(target.shape))

    def overseers(
        self,
        overseers: Tensor | None,
        occupied: Tensor | None,
        segments: Tensor | None,
        causal: bool,
        shape: torch.Size,
    ) -> _Overseers | None:
        if overseers is None:
            return None
        samples, heads = (torch.arange(count)[part] for count, part in zip(shape[:2], self.where, strict=True))
        samples = samples.repeat_interleave(len(heads)).to(overseers.device)  # of each lane
        lanes = torch.arange(len(samples), device=overseers.device)

        def of_lanes(x: Tensor) -> Tensor:
            return x.expand(shape[0], *x.shape[1:])[samples]

        listed = of_lanes(overseers)
        blocks = listed.clamp(min=0)
        place = torch.arange(self.block_size, device=blocks.device)
        rows = (blocks[..., None] * self.block_size + place).flatten(1)
        hidden = [] if occupied is None else [~of_lanes(occupied)[:, None]]
        if segments is not None:
            own = of_lanes(segments)
            hidden.append(own.gather(1, rows)[..., None] != own[:, None])
        if causal:
            hidden.append(rows[..., None] < torch.arange(shape[2], device=rows.device))
        return _Overseers(
            (blocks + shape[2] // self.block_size * lanes[:, None]).flatten(),
            (listed >= 0).repeat_interleave(self.block_size, 1)[..., None],
            reduce(torch.logical_or, hidden) if hidden else None,
        )

    def tiles(
        self,
        sees: Tensor,
        occupied: Tensor | None,
        segments: Tensor | None,
        shape: torch.Size,
        skipped: Container[int],
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
        for rows in _runs(len(lanes) * query_blocks, max(1, TILE // (self.block_size**2 * seen)), skipped):
            hidden = absent[rows, :, None].expand(-1, -1, self.block_size).flatten(1)[:, None]
            if occupied is not None:
                hidden = hidden | ~occupied[of_sample[rows]].flatten(1)[:, None]
            if segments is not None:
                hidden = hidden | (segments[own[rows]][:, :, None] != segments[of_sample[rows]].flatten(1)[:, None])
            # The CPU can look, and most tiles hide nothing; another device would have to wait for the answer.
            hides = hidden.device.type != "cpu" or bool(hidden.any())
            yield _Tile(rows, in_chunk[rows].flatten(), hidden if hides else None)


def _runs(count: int, most: int, skipped: Container[int]) -> Iterator[slice]:
    """Query blocks that make a tile, at most so many, without those skipped."""
    start = 0
    while start < count:
        stop = start
        while stop < min(start + most, count) and stop not in skipped:
            stop += 1
        if stop > start:
            yield slice(start, stop)
        start = max(stop, start + 1)


def _chunks(q: Tensor, k: Tensor, block_size: int) -> Iterator[_Chunk]:
    """All heads of several samples while those are short, one head of one sample when they are long."""
    batch, heads, keys, _ = k.shape
    lanes = max(1, CHUNK_PLACES // max(keys, 1))
    heads_at_once, samples_at_once = min(heads, lanes), max(1, lanes // heads)
    for sample in range(0, batch, samples_at_once):
        for head in range(0, heads, heads_at_once):
            where = (slice(sample, sample + samples_at_once), slice(head, head + heads_at_once))
            yield _Chunk(where, block_size, precise(q.dtype))


class _Room:
    """Memory for what a tile needs for a moment, the same for every tile: fresh memory would cost page faults."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._taken: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = prod(shape)
        if name not in self._taken or self._taken[name].numel() < size:
            self._taken[name] = self._like.new_empty(size)
        return self._taken[name][:size].view(shape)

    def gather(self, keys: Tensor, values: Tensor, tile: _Tile) -> tuple[Tensor, Tensor]:
        """Both `[blocks, places, head_dim]`."""
        shape = len(tile.keys), *keys.shape[1:]
        key = torch.index_select(keys, 0, tile.keys, out=self("keys", *shape))
        value = torch.index_select(values, 0, tile.keys, out=self("values", *shape))
        return key.view(tile.num_blocks, -1, shape[-1]), value.view(tile.num_blocks, -1, shape[-1])

    def bmm(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b, out=self(name, a.shape[0], a.shape[1], b.shape[2]))


def _weights(
    room: _Room, q: Tensor, k: Tensor, within: Tensor | None, unseen: Tensor | None, hidden: Tensor | None
) -> Tensor:
    """Softmax over `[blocks, block_size, places]`.

    Args:
        within: the pattern's as numbers to be added to the logits.
        unseen: the same as bool, True for what is not seen.
    """
    logits = room.bmm("weights", q, k.transpose(1, 2))
    if within is not None:
        logits.add_(within)
    if hidden is None:
        return torch.softmax(logits, -1, out=logits)
    hidden = hidden if unseen is None else hidden | unseen
    logits.masked_fill_(hidden, torch.finfo(logits.dtype).min)
    return torch.softmax(logits, -1, out=logits).masked_fill_(hidden, 0.0)


def _gradient_of_logits(room: _Room, grad: Tensor, value: Tensor, weights: Tensor) -> Tensor:
    dweights = room.bmm("dweights", grad, value.transpose(1, 2))
    return torch.ops.aten._softmax_backward_data.out(dweights, weights, -1, weights.dtype, grad_input=dweights)


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
    overseers: Tensor | None,
    causal: bool,
) -> Tensor:
    out = like_tokens(q)
    block_size, scale = q.shape[2] // sees.shape[2], q.shape[3] ** -0.5
    with without_autocast(q.device):
        for chunk in _chunks(q, k, block_size):
            queries, keys, values = chunk.take(q) * scale, chunk.take(k), chunk.take(v)
            added, unseen = _rules(within, chunk.dtype)
            made, room = torch.empty_like(queries), _Room(queries)
            seer = chunk.overseers(overseers, occupied, segments, causal, k.shape)
            for tile in chunk.tiles(sees, occupied, segments, k.shape, seer.skipped if seer else ()):
                query = queries[tile.queries]
                key, value = room.gather(keys, values, tile)
                torch.bmm(_weights(room, query, key, added, unseen, tile.hidden), value, out=made[tile.queries])
            if seer is not None:
                key, value = (_by_lane(part, seer) for part in (keys, values))
                weights = _weights(room, _of(seer, queries), key, None, None, seer.hidden)
                made[seer.blocks] = torch.bmm(weights, value).view(-1, *made.shape[1:])
            chunk.put(out, made)
    return out


@torch.no_grad()
def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sees: Tensor,
    within: Tensor | None,
    occupied: Tensor | None,
    segments: Tensor | None,
    overseers: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = like_tokens(q), like_tokens(k), like_tokens(v)
    block_size, scale = q.shape[2] // sees.shape[2], q.shape[3] ** -0.5
    with without_autocast(q.device):
        for chunk in _chunks(q, k, block_size):
            queries, keys, values, grads = chunk.take(q) * scale, chunk.take(k), chunk.take(v), chunk.take(gradient)
            added, unseen = _rules(within, chunk.dtype)
            dqueries, dkeys, dvalues = torch.zeros_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
            room = _Room(queries)
            seer = chunk.overseers(overseers, occupied, segments, causal, k.shape)
            if seer is not None:
                query, grad = _of(seer, queries), _of(seer, grads) * seer.present
                key, value = _by_lane(keys, seer), _by_lane(values, seer)
                weights = _weights(room, query, key, None, None, seer.hidden)
                _by_lane(dvalues, seer).baddbmm_(weights.transpose(1, 2), grad)
                dlogits = _gradient_of_logits(room, grad, value, weights)
                _by_lane(dkeys, seer).baddbmm_(dlogits.transpose(1, 2), query)
                overseen = torch.bmm(dlogits, key)
                grads = grads.index_fill(0, seer.blocks, 0.0)
            for tile in chunk.tiles(sees, occupied, segments, k.shape, seer.skipped if seer else ()):
                query, grad = queries[tile.queries], grads[tile.queries]
                key, value = room.gather(keys, values, tile)
                weights = _weights(room, query, key, added, unseen, tile.hidden)
                _scatter(dvalues, tile.keys, room.bmm("dvalues", weights.transpose(1, 2), grad))
                dlogits = _gradient_of_logits(room, grad, value, weights)
                torch.bmm(dlogits, key, out=dqueries[tile.queries])
                _scatter(dkeys, tile.keys, room.bmm("dkeys", dlogits.transpose(1, 2), query))
            if seer is not None:
                _scatter(dqueries, seer.blocks, overseen)
            for whole, part in ((dq, dqueries.mul_(scale)), (dk, dkeys), (dv, dvalues)):
                chunk.put(whole, part)
    return dq, dk, dv


def _of(seer: _Overseers, blocks: Tensor) -> Float[Tensor, "lanes rows head_dim"]:
    return blocks.index_select(0, seer.blocks).view(len(seer.present), -1, blocks.shape[-1])


def _by_lane(blocks: Tensor, seer: _Overseers) -> Float[Tensor, "lanes places head_dim"]:
    return blocks.view(len(seer.present), -1, blocks.shape[-1])


def _scatter(blocks: Tensor, which: Tensor, added: Tensor) -> None:
    blocks.index_add_(0, which, added.view(-1, *blocks.shape[1:]))


# ---------------------------------------------------------------------------------------------- as operators of torch

# An operator is one node of a compiled graph, whose loop over tiles may look at numbers, and is safe to call where
# tensors have none. It is defined by hand because `torch.library.custom_op` loads the whole compiler when first called.
_LIBRARY = torch.library.Library("plugformer_attention", "FRAGMENT")
_PATTERN = "Tensor sees, Tensor? within, Tensor? occupied, Tensor? segments, Tensor? overseers, bool causal"
_LIBRARY.define(f"block_sparse(Tensor q, Tensor k, Tensor v, {_PATTERN}) -> Tensor")
_LIBRARY.define(
    f"block_sparse_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, {_PATTERN}) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.impl("block_sparse", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("block_sparse_backward", _backward, "CompositeExplicitAutograd")
_attend_listed = torch.ops.plugformer_attention.block_sparse
_attend_listed_backward = torch.ops.plugformer_attention.block_sparse_backward


def _forward_shape(q: Tensor, k: Tensor, v: Tensor, *pattern: Any) -> Tensor:
    return like_tokens(q)


def _backward_shapes(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *pattern: Any) -> tuple[Tensor, Tensor, Tensor]:
    return like_tokens(q), like_tokens(k), like_tokens(v)


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> Any:
    return *_attend_listed_backward(gradient, *ctx.saved_tensors, ctx.causal), *[None] * 6


def _forward_flops(q: Any, k: Any, v: Any, sees: Any, *pattern: Any, **_: Any) -> int:
    """Two products of each query with each key of its list, or for overseers with each key."""
    return 4 * _products(q, k, sees, pattern[3])


def _backward_flops(gradient: Any, q: Any, k: Any, v: Any, sees: Any, *pattern: Any, **_: Any) -> int:
    return 10 * _products(q, k, sees, pattern[3])


def _products(q: Any, k: Any, sees: Any, overseers: Any) -> int:
    block_size = q[2] // sees[2]
    overseen = 0 if overseers is None else overseers[-1] * block_size * k[2]
    return prod(q[:2]) * q[3] * (q[2] * sees[-1] * block_size + overseen)


torch.library.register_fake("plugformer_attention::block_sparse", _forward_shape, lib=_LIBRARY)
torch.library.register_fake("plugformer_attention::block_sparse_backward", _backward_shapes, lib=_LIBRARY)
torch.library.register_autograd("plugformer_attention::block_sparse", _differentiate, setup_context=_keep, lib=_LIBRARY)
register_flop_formula(_attend_listed)(_forward_flops)
register_flop_formula(_attend_listed_backward)(_backward_flops)
