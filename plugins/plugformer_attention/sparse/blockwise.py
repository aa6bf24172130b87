"""What mechanisms share that attend block by block: tokens into blocks and back, padding, decoding."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plugformer.interfaces import Attention, Capabilities, Mask
from plugformer_attention.diagnosing import few_samples
from plugformer_attention.heads import one_a_query_head
from plugformer_attention.precision import precise
from plugformer_attention.sparse.attention import attend
from plugformer_attention.sparse.coverage import coverage_of
from plugformer_attention.sparse.few import attend_few
from plugformer_attention.sparse.padding import Padding
from plugformer_attention.sparse.pattern import BlockPattern
from plugformer_attention.sparse.places import Blocks, blocks_of, leading_of, pad

DEARER = 8  # times that a query costs with a list of its own what it costs in a block


class Blockwise(Attention):
    """Softmax attention in which a pattern of blocks says which keys a query sees.

    A subclass says what the pattern is. Exact for every length and with padding on either side: what a token sees
    depends on nothing but its own sequence, and if causal on nothing behind it.

    Attributes:
        aligned: whether what a token sees depends on where in a block it stands, so that each sequence must begin where
            a block does.
    """

    capabilities = Capabilities(
        causality="strict",
        key_padding=True,
        segments=True,
        grouped_query=True,
        decoding="cache",
        room=True,
        divides=True,
        time_exponent=1.0,
        memory_exponent=1.0,
    )
    aligned: ClassVar[bool] = False

    def __init__(self, *, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.capabilities = replace(self.capabilities, block_length=block_size)

    @abstractmethod
    def pattern(self, blocks: Blocks, occupied: Tensor | None, *, causal: bool, device: torch.device) -> BlockPattern:
        """Who sees whom among the blocks of the lattice, numbered from 0.

        Args:
            blocks: how the tokens stand.
            occupied: bool `[batch or 1, places]`, where there is a token; None for everywhere.
            causal: a query sees its own place and those before it.
            device: of the pattern's tensors.
        """

    @abstractmethod
    def seen(self, place: Int[Tensor, "batch queries"], length: int) -> Int[Tensor, "batch heads queries seen"]:
        """The same of a few causal queries: the places of the keys that each sees, none twice.

        Negative ones, and those behind the query, count for nothing.

        Args:
            place: of the queries, counted from where the lattice begins; negative before it.
            length: of the longest sequence, beyond which no list need go.
        """

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch kv_heads keys head_dim"],
        v: Float[Tensor, "batch kv_heads keys head_dim"],
        mask: Mask,
        bias: Float[Tensor, "batch heads queries keys"] | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        queries, length = q.shape[2], k.shape[2]
        assert bias is None and mask.prefix is None, "declares neither"
        assert queries == length or (mask.causal and queries < length), "declares no cross-attention"
        leading = leading_of(mask, length)
        padding = Padding.of(mask.valid, leading) if self.aligned and leading is not None else None
        if mask.start is not None or (queries * DEARER < length and (leading or 0) <= length - queries):
            return self._of_few(q, k, v, mask, leading or 0, padding)
        q = pad(q, 2, length - queries, 0)
        if padding is None:
            out = self._of_all(q, k, v, mask)
        else:
            q, k, v = (padding.behind(part, 2) for part in (q, k, v))
            out = padding.in_front(self._of_all(q, k, v, padding.mask_behind(mask)), 2)
        return out[:, :, length - queries :]

    @torch.no_grad()
    def diagnose(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Mapping[str, float]:
        """`coverage`: the share that the keys a query sees have of full attention's weights."""
        length = k.shape[2]
        if mask.start is not None or q.shape[2] != length:
            return {}
        q, k, _, mask = few_samples(q.to(precise(q.dtype)), k.to(precise(k.dtype)), v, mask)
        leading = leading_of(mask, length)
        padding = Padding.of(mask.valid, leading) if self.aligned and leading is not None else None
        if padding is not None:
            q, k, mask = padding.behind(q, 2), padding.behind(k, 2), padding.mask_behind(mask)
        blocks, pattern = self._arrange(mask, k)
        k = one_a_query_head(k, q.shape[1])
        return coverage_of(pattern, blocks.spread(q, 2), blocks.spread(k, 2))

    def _of_all(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        k, v = (one_a_query_head(part, q.shape[1]) for part in (k, v))
        blocks, pattern = self._arrange(mask, k)
        q, k, v = (blocks.spread(part, 2) for part in (q, k, v))
        return blocks.collect(attend(q, k, v, pattern), 2)

    def _arrange(self, mask: Mask, k: Tensor) -> tuple[Blocks, BlockPattern]:
        """How tokens with these keys stand in blocks, and who sees whom."""
        blocks = blocks_of(mask, k.shape[2], self.block_size, shorten=k.device.type == "cpu")  # kernels want whole ones
        occupied = blocks.occupied(mask.valid)
        occupied = None if occupied is None else occupied.to(k.device)
        pattern = self.pattern(blocks, occupied, causal=mask.causal, device=k.device)
        segments = None if mask.segments is None else blocks.spread(mask.segments.expand(len(k), -1), 1)
        pattern = replace(pattern, occupied=occupied, segments=segments, causal=mask.causal)
        return blocks, pattern.behind_leads(blocks.lead_blocks)

    def _of_few(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, leading: int, padding: Padding | None) -> Tensor:
        """The cost is that of what they see, whatever the length."""
        assert mask.causal, "queries are the last tokens, or room for others follows them"
        queries, length = q.shape[2], k.shape[2]
        first = length - queries if mask.start is None else mask.start
        token = first + torch.arange(queries, device=k.device)
        front = torch.zeros_like(token[None, :1]) if padding is None else padding.count
        begin = leading + front  # [batch or 1, 1], where the lattice does
        place = token - begin
        places = self.seen(place, length - leading)
        hidden = (places < 0) | (places > place[:, None, :, None])
        seen = (places + begin[:, None, None]).clamp(0, length - 1)
        if leading:
            leads = torch.arange(leading, device=k.device).expand(*seen.shape[:3], -1)
            seen = torch.cat([seen, leads], 3)
            hidden = torch.cat([hidden, leads > token[:, None]], 3)
        if mask.valid is not None:
            hidden = hidden | ~_look_up(mask.valid, seen)
        if mask.segments is not None:
            own = mask.segments[:, token]
            hidden = hidden | (_look_up(mask.segments, seen) != own[:, None, :, None])
        return attend_few(q, k, v, seen, hidden)


def _look_up(x: Tensor, index: Tensor) -> Tensor:
    """`x [batch or 1, keys]` at `index [batch or 1, ...]`."""
    if len(index) == 1:
        return x[:, index[0]]
    return x.expand(len(index), -1).gather(1, index.flatten(1)).view(index.shape)
