"""Attention of sorted tokens to intervals of their windows, over all rounds at once.

The rounds' outputs, weighted by the softmax of their log-sum-exps, are one softmax over all pairs of a round and a key:
so rounds are added up one after the other, as FlashAttention adds up blocks of keys (Dao et al. 2022, algorithm 1), and
the backward pass computes the weights anew from one log-sum-exp a query. What lives at a time is a tile of blocks,
small enough for a processor's cache.
"""

from collections.abc import Iterator
from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from plugformer_attention.lsh.sorting import Slots, Window
from plugformer_attention.precision import precise, without_autocast

EPSILON = 1e-6  # in the square of a key's norm, so that the gradient of a vector of zeros is finite in half precision
HIDDEN = -1e30  # added to the logits of what is not seen, for each slot that it is away from what is
LOWEST = -1e20  # below every logit, above every hidden one
LOG2_E = 1 / log(2)  # powers are taken of 2, which is several times faster than of e on a CPU
CACHED = 2**18  # logits of a tile on a CPU; elsewhere, and where loops are unrolled, tiles are larger
UNCACHED = 2**25


def normalised(x: Float[Tensor, "*any head_dim"]) -> Float[Tensor, "*any head_dim"]:
    """Keys of these queries."""
    return x * _inverse_norm(x)


def attend(
    q: Float[Tensor, "tokens head_dim"], v: Float[Tensor, "tokens head_dim"], slots: Slots, window: Window
) -> Float[Tensor, "tokens head_dim"]:
    """What each token gets from the others it sees; its own value, where it sees none in any round."""
    return _Attend.apply(q, v, slots.token, slots.first, slots.last, window)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, v: Tensor, token: Tensor, first: Tensor, last: Tensor | None, window: Window
    ) -> Tensor:
        with without_autocast(q.device):
            out, log_sum = _attend(q, v, Slots(token, first, last), window)
        ctx.save_for_backward(q, v, out, log_sum, token, first, last)
        ctx.window = window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, v, out, log_sum, *slots = ctx.saved_tensors
        with without_autocast(q.device):
            d_q, d_v = _gradients(d_out, q, v, out, log_sum, Slots(*slots), ctx.window)
        return d_q, d_v, None, None, None, None


def _attend(q: Tensor, v: Tensor, slots: Slots, window: Window) -> tuple[Tensor, Tensor]:
    """What each token gets, and the base-2 logarithm of the sum of its weights; -LOWEST where there are none."""
    dtype, size = precise(q.dtype), q.shape[-1]
    shorten, band = _inverse_norm(q.to(dtype)), _band(window, dtype, q.device)
    total = q.new_zeros(q.shape, dtype=dtype)
    weight = q.new_zeros(len(q), 1, dtype=dtype)
    highest = torch.full_like(weight, LOWEST)
    for tile in _tiles(slots, window):
        x, values = (part.index_select(0, tile.keys).to(dtype) for part in (q, v))
        logits = _logits(x, x * shorten.index_select(0, tile.keys), tile, window, band)
        before = highest.index_select(0, tile.queries)
        now = torch.maximum(before, logits.amax(-1).view(-1, 1))
        weights = logits.sub_(now.view(-1, window.block, 1)).exp2_()
        # In double precision, so that it doesn't depend on where in the window the weights stand, which the future of a
        # sequence may change.
        new = weights.sum(-1, dtype=torch.float64).to(dtype).view(-1, 1)
        decay = before.sub_(now).exp2_()
        so_far = total.index_select(0, tile.queries).mul_(decay)
        so_far.view(-1, window.block, size).baddbmm_(weights, _windows(values, window))
        highest.index_copy_(0, tile.queries, now)
        weight.index_copy_(0, tile.queries, new.addcmul_(weight.index_select(0, tile.queries), decay))
        total.index_copy_(0, tile.queries, so_far)
    alone = weight == 0
    log_sum = torch.where(alone, -LOWEST, highest + weight.log2())
    return torch.where(alone, v, total.div_(weight).to(v.dtype)), log_sum


