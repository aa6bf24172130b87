"""What mechanisms measure of themselves now and then: on so few queries that it costs little, however long sequences
are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer.interfaces import Mask

KEYS = 2**18  # of all samples and heads that are looked at
PAIRS = 2**20  # of queries and keys


def few_samples(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor, Mask]:
    """The first ones, so many that they have no more than `KEYS` keys; at least one."""
    count = max(1, KEYS // (k.shape[1] * k.shape[2]))
    if count >= len(q):
        return q, k, v, mask
    return q[:count], k[:count], v[:count], mask.select(torch.arange(count, device=q.device))


def some_queries(
    q: Float[Tensor, "batch heads queries head_dim"], keys: int, device: torch.device
) -> Int[Tensor, "chosen"]:
    """Numbers of queries from all over the sequence, the last among them: no more than `PAIRS` with all their keys."""
    batch, heads, queries, _ = q.shape
    count = min(queries, max(1, PAIRS // (batch * heads * keys)))
    return (torch.arange(count, device=device) + 1) * queries // count - 1


def visible_rows(
    mask: Mask, chosen: Int[Tensor, "chosen"], queries: int, keys: int
) -> Bool[Tensor, "#batch 1 chosen keys"]:
    """`Mask.dense` of these queries alone; nothing is visible to a query that is padding."""
    place, key = chosen + keys - queries, torch.arange(keys, device=chosen.device)
    visible = torch.ones(1, 1, len(chosen), keys, dtype=torch.bool, device=chosen.device)
    if mask.causal:
        visible = visible & (key <= place[:, None])
    if mask.segments is not None:
        own = mask.segments[:, place] if mask.query_segments is None else mask.query_segments[:, chosen]
        visible = visible & (own[:, None, :, None] == mask.segments[:, None, None])
    if mask.valid is not None:
        visible = visible & mask.valid[:, None, None]
        if queries == keys:
            visible = visible & mask.valid[:, None, place, None]
    return visible


def coverage(
    logits: Float[Tensor, "batch heads chosen keys"],
    visible: Bool[Tensor, "#batch #heads chosen keys"],
    seen: Bool[Tensor, "#batch #heads chosen keys"],
) -> dict[str, float]:
    """The share that keys which are seen have of full attention's weights, the mean over queries.

    Args:
        logits: of full attention.
        visible: to it; to some queries, that don't count, nothing.
        seen: by the mechanism; no more than is visible.
    """
    logits = logits.float()
    whole, part = (logits.masked_fill(~keys, float("-inf")).logsumexp(-1) for keys in (visible, seen))
    share = (part - whole).exp()[visible.any(-1).expand(whole.shape)]
    return {"coverage": float(share.mean())} if len(share) else {}
