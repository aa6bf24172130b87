"""LSH attention token by token, for chunks that are cut by rank within the bucket."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer_attention.lsh.attention import normalised
from plugformer_attention.lsh.memory import Grown
from plugformer_attention.lsh.sorting import ranks
from plugformer_attention.precision import precise

_PADDING = -1  # the bucket of padding


class Past(NamedTuple):
    """What is remembered of all tokens so far.

    That is all a cache of keys and values holds. A bound by each bucket's last two chunks would hold no less: the
    buckets of all rounds have room for more tokens than the longest sequence has.

    Attributes:
        keys, values: float `[batch, heads, length, head_dim]`.
        bucket, rank: int `[batch, heads, rounds, length]`; rank counts the tokens of the same bucket before.
    """

    keys: Grown
    values: Grown
    bucket: Grown
    rank: Grown

    @classmethod
    def of(cls, q: Tensor, v: Tensor, bucket: Tensor, valid: Tensor | None) -> "Past":
        """Of a first prompt."""
        bucket = _mark(bucket, valid)
        rows = torch.arange(bucket[..., 0].numel(), device=bucket.device).view(*bucket.shape[:-1], 1)
        group = rows * (bucket.max() + 2) + bucket + 1
        return cls.begin(_keys(q), v, bucket, ranks(group).int())

    @classmethod
    def begin(cls, keys: Tensor, values: Tensor, bucket: Tensor, rank: Tensor) -> "Past":
        return cls(Grown(keys, 2), Grown(values, 2), Grown(bucket, 3), Grown(rank, 3))


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
    if past is None:
        past = Past.begin(q[:, :, :0], v[:, :, :0], bucket[..., :0], bucket[..., :0])
    keys, values, buckets = past.keys.extend(_keys(q)), past.values.extend(v), past.bucket.extend(bucket)
    place = torch.arange(keys.seen.shape[2], device=q.device)
    earlier = place < place[-q.shape[2] :, None]
    same = earlier & (bucket[..., :, None] == buckets.seen[..., None, :]) & (bucket != _PADDING)[..., None]
    rank = same.sum(-1, dtype=torch.int32)
    ranks_of_all = past.rank.extend(rank)
    first = (rank // chunk_length - 1) * chunk_length
    rounds = (same & (ranks_of_all.seen[..., None, :] >= first[..., None])).sum(2)  # in how many a key is seen
    dtype = precise(q.dtype)
    logits = q.to(dtype) @ keys.seen.to(dtype).mT * q.shape[-1] ** -0.5 + rounds.to(dtype).log()
    alone = (rounds == 0).all(-1, keepdim=True)
    out = logits.masked_fill(alone, 0.0).softmax(-1) @ values.seen.to(dtype)
    out = torch.where(alone, v, out.to(v.dtype))
    if valid is not None:
        out = out.masked_fill(~valid[:, None, :, None], 0.0)
    return out, Past(keys, values, buckets, ranks_of_all)


def _keys(q: Tensor) -> Tensor:
    return normalised(q.to(precise(q.dtype))).to(q.dtype)


def _mark(bucket: Int[Tensor, "rounds batch heads new"], valid: Tensor | None) -> Tensor:
    """Batch first, and padding in no bucket."""
    bucket = rearrange(bucket, "rounds batch heads new -> batch heads rounds new")
    return bucket if valid is None else bucket.masked_fill(~valid[:, None, None], _PADDING)
