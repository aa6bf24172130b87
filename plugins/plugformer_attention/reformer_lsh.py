"""LSH attention of the Reformer (Kitaev, Kaiser and Levskaya 2020)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities, Mask
from plugformer.nn.replay import decide
from plugformer_attention.diagnosing import few_samples
from plugformer_attention.lsh import reference
from plugformer_attention.lsh.attention import attend
from plugformer_attention.lsh.decoding import Past, go_on
from plugformer_attention.lsh.diagnosis import bucket_entropy, caught
from plugformer_attention.lsh.hashing import Hashing, choose_num_buckets
from plugformer_attention.lsh.sorting import Order, Window, sort_slots
from plugformer_attention.precision import precise


class ReformerLSH(Attention):
    """Attention among tokens of one hash bucket (Kitaev et al. 2020, section 2), with queries for keys.

    Keys are queries of length 1. Several random hashes, the rounds, put vectors at a small angle into one bucket. In
    each round the tokens are sorted by bucket and cut into chunks, and a token sees those of its bucket in its own
    chunk and the one before (if bidirectional, also the one behind). The rounds' outputs are weighted by the softmax of
    their log-sum-exps, so a key that is seen in several rounds counts as often. A token sees itself only where it sees
    nothing else in any round. Padding sorts behind everything, and each segment has buckets of its own.

    Args:
        num_rounds: independent hashes; more find more of the near keys, at a cost in proportion.
        num_buckets: of one hash; even, and above 128 a multiple of 4; 1 for no hashing. null for about two a chunk of
            the longest sequence.
        chunk_length: tokens in a chunk.
        causality: how causal attention cuts chunks. strict: each bucket by itself, counting earlier tokens alone, so
            that no future token changes anything. gradient: the sorted sequence, as in the paper, where future tokens
            move past ones between chunks: no gradient reaches them, but they change past outputs.
        rehash_every: optimiser steps after which the hashes are drawn anew; null or 0 for never.

    Raises:
        UserError: numbers that no hash or chunk can have.
    """

    capabilities = Capabilities(
        causality="strict",
        key_padding=True,
        segments=True,
        shared_query_key=True,
        block_length=64,
        decoding="state",
        state_grows=True,
        divides=True,
        time_exponent=1.0,
        memory_exponent=1.0,
    )
    exact_options: ClassVar[Mapping[str, Any]] = {"num_rounds": 1, "num_buckets": 1, "chunk_length": 64}
    finer_options: ClassVar[Sequence[Mapping[str, Any]]] = tuple(
        {"num_rounds": rounds, "num_buckets": 4, "chunk_length": 64} for rounds in (1, 2, 4, 8, 16)
    )

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        max_length: int,
        layer: int,
        seed: int,
        num_rounds: int = 4,
        num_buckets: int | None = None,
        chunk_length: int = 64,
        causality: Literal["strict", "gradient"] = "strict",
        rehash_every: int | None = None,
    ) -> None:
        super().__init__()
        for name, number, usual in (("num_rounds", num_rounds, 4), ("chunk_length", chunk_length, 64)):
            if number < 1:
                raise UserError(f"attention.{name}={number}: must be at least 1.\n  {usual} is usual.")
        if rehash_every is not None and rehash_every < 0:
            raise UserError(
                f"attention.rehash_every={rehash_every}: rotations can't be drawn anew so often.\n"
                "  Set a number of optimiser steps, or 0 for never."
            )
        if num_buckets is None:
            num_buckets = choose_num_buckets(max_length, chunk_length)
        self.chunk_length = chunk_length
        self.causality = causality
        self.rehash_every = rehash_every
        self.hashing = Hashing(
            num_rounds=num_rounds,
            num_buckets=num_buckets,
            num_heads=num_heads,
            head_dim=head_dim,
            layer=layer,
            seed=seed,
        )
        if num_buckets > max(2, max_length):
            warnings.warn(
                f"attention.num_buckets={num_buckets} for at most {max_length} tokens: most tokens will be alone in "
                f"their buckets and see nothing else. Usual is {choose_num_buckets(max_length, chunk_length)}.",
                stacklevel=2,
            )
        self.capabilities = replace(
            ReformerLSH.capabilities,
            causality=causality,
            block_length=chunk_length,
            decoding="state" if causality == "strict" else "none",
        )

    def forward(
        self,
        q: Float[Tensor, "batch heads length head_dim"],
        k: Float[Tensor, "batch heads length head_dim"],
        v: Float[Tensor, "batch heads length head_dim"],
        mask: Mask,
        bias: Float[Tensor, "batch heads length length"] | None = None,
    ) -> Float[Tensor, "batch heads length head_dim"]:
        """`k` is `q`, and not looked at."""
        order, length = self._order(mask), q.shape[2]
        window = Window.of(order, length, self.chunk_length)
        lacking = -length % window.block
        group = _groups(decide(lambda: self.hashing(q)), mask, self.hashing.num_buckets, lacking)
        slots = sort_slots(group, window, ranked=self.chunk_length if order == "ranked" else None)
        out = attend(_rows(q, lacking), _rows(v, lacking), slots, window)
        batch, heads = q.shape[:2]
        out = rearrange(out, "(batch length heads) dim -> batch heads length dim", batch=batch, heads=heads)[
            :, :, :length
        ]
        return out if mask.valid is None else out.masked_fill(~mask.valid[:, None, :, None], 0.0)

    def step(
        self,
        q: Float[Tensor, "batch heads new head_dim"],
        k: Float[Tensor, "batch heads new head_dim"],
        v: Float[Tensor, "batch heads new head_dim"],
        state: Past | None,
        valid: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Tensor, Past]:
        if self.causality != "strict":
            return super().step(q, k, v, state, valid)
        if state is None and q.shape[2] > 1:  # a prompt; its hashes are the same when they are made once more
            mask = Mask(valid=valid, causal=True)
            return self(q, k, v, mask), Past.of(q, v, self.hashing(q), mask.valid)
        return go_on(q, v, self.hashing(q), state, valid, self.chunk_length)

    def keep_heads(self, first: int, count: int) -> None:
        self.hashing.keep_heads(first, count)

    def before_step(self, step: int) -> None:
        if self.rehash_every and self.hashing.generation != step // self.rehash_every:
            self.hashing.draw(step // self.rehash_every)

    @torch.no_grad()
    def diagnose(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Mapping[str, float]:
        """`bucket_entropy`: how evenly buckets are filled, from 0 to 1. `coverage`: the share that the keys a token
        sees have of the weights of attention to all."""
        q, _, _, mask = few_samples(q.to(precise(q.dtype)), k, v, mask)
        bucket = self.hashing(q)
        group = _groups(bucket, mask, self.hashing.num_buckets, 0)
        return {
            **bucket_entropy(bucket, mask.valid, self.hashing.num_buckets),
            **caught(q, group, mask, self._order(mask), self.chunk_length),
        }

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        visible = reference.visible(self.hashing(q), mask, self._order(mask), self.chunk_length)
        return reference.attend(q, v, visible)

    def exact(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Softmax attention to the normalised queries of all other tokens, and to itself where there is no other."""
        return reference.attend(q, v, reference.all_visible(q, mask)[None])

    def _order(self, mask: Mask) -> Order:
        if not mask.causal:
            return "both"
        return "ranked" if self.causality == "strict" else "sorted"