def _gradients(
    d_out: Tensor, q: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, slots: Slots, window: Window
) -> tuple[Tensor, Tensor]:
    """Of queries, which are keys as well, and values."""
    dtype, size = precise(q.dtype), q.shape[-1]
    shorten, band = _inverse_norm(q.to(dtype)), _band(window, dtype, q.device)
    along = (d_out.to(dtype) * out).sum(-1, keepdim=True)
    d_q = q.new_zeros(q.shape, dtype=dtype)
    d_v = torch.where(log_sum == -LOWEST, d_out.to(dtype), 0.0)
    for tile in _tiles(slots, window):
        x, values = (part.index_select(0, tile.keys).to(dtype) for part in (q, v))
        short = shorten.index_select(0, tile.keys)
        keys = x * short
        weights = _logits(x, keys, tile, window, band)
        weights = weights.sub_(log_sum.index_select(0, tile.queries).view(-1, window.block, 1)).exp2_()
        d_tile = d_out.index_select(0, tile.queries).to(dtype).view(-1, window.block, size)
        d_v.index_add_(0, tile.keys, _spread(weights, d_tile, window))
        d_logits = torch.bmm(d_tile, _windows(values, window).mT)
        d_logits.sub_(along.index_select(0, tile.queries).view(-1, window.block, 1)).mul_(weights).mul_(size**-0.5)
        d_keys = _spread(d_logits, _blocks(x, window), window)
        d_x = d_keys.addcmul_(keys, (keys * d_keys).sum(-1, keepdim=True), value=-1).mul_(short)
        # In two steps, for compiled by inductor (torch 2.14) `baddbmm_` to this view gives wrong numbers.
        _blocks(d_x, window).add_(torch.bmm(d_logits, _windows(keys, window)))
        d_q.index_add_(0, tile.keys, d_x)
    return d_q.to(q.dtype), d_v.to(v.dtype)


class _Tile(NamedTuple):
    """Some consecutive blocks of a round.

    Attributes:
        queries: int `[blocks · block]`, which tokens ask.
        keys: int `[back + blocks · block + ahead]`, which tokens are in their windows.
        first, last: of `queries`.
    """

    queries: Tensor
    keys: Tensor
    first: Tensor
    last: Tensor | None


def _tiles(slots: Slots, window: Window) -> Iterator[_Tile]:
    unrolled = slots.token.device.type != "cpu" or torch.compiler.is_compiling()
    blocks = max(1, (UNCACHED if unrolled else CACHED) // (window.block * window.width))
    for number in range(len(slots.token)):
        token, first = slots.token[number], slots.first[number]
        around = F.pad(token, (window.back, window.ahead))  # by some token; it is hidden
        for begin in range(0, len(token), blocks * window.block):
            here = slice(begin, min(begin + blocks * window.block, len(token)))
            keys = around[begin : here.stop + window.back + window.ahead]
            last = None if slots.last is None else slots.last[number, here]
            yield _Tile(token[here], keys, first[here], last)


def _blocks(x: Float[Tensor, "keys head_dim"], window: Window) -> Float[Tensor, "blocks block head_dim"]:
    """The queries among a tile's keys; a view."""
    return x[window.back : len(x) - window.ahead].view(-1, window.block, x.shape[-1])


def _windows(x: Float[Tensor, "keys head_dim"], window: Window) -> Float[Tensor, "blocks width head_dim"]:
    """A view, in which neighbours overlap."""
    return x.unfold(0, window.width, window.block).mT


def _spread(
    weights: Float[Tensor, "blocks block width"], x: Float[Tensor, "blocks block head_dim"], window: Window
) -> Float[Tensor, "keys head_dim"]:
    """What each key of a tile gets from the queries that weigh it: the transpose of weighing windows."""
    blocks, block, size = x.shape
    total = x.new_zeros(window.back + blocks * block + window.ahead, size)
    for begin in range(0, window.width, block):
        part = total[begin : begin + blocks * block].view_as(x)
        part.baddbmm_(weights[:, :, begin : begin + block].mT, x)
    return total


def _logits(x: Tensor, keys: Tensor, tile: _Tile, window: Window, band: Tensor) -> Float[Tensor, "blocks block width"]:
    """To base 2."""
    logits = torch.bmm(_blocks(x, window) * (x.shape[-1] ** -0.5 * LOG2_E), _windows(keys, window).mT)
    place = torch.arange(window.width, device=x.device, dtype=torch.float32)
    # Arithmetic on floats rather than comparisons, which are several times slower on a CPU.
    logits.add_((place - tile.first.view(-1, window.block, 1)).clamp_(max=0), alpha=-HIDDEN)
    if tile.last is not None:
        logits.add_((tile.last.view(-1, window.block, 1) - place).clamp_(max=0), alpha=-HIDDEN)
    return logits.add_(band)


def _band(window: Window, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "block width"]:
    """Hides, of the window, a query's own slot and, if causal, those behind it."""
    key = torch.arange(window.width, device=device)
    own = window.back + torch.arange(window.block, device=device)[:, None]
    hidden = key >= own if window.causal else key == own
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


def _inverse_norm(x: Float[Tensor, "*any head_dim"]) -> Float[Tensor, "*any 1"]:
    return (x.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
