"""What mechanisms share that attend block by block: tokens into blocks and back, padding, decoding."""

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from plugformer.interfaces import Attention, Capabilities, Mask
from plugformer_attention.sparse.attention import attend
from plugformer_attention.sparse.pattern import BlockPattern
from plugformer_attention.sparse.places import Blocks, blocks_of, pad


class Blockwise(Attention):
    """Softmax attention in which a pattern of blocks says which keys a query sees.

    A subclass says what the pattern is. Exact for every length and with padding behind: what a token sees depends on
    nothing but its own sequence, and if causal on nothing behind it. Padding in front is never seen, but blocks are
    counted from it.
    """

    capabilities = Capabilities(
        causality="strict",
        key_padding=True,
        segments=True,
        decoding="cache",
        time_exponent=1.0,
        memory_exponent=1.0,
    )

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

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads keys head_dim"],
        v: Float[Tensor, "batch heads keys head_dim"],
        mask: Mask,
        bias: Float[Tensor, "batch heads queries keys"] | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        queries, length = q.shape[2], k.shape[2]
        assert bias is None and mask.prefix is None, "declares neither"
        assert queries == length or (mask.causal and queries < length), "declares no cross-attention"
        blocks = blocks_of(mask, length, self.block_size, shorten=k.device.type == "cpu")  # kernels want whole ones
        occupied = blocks.occupied(mask.valid)
        occupied = None if occupied is None else occupied.to(k.device)
        pattern = self.pattern(blocks, occupied, causal=mask.causal, device=k.device)
        segments = None if mask.segments is None else blocks.spread(mask.segments.expand(len(k), -1), 1)
        pattern = replace(pattern, occupied=occupied, segments=segments, causal=mask.causal)
        pattern = pattern.behind_leads(blocks.lead_blocks)
        k, v = blocks.spread(k, 2), blocks.spread(v, 2)
        # Of fewer queries than keys, which are the last tokens, the last blocks alone are needed.
        missing = length - queries
        first = blocks.first_block(missing)
        if not first:
            out = attend(blocks.spread(pad(q, 2, missing, 0), 2), k, v, pattern)
            return blocks.collect(out, 2).narrow(2, missing, queries)
        before = missing - blocks.first_token(first)
        after = blocks.places - first * blocks.block_size - before - queries
        return attend(pad(q, 2, before, after), k, v, pattern.since(first)).narrow(2, before, queries)
