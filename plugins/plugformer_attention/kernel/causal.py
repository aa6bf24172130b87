"""Causal kernel attention by chunks, with a backward pass that computes features anew.

A chunk's queries see its keys through a square and all before them through the state:

    sums_i = e^(R − r_i) φ(q_i) S + Σ_{j ≤ i} e^(s_j − r_i) (φ(q_i)·φ(k_j)) [v_j, 1]
    S'     = e^(R − R') S + Σ_j e^(s_j − R') φ(k_j) [v_j, 1]

where s_j is the scale of a key, r_i the largest one that query i sees, R that of the state S. Of packed segments, the
state holds the last one only: the one that may go on in the next chunk.

A row is a head of a sample.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from plugformer_attention.heads import like_tokens
from plugformer_attention.kernel.kernels import (
    LOWEST,
    Kernel,
    chunks,
    divide,
    gradient_of_division,
    gradient_of_keys,
    gradient_of_queries,
    piece,
    pieces,
    products,
    put,
    with_ones,
)
from plugformer_attention.precision import precise, without_autocast

# Small chunks multiply less, large ones are fewer; the time of a GPU goes into starting its kernels.
CHUNK = {"cpu": 64}
CHUNK_ELSEWHERE = 512
Size = tuple[int, int]
KEPT = 2  # of so many chunks one state is kept for the backward pass, which makes the others anew


def chunk_size(x: Tensor) -> int:
    return CHUNK.get(x.device.type, CHUNK_ELSEWHERE)


class KernelState(NamedTuple):
    """What is remembered of the tokens before.

    Attributes:
        sums: S `[rows, features, head_dim + 1]`.
        reference: R `[rows, 1]`.
    """

    sums: Tensor
    reference: Tensor


def empty_state(q: Tensor, kernel: Kernel) -> KernelState:
    batch, heads, _, dim = q.shape
    sums = q.new_zeros(batch * heads, kernel.num_features(dim), dim + 1, dtype=precise(q.dtype))
    return KernelState(sums, sums.new_full((batch * heads, 1), LOWEST))


class Keys(NamedTuple):
    """What restricts and weighs the keys of a sequence, and so which of them a query sees.

    Attributes:
        log_weight: `[rows, length]`, logarithms of factors of their weights.
        valid, segments: `[rows, length]`, as in Mask.
        hidden: `[chunk, chunk]`, minus infinity where a query of a chunk is not to see a key of it, else zero.
    """

    log_weight: Tensor | None
    valid: Tensor | None
    segments: Tensor | None
    hidden: Tensor

    @classmethod
    def of(
        cls, q: Tensor, log_weight: Tensor | None, valid: Tensor | None, segments: Tensor | None, *, own: bool = True
    ) -> "Keys":
        """
        Args:
            q: `[batch, heads, length, head_dim]`.
            log_weight: `[batch, heads, length]`.
            valid, segments: `[batch, length]`.
            own: whether a query sees the key at its own place.
        """
        batch, heads, size = *q.shape[:2], min(q.shape[2], chunk_size(q))
        hidden = q.new_full((size, size), float("-inf"), dtype=precise(q.dtype)).triu(1 if own else 0)
        return cls(
            None if log_weight is None else log_weight.flatten(0, 1),
            None if valid is None else valid.expand(batch, -1).repeat_interleave(heads, 0),
            None if segments is None else segments.expand(batch, -1).repeat_interleave(heads, 0),
            hidden,
        )


class Weights(NamedTuple):
    """How much counts what, in one chunk.

    Attributes:
        within: of keys for queries `[rows, chunk, chunk]`.
        carried: of the state for queries `[rows, chunk, 1]`.
        added: of keys for the state after `[rows, chunk, 1]`.
        kept: of the state for the state after `[rows, 1, 1]`.
        seen: r `[rows, chunk]`.
        after: R' `[rows, 1]`.
    """

    within: Tensor
    carried: Tensor
    added: Tensor
    kept: Tensor
    seen: Tensor
    after: Tensor


def weigh(scale: Tensor, before: Tensor, keys: Keys, start: int, stop: int) -> Weights:
    """
    Args:
        scale: s of the chunk's keys `[rows, chunk]`.
        before: R of the state before it.
        keys: of the whole sequence.
    """
    base = None
    if keys.log_weight is not None:
        # Counted from the chunk's first key: of two large sums only the difference matters, and keeps its digits so.
        base = keys.log_weight[:, start : start + 1]
        before = (before - base).to(scale.dtype)
        scale = scale + (keys.log_weight[:, start:stop] - base).to(scale.dtype)
    if keys.valid is not None:
        scale = scale.masked_fill(~keys.valid[:, start:stop], float("-inf"))
    within = scale.unsqueeze(-2) + keys.hidden[: stop - start, : stop - start]
    to_state, carried = scale, before
    if keys.segments is not None:
        segment = keys.segments[:, start:stop]
        carried = before.masked_fill(segment != keys.segments[:, max(start - 1, 0), None], float("-inf"))
        before = carried[:, -1:]
        within = within.masked_fill_(segment[:, :, None] != segment[:, None, :], float("-inf"))
        to_state = scale.masked_fill(segment != segment[:, -1:], float("-inf"))
    seen = torch.maximum(within.amax(-1), carried).clamp_min_(LOWEST)
    after = torch.maximum(to_state.amax(-1, keepdim=True), before).clamp_min_(LOWEST)
    return Weights(
        within=within.sub_(seen.unsqueeze(-1)).exp_(),
        carried=(carried - seen).exp_().unsqueeze(-1),
        added=(to_state - after).exp_().unsqueeze(-1),
        kept=(before - after).exp_().unsqueeze(-1),
        seen=seen,
        after=after if base is None else after + base,
    )


def forward_chunk(
    q: Tensor, k: Tensor, v: Tensor, keys: Keys, state: KernelState, kernel: Kernel, start: int, stop: int
) -> tuple[Tensor, Tensor, KernelState]:
    """One chunk `[rows, chunk, head_dim]`: its sums, what its queries refer them to, and the state after it."""
    values = with_ones(v)
    fq, (fk, scale) = kernel.features_of(q)[0], kernel.features_of(k)
    weights = weigh(scale, state.reference, keys, start, stop)
    square = torch.bmm(fq, fk.mT).mul_(weights.within)
    sums = torch.bmm(fq, state.sums).mul_(weights.carried).baddbmm_(square, values)
    return sums, weights.seen, _state_after(state, fk, values, weights)


def forward_token(
    q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None, hidden: Tensor | None, state: KernelState,
    kernel: Kernel,
) -> tuple[Tensor, KernelState]:  # fmt: skip
    """The same of one token `[rows, 1, head_dim]`, which sees what the state after it holds, and so needs no square.

    Args:
        log_weight, hidden: `[rows, 1]`, of its key.
        kernel: for inputs that are not multiplied by the root of τ.
    """
    features, scale = kernel.features_of_few(torch.cat([q, k], 1))
    scale, before = scale[:, 1:], state.reference
    if log_weight is not None:
        before = (before - log_weight).to(scale.dtype)
    if hidden is not None:
        scale = scale.masked_fill(hidden, float("-inf"))
    after = torch.maximum(scale, before).clamp_min_(LOWEST)
    values = with_ones(v).mul_((scale - after).exp_().unsqueeze(-1))
    sums = (state.sums * (before - after).exp_().unsqueeze(-1)).baddbmm_(features[:, 1:].mT, values)
    return torch.bmm(features[:, :1], sums), KernelState(sums, after if log_weight is None else after + log_weight)


def _state_after(state: KernelState, fk: Tensor, values: Tensor, weights: Weights) -> KernelState:
    new = (state.sums * weights.kept).baddbmm_(fk.mT, values * weights.added)
    return KernelState(new, weights.after)


def _before(
    state: KernelState, k: Tensor, v: Tensor, keys: Keys, kernel: Kernel, group: list[tuple[int, int]]
) -> list[tuple[KernelState, Tensor, Weights]]:
    """Of each chunk of a group the state before it, from that of the first; its keys' features, and the weights."""
    made = []
    for start, stop in group:
        fk, scale = kernel.features_of(piece(k, start, stop))
        weights = weigh(scale, state.reference, keys, start, stop)
        made.append((state, fk, weights))
        if stop != group[-1][1]:
            state = _state_after(state, fk, with_ones(piece(v, start, stop)), weights)
    return made


