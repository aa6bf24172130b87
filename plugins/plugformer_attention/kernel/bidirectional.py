"""Bidirectional kernel attention: keys and values are summed once for all queries, and features are computed anew in
the backward pass, chunk by chunk.

    S = Σ_j e^(s_j − R) φ(k_j) [v_j, 1],  sums_i = φ(q_i) S

where s_j is the scale of a key and R the largest one so far; as every query sees every key, it cancels.
"""

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

CHUNK = {"cpu": 96}
CHUNK_ELSEWHERE = 4096


def chunk_size(x: Tensor) -> int:
    return CHUNK.get(x.device.type, CHUNK_ELSEWHERE)


@torch.library.custom_op("plugformer_attention::bidirectional_kernel_attention", mutates_args=())
def bidirectional_kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, features: str, projection: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Out, the weight that its sums were divided by, S and R."""
    out, weight, state, reference = _results(q, k, v, valid, features, projection)
    with without_autocast(q.device):
        kernel = Kernel(features, projection, temperature).for_(weight.dtype)
        state.zero_()
        reference.fill_(LOWEST)
        for start, stop in chunks(k.shape[2], chunk_size(k)):
            f, scale = _keys(piece(k, start, stop), valid, kernel, start, stop)
            largest = torch.maximum(reference, scale.amax(-1, keepdim=True))
            values = with_ones(piece(v, start, stop)).mul_((scale - largest).exp_().unsqueeze(-1))
            state.mul_((reference - largest).exp_().unsqueeze(-1)).baddbmm_(f.mT, values)
            reference.copy_(largest)
        for start, stop in chunks(q.shape[2], chunk_size(q)):
            f, _ = kernel.features_of(piece(q, start, stop))
            divided, by = divide(torch.bmm(f, state), kernel)
            put(out, start, stop, divided)
            put(weight, start, stop, by)
    return out, weight, state, reference


def _keys(k: Tensor, valid: Tensor | None, kernel: Kernel, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Features and scales of a chunk's keys; the scale of padding is minus infinity."""
    f, scale = kernel.features_of(k)
    if valid is not None:
        padding = ~valid[:, start:stop].repeat_interleave(k.shape[0] // valid.shape[0], 0)
        scale = scale.masked_fill(padding, float("-inf"))
    return f, scale


@bidirectional_kernel_attention.register_fake
def _(q, k, v, valid, features, projection, temperature):  # type: ignore[no-untyped-def]
    return _results(q, k, v, valid, features, projection)


def _results(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, features: str, projection: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised."""
    batch, heads, queries, dim = q.shape
    wide = precise(q.dtype)
    count = Kernel(features, projection, 1.0).num_features(dim)
    weight = q.new_empty(batch, heads, queries, dtype=wide)
    state, reference = weight.new_empty(batch * heads, count, dim + 1), weight.new_empty(batch * heads, 1)
    return like_tokens(q), weight, state, reference


@torch.library.custom_op("plugformer_attention::bidirectional_kernel_attention_backward", mutates_args=())
def bidirectional_kernel_attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, features: str, projection: Tensor,
    temperature: float, out: Tensor, weight: Tensor, state: Tensor, reference: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv = like_tokens(q), like_tokens(k), like_tokens(v)
    with without_autocast(q.device):
        kernel = Kernel(features, projection, temperature).for_(weight.dtype)
        dstate = torch.zeros_like(state)
        for start, stop in chunks(q.shape[2], chunk_size(q)):
            x = piece(q, start, stop)
            f, _ = kernel.features_of(x)
            dsums = gradient_of_division(*pieces(dout, out, weight, start, stop), kernel)
            dstate.baddbmm_(f.mT, dsums)
            put(dq, start, stop, gradient_of_queries(x, f, torch.bmm(dsums, state.mT), kernel))
        for start, stop in chunks(k.shape[2], chunk_size(k)):
            x = piece(k, start, stop)
            f, scale = _keys(x, valid, kernel, start, stop)
            added = (scale - reference).exp_().unsqueeze(-1)
            put(dv, start, stop, torch.bmm(f, dstate[..., :-1]).mul_(added))
            df = torch.bmm(with_ones(piece(v, start, stop)).mul_(added), dstate.mT)
            put(dk, start, stop, gradient_of_keys(x, f, df, kernel, weighted=False)[0])
    return dq, dk, dv


@bidirectional_kernel_attention_backward.register_fake
def _(dout, q, k, v, *others):  # type: ignore[no-untyped-def]
    return like_tokens(q), like_tokens(k), like_tokens(v)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, valid, features, projection, temperature = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, valid, projection, *output)
    ctx.options = (features, temperature)


def _backward(ctx, dout, *_):  # type: ignore[no-untyped-def]
    q, k, v, valid, projection, *output = ctx.saved_tensors
    features, temperature = ctx.options
    gradients = bidirectional_kernel_attention_backward(
        dout, q, k, v, valid, features, projection, temperature, *output
    )
    return *gradients, None, None, None, None


bidirectional_kernel_attention.register_autograd(_backward, setup_context=_remember)


@register_flop_formula(torch.ops.plugformer_attention.bidirectional_kernel_attention, get_raw=True)
def _(q, k, *others, out_val, **_) -> int:  # type: ignore[no-untyped-def]
    tokens, directions = q[..., 0].numel() + k[..., 0].numel(), others[3].shape[-1]
    return products(tokens, (q.shape[3], directions), out_val[2].shape[1:])


@register_flop_formula(torch.ops.plugformer_attention.bidirectional_kernel_attention_backward, get_raw=True)
def _(dout, q, k, *others, **_) -> int:  # type: ignore[no-untyped-def]
    tokens, (_, _, _, projection, _, _, _, state, _) = q[..., 0].numel() + k[..., 0].numel(), others
    return products(tokens, *2 * [(q.shape[3], projection.shape[-1]), state.shape[1:]])
