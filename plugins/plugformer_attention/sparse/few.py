"""Softmax attention of a few queries, each to a list of keys: what decoding needs, as a block of its own for each query
would be all but empty."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer_attention.heads import one_a_query_head
from plugformer_attention.precision import precise, without_autocast

AT_ONCE = 2**22  # numbers of keys that are gathered at a time


def attend_few(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys head_dim"],
    seen: Int[Tensor, "#batch #heads queries seen"],
    hidden: Bool[Tensor, "#batch #heads queries seen"],
) -> Float[Tensor, "batch heads queries head_dim"]:
    """
    Args:
        seen: the keys of each query's list.
        hidden: those of them that it doesn't see. A query that sees none gets zeros.
    """
    with without_autocast(q.device):
        return torch.cat([_attend(*part) for part in _pieces(q, k, v, seen, hidden)], 2)


def _pieces(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, hidden: Tensor) -> Iterator[tuple[Tensor, ...]]:
    most = max(1, AT_ONCE // max(1, q[:, :, 0].numel() * seen.shape[3]))
    for query, keys, unseen in zip(q.split(most, 2), seen.split(most, 2), hidden.split(most, 2), strict=True):
        yield query, k, v, keys, unseen


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
    dtype = precise(q.dtype)
    keys, values = (
        _pick(part, seen, q.shape[1]).to(dtype) for part in (k, v)
    )  # [batch, heads, queries, seen, head_dim]
    logits = (q.to(dtype) * q.shape[-1] ** -0.5).unsqueeze(-2) @ keys.mT
    hidden = hidden.unsqueeze(-2)
    weights = logits.masked_fill(hidden, torch.finfo(dtype).min).softmax(-1).masked_fill(hidden, 0.0)
    return (weights @ values).squeeze(-2).to(v.dtype)


def _pick(
    x: Float[Tensor, "batch kv_heads keys head_dim"], index: Int[Tensor, "#batch #heads queries seen"], num_heads: int
) -> Float[Tensor, "batch heads queries seen head_dim"]:
    batch, kv_heads = x.shape[:2]
    if index.shape[:2] == (1, 1):
        return one_a_query_head(x.index_select(2, index.flatten()).unflatten(2, index.shape[2:]), num_heads)
    row, head = (torch.arange(count, device=x.device) for count in (batch, num_heads))
    return x[row[:, None, None, None], head[:, None, None] // (num_heads // kv_heads), index]
