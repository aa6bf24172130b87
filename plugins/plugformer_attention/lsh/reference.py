"""LSH attention by the book (Kitaev et al. 2020, section 2): a dense mask a round, and the rounds' outputs combined."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer_attention.lsh.attention import normalised
from plugformer_attention.lsh.sorting import Order

SELF = -1e5  # added to the logit of a token with itself


def attend(
    q: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length head_dim"],
    visible: Bool[Tensor, "rounds batch heads length length"],
) -> Float[Tensor, "batch heads length head_dim"]:
    logits = q @ normalised(q).mT * q.shape[-1] ** -0.5
    logits = logits + SELF * torch.eye(q.shape[2], dtype=q.dtype, device=q.device)
    logits = torch.where(visible, logits, float("-inf"))
    nothing = ~visible.any(-1, keepdim=True)
    logits = logits.masked_fill(nothing, 0.0)
    rounds = logits.softmax(-1) @ v
    weights = logits.logsumexp(-1, keepdim=True).softmax(0)
    return (weights * rounds).sum(0).masked_fill(nothing.all(0), 0.0)


def visible(
    bucket: Int[Tensor, "rounds batch heads length"], mask: Mask, order: Order, chunk_length: int
) -> Bool[Tensor, "rounds batch heads length length"]:
    """Which keys each query sees in each round."""
    length = bucket.shape[-1]
    place = torch.arange(length, device=bucket.device)
    valid = torch.ones(1, length, dtype=torch.bool, device=bucket.device) if mask.valid is None else mask.valid
    valid = valid[:, None]
    segment = torch.zeros_like(valid, dtype=torch.long) if mask.segments is None else mask.segments[:, None]
    same = (bucket[..., :, None] == bucket[..., None, :]) & (segment[..., :, None] == segment[..., None, :])
    same = same & valid[..., :, None] & valid[..., None, :]
    if order == "ranked":
        chunk = (same & (place < place[:, None])).sum(-1) // chunk_length
    else:
        # A token's slot is the number of tokens that sort before it.
        ahead = torch.zeros_like(same)
        for part in (place.expand_as(bucket), bucket, segment.expand_as(bucket), (~valid).long().expand_as(bucket)):
            mine, other = part[..., :, None], part[..., None, :]
            ahead = (other < mine) | ((other == mine) & ahead)
        chunk = ahead.sum(-1) // chunk_length
    apart = chunk[..., :, None] - chunk[..., None, :]
    if order == "both":
        return same & (apart.abs() <= 1)
    return same & (apart >= 0) & (apart <= 1) & (place <= place[:, None])


def all_visible(q: Tensor, mask: Mask) -> Bool[Tensor, "batch heads length length"]:
    batch, heads, length, _ = q.shape
    dense = mask.dense(length, length, q.device)
    dense = torch.ones(1, 1, length, length, dtype=torch.bool, device=q.device) if dense is None else dense
    return dense.expand(batch, heads, length, length)