def backward_chunk(
    q: Tensor, k: Tensor, v: Tensor, dsums: Tensor, dstate: Tensor, state: KernelState, fk: Tensor, weights: Weights,
    kernel: Kernel, *, weighted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Gradients of q, k, v, the logarithms of the keys' weights if they are `weighted`, and the sums of the state
    before."""
    values, fq = with_ones(v), kernel.features_of(q)[0]
    dcarried = dsums * weights.carried
    dsquare = torch.bmm(dsums, values.mT).mul_(weights.within)
    square = torch.bmm(fq, fk.mT).mul_(weights.within)
    dfq = torch.bmm(dcarried, state.sums.mT).baddbmm_(dsquare, fk)
    dfk = torch.bmm(values * weights.added, dstate.mT).baddbmm_(dsquare.mT, fq)
    dv = torch.bmm(fk, dstate[..., :-1]).mul_(weights.added).baddbmm_(square.mT, dsums[..., :-1])
    before = (dstate * weights.kept).baddbmm_(fq.mT, dcarried)
    dq = gradient_of_queries(q, fq, dfq, kernel)
    dk, dlog_weight = gradient_of_keys(k, fk, dfk, kernel, weighted=weighted)
    return dq, dk, dv, dlog_weight, before


# ---------------------------------------------------------------------------------------------- as one operation
#
# To torch.compile a loop over chunks would be a graph that grows with the length; this is one node of it.


@torch.library.custom_op("plugformer_attention::causal_kernel_attention", mutates_args=())
def causal_kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None, valid: Tensor | None, segments: Tensor | None,
    features: str, projection: Tensor, temperature: float, own: bool, whole: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Out, the weight that its sums were divided by, and the logarithm of what both are to be multiplied by.

    Args:
        own: whether a query sees the key at its own place.
        whole: whether this is all that queries see; otherwise out is not divided, and both are the sums as they are.
        keep: whether the states before each group of chunks are to be returned, for the backward pass: sums and
            references.
    """
    out, weight, seen, states, references = _results(q, k, v, log_weight, features, projection, keep)
    with without_autocast(q.device):
        keys = Keys.of(q, log_weight, valid, segments, own=own)
        kernel = Kernel(features, projection, temperature).for_(weight.dtype)
        state = empty_state(q, kernel)
        for number, (start, stop) in enumerate(chunks(q.shape[2], chunk_size(q))):
            parts = pieces(q, k, v, start, stop)
            if keep and number % KEPT == 0:
                states[number // KEPT], references[number // KEPT] = state
            sums, refer_to, state = forward_chunk(*parts, keys, state, kernel, start, stop)
            divided = divide(sums, kernel) if whole else (sums[..., :-1], sums[..., -1])
            for result, part in zip((out, weight, seen), (*divided, refer_to), strict=True):
                put(result, start, stop, part)
    return out, weight, seen, states, references


@causal_kernel_attention.register_fake
def _(q, k, v, log_weight, valid, segments, features, projection, temperature, own, whole, keep):  # type: ignore[no-untyped-def]
    return _results(q, k, v, log_weight, features, projection, keep)


def _results(
    q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None, features: str, projection: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised."""
    batch, heads, length, dim = q.shape
    wide = precise(q.dtype)
    number = -(-length // (chunk_size(q) * KEPT)) if keep else 0
    weight, seen = (q.new_empty(batch, heads, length, dtype=wide) for _ in range(2))
    count = Kernel(features, projection, 1.0).num_features(dim)
    states = weight.new_empty(number, batch * heads, count, dim + 1)
    references = weight.new_empty(number, batch * heads, 1, dtype=wide if log_weight is None else log_weight.dtype)
    return like_tokens(q), weight, seen, states, references


@torch.library.custom_op("plugformer_attention::causal_kernel_attention_backward", mutates_args=())
def causal_kernel_attention_backward(
    dout: Tensor, dweight: Tensor | None, q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None,
    valid: Tensor | None, segments: Tensor | None, features: str, projection: Tensor, temperature: float, own: bool,
    whole: bool, out: Tensor, weight: Tensor, states: Tensor, references: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv, dlog_weight = _gradients(q, k, v, log_weight)
    with without_autocast(q.device):
        keys = Keys.of(q, log_weight, valid, segments, own=own)
        kernel = Kernel(features, projection, temperature).for_(weight.dtype)
        dstate = torch.zeros_like(states[0])
        all_chunks = list(chunks(q.shape[2], chunk_size(q)))
        for number in reversed(range(len(states))):
            group = all_chunks[number * KEPT : (number + 1) * KEPT]
            before = _before(KernelState(states[number], references[number]), k, v, keys, kernel, group)
            for (start, stop), made in zip(reversed(group), reversed(before), strict=True):
                dsums = piece(dout, start, stop)
                if whole:
                    dsums = gradient_of_division(dsums, piece(out, start, stop), piece(weight, start, stop), kernel)
                else:
                    assert dweight is not None
                    dsums = torch.cat([dsums, piece(dweight, start, stop).unsqueeze(-1)], -1)
                parts = pieces(q, k, v, start, stop)
                *gradients, dstate = backward_chunk(
                    *parts, dsums, dstate, *made, kernel, weighted=log_weight is not None
                )
                for result, part in zip((dq, dk, dv, dlog_weight), gradients, strict=True):
                    if part is not None:
                        put(result, start, stop, part)
    return dq, dk, dv, dlog_weight


@causal_kernel_attention_backward.register_fake
def _(dout, dweight, q, k, v, log_weight, *others):  # type: ignore[no-untyped-def]
    return _gradients(q, k, v, log_weight)


def _gradients(q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised."""
    dlog_weight = q.new_empty(0) if log_weight is None else torch.empty_like(log_weight)
    return like_tokens(q), like_tokens(k), like_tokens(v), dlog_weight


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, features, projection, temperature, own, whole, _ = inputs
    out, weight, _, states, references = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, projection, out, weight, states, references)
    ctx.options = (features, temperature, own, whole)


def _backward(ctx, dout, dweight, *_):  # type: ignore[no-untyped-def]
    q, k, v, log_weight, valid, segments, projection, out, weight, states, references = ctx.saved_tensors
    features, temperature, own, whole = ctx.options
    dq, dk, dv, dlog_weight = causal_kernel_attention_backward(
        dout, dweight, q, k, v, log_weight, valid, segments, features, projection, temperature, own, whole,
        out, weight, states, references,
    )  # fmt: skip
    return dq, dk, dv, None if log_weight is None else dlog_weight, *[None] * 8


causal_kernel_attention.register_autograd(_backward, setup_context=_remember)


@register_flop_formula(torch.ops.plugformer_attention.causal_kernel_attention, get_raw=True)
def _(q, k, v, log_weight, valid, segments, features, projection, *others, out_val, **_) -> int:  # type: ignore[no-untyped-def]
    once, state, square = _sizes(q, features, projection)
    return products(q[..., 0].numel(), *2 * [once], *2 * [state], *square)


@register_flop_formula(torch.ops.plugformer_attention.causal_kernel_attention_backward, get_raw=True)
def _(dout, dweight, q, k, v, log_weight, valid, segments, features, projection, *others, **_) -> int:  # type: ignore[no-untyped-def]
    once, state, square = _sizes(q, features, projection)
    tokens = q[..., 0].numel()
    again = products(tokens * (KEPT - 1) // KEPT, state)  # states that were not kept
    return again + products(tokens, *4 * [once], *4 * [state], *3 * [square[0]], *2 * [square[1]])


def _sizes(q: Tensor, features: str, projection: Tensor) -> tuple[Size, Size, tuple[Size, Size]]:
    """Of what a token is multiplied with: the directions of features, the state, and both products of a square."""
    dim, size = q.shape[3], min(q.shape[2], chunk_size(q))
    count = Kernel(features, projection, 1.0).num_features(dim)
    return (dim, projection.shape[-1]), (count, dim + 1), ((size, count), (size, dim + 1))
