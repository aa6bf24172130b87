"""Which blocks of keys each block of queries sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class BlockPattern:
    """Who sees whom.

    Attributes:
        block_size: places of a block.
        sees: int `[batch or 1, heads or 1, query_blocks, seen]`, the key blocks that a query block sees, none twice;
            -1 for none. The first is the query block itself.
        within: bool `[block_size, seen * block_size]`, which places of the listed blocks a place sees, the same for all
            query blocks; None for all.
        overseers: int `[batch or 1, overseers]`, blocks whose queries see every key, or as `causal` every key so far;
            -1 for none. None if there are none at all.
        occupied: bool `[batch or 1, keys]`, the places that hold a token; None if all do.
        segments: int `[batch, keys]`, a query sees keys of its own segment only.
        causal: whether overseers see only what is not behind them; for the others `within` and `sees` say it.
    """

    block_size: int
    sees: Int[Tensor, "#batch #heads query_blocks seen"]
    within: Bool[Tensor, "block_size places"] | None = None
    overseers: Int[Tensor, "#batch overseers"] | None = None
    occupied: Bool[Tensor, "#batch keys"] | None = None
    segments: Int[Tensor, "batch keys"] | None = None
    causal: bool = False

    def behind_leads(self, lead_blocks: int) -> BlockPattern:
        """The same with so many more blocks in front, which see all and are seen by all."""
        if not lead_blocks:
            return self
        lead = torch.arange(lead_blocks, device=self.sees.device)
        sees = torch.where(self.sees < 0, -1, self.sees + lead_blocks)
        sees = torch.cat([sees, lead.expand(*sees.shape[:3], -1)], dim=3)
        own = F.pad(lead[:, None], (0, sees.shape[3] - 1), value=-1).expand(*sees.shape[:2], -1, -1)
        within = None
        if self.within is not None:
            within = F.pad(self.within, (0, lead_blocks * self.block_size), value=True)
        overseers = lead[None]
        if self.overseers is not None:
            others = torch.where(self.overseers < 0, -1, self.overseers + lead_blocks)
            overseers = torch.cat([lead.expand(len(others), -1), others], dim=1)
        return replace(self, sees=torch.cat([own, sees], dim=2), within=within, overseers=overseers)


def own_block_causal(block_size: int, seen: int, device: torch.device) -> Bool[Tensor, "block_size places"]:
    """`within` where the own block is seen up to a query's own place, and the others are before it."""
    before = torch.ones(block_size, seen * block_size, dtype=torch.bool, device=device)
    return before.tril_(0).logical_or_(torch.arange(seen * block_size, device=device) >= block_size)


def without_gaps(
    sees: Int[Tensor, "batch heads query_blocks seen"], num_blocks: int
) -> Int[Tensor, "batch heads query_blocks fewer"]:
    """Lists no longer than there are blocks, for sequences too short to fill them; the first stays the first."""
    if sees.shape[3] <= num_blocks:
        return sees
    order = (sees < 0).sort(dim=3, stable=True).indices[..., :num_blocks]
    return sees.gather(3, order)
