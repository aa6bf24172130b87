"""Attention whose weights are products of features, in time and memory linear in the length.

    out_i = Σ_j w_ij v_j / Σ_j w_ij,  w_ij = φ(q_i)·φ(k_j)

Bidirectional: Σ_j φ(k_j) v_jᵀ is summed once for all queries (Choromanski et al. 2021, equation 4). Causal: by chunks,
of which each sees itself through a small square and what is before it through a state of constant size (Katharopoulos
et al. 2020, section 3.3; chunks as in Hua et al. 2022, section 3.3). No future key moves a past output: a key is scaled
by its own largest feature, and sums refer to the largest scale that their query has seen.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Capabilities, Mask
from plugformer_attention.kernel.bidirectional import bidirectional_kernel_attention
from plugformer_attention.kernel.causal import (
    KernelState,
    Keys,
    causal_kernel_attention,
    chunk_size,
    empty_state,
    forward_chunk,
    forward_token,
)
from plugformer_attention.kernel.kernels import Kernel, chunks, divide, pieces
from plugformer_attention.precision import precise, without_autocast

CAPABILITIES = Capabilities(
    causality="strict",
    cross_attention=True,
    key_padding=True,
    segments=True,
    decoding="state",
    divides=True,
    time_exponent=1.0,
    memory_exponent=1.0,
)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, kernel: Kernel, log_weight: Tensor | None = None) -> Tensor:
    """
    Args:
        q: `[batch, heads, queries, head_dim]`.
        k, v: `[batch, heads, keys, head_dim]`.
        mask: without a prefix. The tokens of a segment stand together, but for padding.
        kernel: the kernel.
        log_weight: `[batch, heads, keys]`, logarithms of factors of the keys' weights, float64 where they grow with the
            length; causal only.

    Raises:
        UserError: queries of packed samples and keys of other packed samples.
    """
    refuse_packed_memory(mask)
    queries, keys = q.shape[2], k.shape[2]
    mask = _with_segments_in_one_piece(mask)
    if not mask.causal and mask.segments is None:
        assert log_weight is None, "weights of keys are for causal attention"
        return bidirectional_kernel_attention(q, k, v, mask.valid, *kernel)[0]
    assert queries <= keys, "queries are the last keys"
    q = F.pad(q, (0, 0, keys - queries, 0)) if queries < keys else q
    if mask.causal:
        out, *_ = _causal(q, k, v, log_weight, mask.valid, mask.segments, kernel)
    else:
        out = _both_ways(q, k, v, mask, kernel)
    return out[:, :, keys - queries :] if queries < keys else out


def _causal(
    q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None, valid: Tensor | None, segments: Tensor | None,
    kernel: Kernel, *, own: bool = True, whole: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = (q, k, v) if log_weight is None else (q, k, v, log_weight)
    keep = torch.is_grad_enabled() and any(part.requires_grad for part in inputs)
    return causal_kernel_attention(q, k, v, log_weight, valid, segments, *kernel, own, whole, keep)[:3]


def _both_ways(q: Tensor, k: Tensor, v: Tensor, mask: Mask, kernel: Kernel) -> Tensor:
    """Each query sees its segment: itself and what is before it, and what is behind it."""
    assert mask.segments is not None
    dtype, valid, segments = q.dtype, mask.valid, mask.segments
    q, k, v = (part.to(precise(part.dtype)) for part in (q, k, v))
    before = _causal(q, k, v, None, valid, segments, kernel, whole=False)
    flipped = (None if valid is None else valid.flip(-1), segments.flip(-1))
    behind = _causal(q.flip(2), k.flip(2), v.flip(2), None, *flipped, kernel, own=False, whole=False)
    largest = torch.maximum(before[2], behind[2].flip(2))
    sums = _refer(*before, largest) + _refer(behind[0].flip(2), behind[1].flip(2), behind[2].flip(2), largest)
    return divide(sums, kernel)[0].to(dtype)


def _refer(values: Tensor, weight: Tensor, reference: Tensor, new: Tensor) -> Tensor:
    """Sums, referred to another logarithm."""
    return torch.cat([values, weight.unsqueeze(-1)], -1) * (reference - new).exp().unsqueeze(-1)


def advance(
    q: Tensor, k: Tensor, v: Tensor, state: KernelState | None, valid: Tensor | None, kernel: Kernel,
    log_weight: Tensor | None = None,
) -> tuple[Tensor, KernelState]:  # fmt: skip
    """The same as causal `attend`, some tokens further.

    The state is `[batch, heads, ...]`, so that samples can be selected from it.
    """
    with without_autocast(q.device):
        now = empty_state(q, kernel) if state is None else KernelState(*(part.flatten(0, 1) for part in state))
        go_on = _one if q.shape[2] == 1 else _several
        out, now = go_on(q, k, v, now, valid, kernel, log_weight)
    rows = q.shape[:2]
    out = out.view(*rows, *out.shape[1:]).to(q.dtype)
    return out, KernelState(*(part.view(*rows, *part.shape[1:]) for part in now))


def _several(
    q: Tensor, k: Tensor, v: Tensor, state: KernelState, valid: Tensor | None, kernel: Kernel, log_weight: Tensor | None
) -> tuple[Tensor, KernelState]:
    outs, kernel, keys = [], kernel.for_(state.sums.dtype), Keys.of(q, log_weight, valid, None)
    for start, stop in chunks(q.shape[2], chunk_size(q)):
        sums, _, state = forward_chunk(*pieces(q, k, v, start, stop), keys, state, kernel, start, stop)
        outs.append(divide(sums, kernel)[0])
    return torch.cat(outs, 1), state


def _one(
    q: Tensor, k: Tensor, v: Tensor, state: KernelState, valid: Tensor | None, kernel: Kernel, log_weight: Tensor | None
) -> tuple[Tensor, KernelState]:
    hidden = None if valid is None else ~valid.expand(len(q), -1).repeat_interleave(q.shape[1], 0)
    log_weight = None if log_weight is None else log_weight.flatten(0, 1)
    sums, state = forward_token(*pieces(q, k, v, 0, 1), log_weight, hidden, state, kernel)
    return divide(sums, kernel)[0], state


def _with_segments_in_one_piece(mask: Mask) -> Mask:
    """Padding joins the segment before it, for what is carried from chunk to chunk belongs to one segment."""
    if mask.segments is None:
        return mask
    segments, place = mask.segments, torch.arange(mask.segments.shape[1], device=mask.segments.device)
    if mask.valid is not None:
        last = torch.where(mask.valid, place, 0).cummax(1).values
        segments = segments.expand(len(last), -1).gather(1, last)
    order = segments.sort(dim=1, stable=True)
    together = (order.values.diff(dim=1) != 0) | (order.indices.diff(dim=1) == 1)
    torch._assert_async(together.all(), "kernel attention needs the tokens of each segment to stand together")
    return replace(mask, segments=segments)


def refuse_packed_memory(mask: Mask) -> None:
    """
    Raises:
        UserError: queries have segments of their own.
    """
    if mask.query_segments is not None:
        raise UserError(
            "Kernel attention can't see the segments of a packed memory from packed queries in linear time.\n"
            "  Set tokenizer.packing=none for both sequences, or attention=full."
        )