def _groups(
    bucket: Int[Tensor, "rounds batch heads length"], mask: Mask, num_buckets: int, lacking: int
) -> Int[Tensor, "rounds batch heads padded"]:
    """Numbers that are equal for tokens that may see each other, ordered by segment, then bucket, within each round,
    sample and head. Each padding token, and each of the `lacking` ones to be put behind, is on its own, behind all."""
    rounds, batch, heads, length = bucket.shape
    group = bucket.long()
    last = torch.full((), num_buckets, device=bucket.device)
    if mask.segments is not None:
        segment = mask.segments - mask.segments.min()
        group = group + num_buckets * segment[:, None]
        last = num_buckets * (segment.max() + 1)
    alone = last + torch.arange(length + lacking, device=bucket.device)
    if mask.valid is not None:
        group = torch.where(mask.valid[:, None], group, alone[:length])
    group = torch.cat([group, alone[length:].expand(rounds, batch, heads, lacking)], -1)
    row = torch.arange(rounds * batch * heads, device=bucket.device).view(rounds, batch, heads, 1)
    return row * (last + length + lacking) + group


def _rows(x: Float[Tensor, "batch heads length head_dim"], lacking: int) -> Float[Tensor, "tokens head_dim"]:
    """All tokens one below the other, in the order that the wrapper's projections leave them in; no copy as a rule."""
    x = rearrange(x, "batch heads length dim -> batch length heads dim")
    return rearrange(F.pad(x, (0, 0, 0, 0, 0, lacking)), "batch length heads dim -> (batch length heads) dim")
