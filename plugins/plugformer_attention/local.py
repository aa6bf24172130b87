"""A plain sliding window."""

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Mask
from plugformer_attention.sparse.blockwise import Blockwise
from plugformer_attention.sparse.pattern import BlockPattern
from plugformer_attention.sparse.places import Blocks
from plugformer_attention.sparse.reference import local_visibility, softmax_over

BLOCK_SIZE = 64  # tokens that are gathered together; it changes the speed alone


class Local(Blockwise):
    """Sliding-window attention (Beltagy et al. 2020, section 3.1): a query sees the tokens near to it.

    Tokens at the front that lie on no grid, such as a class token, see and are seen by all. On a grid of two or more
    axes, such as an image's patches, near are the tokens at most `window` away along every axis (a ball in the
    Chebyshev distance). Causal order is the sequence's, so there the window is one of the sequence.

    Args:
        window: how many tokens to each side a query sees besides its own; if causal, how many before it.

    Raises:
        UserError: `window` is negative.
    """

    exact_options: ClassVar = {"window": 63}
    finer_options = tuple({"window": window} for window in (2, 8, 24, 63))

    def __init__(self, *, window: int = 64) -> None:
        super().__init__(block_size=BLOCK_SIZE)
        if window < 0:
            raise UserError(f"attention.window={window} is negative.\n  0 is a token alone, 64 sees 64 to each side.")
        self.window = window

    def pattern(self, blocks: Blocks, occupied: Tensor | None, *, causal: bool, device: torch.device) -> BlockPattern:
        sides = blocks.tile.shape
        offsets = blocks.offsets(torch.Size(-(-self.window // side) for side in sides), causal=causal, device=device)
        inside = blocks.inside(device)
        keys = (offsets[:, None] * torch.tensor(sides, device=device) + inside).flatten(0, 1)
        ahead = keys - inside[:, None]  # [block_size, places, axes]
        within = (ahead.abs() <= self.window).all(-1)
        if causal:
            within &= (ahead <= 0).all(-1)
        return BlockPattern(blocks.block_size, blocks.neighbours(offsets)[None, None], within)

    def seen(self, place: Int[Tensor, "batch queries"], length: int) -> Int[Tensor, "batch heads queries seen"]:
        return place[:, None, :, None] - torch.arange(min(self.window + 1, length), device=place.device)

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return softmax_over(local_visibility(self.window, q, k, mask), q, k, v)
