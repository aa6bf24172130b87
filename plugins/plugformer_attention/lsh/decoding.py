"""LSH attention token by token, for chunks that are cut by rank within the bucket."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer_attention.lsh.attention import normalised
from plugformer_attention.lsh.sorting import ranks
from plugformer_attention.precision import precise

_PADDING = -1  # the bucket of padding


class Past(NamedTuple):
    """What is remembered of all tokens so far.

    That is all a cache of keys and values holds. A bound by each bucket's last two chunks would hold no less: the
    buckets of all rounds have room for more tokens than the longest sequence has.

    Attributes:
        keys, values: float `[batch, heads, length, head_dim]`.
        bucket, rank: int `[rounds, batch, heads, length]`; rank counts the tokens of the same bucket before.
    """

    keys: Tensor
    values: Tensor
    bucket: Tensor
    rank: Tensor

    @classmethod
    def of(cls, q: Tensor, v: Tensor, bucket: Tensor, valid: Tensor | None) -> "Past":
        """Of a first prompt."""
        bucket = _mark(bucket, valid)
        rows = torch.arange(bucket[..., 0].numel(), device=bucket.device).view(*bucket.shape[:-1], 1)
        group = rows * (bucket.max() + 2) + bucket + 1
        return cls(_keys(q), v, bucket, ranks(group))


def go_on(
    q: Float[Tensor, "batch heads new head_dim"],
    v: Float[Tensor, "batch heads new head_dim"],
    bucket: Int[Tensor, "rounds batch heads new"],
    past: Past | None,
    valid: Bool[Tensor, "batch new"] | None,
    chunk_length: int,
) -> tuple[Float[Tensor, "batch heads new head_dim"], Past]:
    """What the new tokens get, and what is remembered then."""
    bucket = _mark(bucket, valid)
    keys, values, buckets = _keys(q), v, bucket
    if past is not None:
        keys = torch.cat([past.keys, keys], 2)
        values = torch.cat([past.values, values], 2)
        buckets = torch.cat([past.bucket, buckets], -1)
    place = torch.arange(keys.shape[2], device=q.device)
    earlier = place < place[-q.shape[2] :, None]
    same = earlier & (bucket[..., :, None] == buckets[..., None, :]) & (bucket != _PADDING)[..., None]
    rank = same.sum(-1)
    rank_of_all = rank if past is None else torch.cat([past.rank, rank], -1)
    first = (rank // chunk_length - 1) * chunk_length
    rounds = (same & (rank_of_all[..., None, :] >= first[..., None])).sum(0)  # in how many a key is seen
    dtype = precise(q.dtype)
    logits = q.to(dtype) @ keys.to(dtype).mT * q.shape[-1] ** -0.5 + rounds.to(dtype).log()
    alone = (rounds == 0).all(-1, keepdim=True)
    out = logits.masked_fill(alone, 0.0).softmax(-1) @ values.to(dtype)
    out = torch.where(alone, v, out.to(v.dtype))
    if valid is not None:
        out = out.masked_fill(~valid[:, None, :, None], 0.0)
    return out, Past(keys, values, buckets, rank_of_all)


def _keys(q: Tensor) -> Tensor:
    return normalised(q.to(precise(q.dtype))).to(q.dtype)


def _mark(bucket: Tensor, valid: Tensor | None) -> Tensor:
    return bucket if valid is None else bucket.masked_fill(~valid[:, None], _PADDING)
