"""How well hashing does."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer_attention.diagnosing import coverage, some_queries, visible_rows
from plugformer_attention.lsh.attention import normalised
from plugformer_attention.lsh.reference import SELF
from plugformer_attention.lsh.sorting import Order, ranks


def bucket_entropy(
    bucket: Int[Tensor, "rounds batch heads length"], valid: Bool[Tensor, "batch length"] | None, num_buckets: int
) -> dict[str, float]:
    """How evenly the real tokens of a sequence are spread over buckets, from 0, all in one, to 1: the entropy of a
    token's bucket, as a share of the largest there can be; the mean over rounds, heads and samples."""
    real = torch.ones_like(bucket, dtype=torch.float32)
    if valid is not None:
        real = real * valid[:, None]
    counts = real.new_zeros(*bucket.shape[:3], num_buckets).scatter_add(3, bucket.long(), real)
    tokens = counts.sum(-1)
    most = tokens.clamp(max=num_buckets)  # buckets that can hold one
    entropy = torch.special.entr(counts / tokens[..., None]).sum(-1) / most.log()
    entropy = entropy[most > 1]
    return {"bucket_entropy": float(entropy.mean())} if len(entropy) else {}


def caught(
    q: Float[Tensor, "batch heads length head_dim"],
    group: Int[Tensor, "rounds batch heads length"],
    mask: Mask,
    order: Order,
    chunk_length: int,
) -> dict[str, float]:
    """The share that the keys a query sees in any round have of the weights of attention to all.

    Args:
        q: queries.
        group: tokens see others of their group alone; in order of their place in the sorted sequence.
        mask: of the batch.
        order, chunk_length: how tokens are cut into chunks.
    """
    length = q.shape[2]
    chosen = some_queries(q, length, q.device)
    place = torch.arange(length, device=q.device)
    own = place == chosen[:, None]
    logits = q[:, :, chosen] @ normalised(q).mT * q.shape[-1] ** -0.5 + SELF * own
    visible = visible_rows(mask, chosen, length, length)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for each in group:  # one round after the other, for the pairs are many
        slot = ranks(each) if order == "ranked" else each.argsort(dim=-1, stable=True).argsort(-1)
        chunk = slot // chunk_length
        apart = chunk[..., chosen, None] - chunk[..., None, :]
        near = apart.abs() <= 1 if order == "both" else (apart >= 0) & (apart <= 1)
        seen = seen | (near & (each[..., chosen, None] == each[..., None, :]))
    return coverage(logits, visible, seen & visible)
