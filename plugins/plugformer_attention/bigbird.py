"""BigBird: a window, a few blocks that see and are seen by all, and a few at random."""

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Mask
from plugformer.nn.initialise import seed_for
from plugformer_attention.sparse.blockwise import Blockwise
from plugformer_attention.sparse.pattern import BlockPattern, own_block_causal, without_gaps
from plugformer_attention.sparse.places import Blocks
from plugformer_attention.sparse.reference import Choice, bigbird_visibility, softmax_over


class BigBird(Blockwise):
    """Block-sparse attention (Zaheer et al. 2020, section 2).

    Tokens stand in blocks. A query sees its own block and those around it, global blocks, and random blocks; queries
    of global blocks see everything. Tokens at the front that lie on no grid, such as a class token, are global as well
    (the extended construction, ETC; the global blocks are the internal one, ITC). No block is counted twice where the
    three kinds meet, and a sequence too short for all of them has fewer: all of it is seen.

    Random blocks are drawn once for each layer, head and query block, and stay. They are distinct, and none lies in the
    window or is global. A draw is a number between 0 and 1 that a sequence scales to its own number of blocks, so
    padding moves nothing; if causal it is scaled to the blocks before the window. Draws are kept for `max_length`
    tokens and repeat behind them.

    On a grid of two or more axes, such as an image's patches, blocks are tiles of it, and the window is the tiles
    around one: 3 means 3 x 3. Causal order is the sequence's, so there blocks are runs of it.

    Args:
        block_size: tokens of a block.
        num_window_blocks: blocks of the window along each axis, an odd number; if causal, the own one and those before.
        num_random_blocks: random blocks that each query block sees.
        num_global_blocks: blocks that all see and that see all, in turn from the front and from the back: the first,
            the last, the second and so on. If causal, all from the front.

    Raises:
        UserError: an option that makes no pattern.
    """

    aligned: ClassVar = True
    exact_options: ClassVar = {"block_size": 4, "num_random_blocks": 16}
    finer_options = tuple({"block_size": 4, "num_random_blocks": number} for number in (1, 4, 8, 16))

    def __init__(
        self,
        *,
        num_heads: int,
        max_length: int,
        layer: int,
        seed: int,
        block_size: int = 64,
        num_window_blocks: int = 3,
        num_random_blocks: int = 3,
        num_global_blocks: int = 2,
    ) -> None:
        super().__init__(block_size=block_size)
        _at_least(1, block_size=block_size, num_window_blocks=num_window_blocks)
        _at_least(0, num_random_blocks=num_random_blocks, num_global_blocks=num_global_blocks)
        if num_window_blocks % 2 == 0:
            raise UserError(
                f"attention.num_window_blocks={num_window_blocks} is even: a window has as many blocks on each side.\n"
                f"  Set it to {num_window_blocks - 1} or {num_window_blocks + 1}."
            )
        self.num_window_blocks, self.num_global_blocks = num_window_blocks, num_global_blocks
        # Integers, so that no change of type moves a block. Those of a smaller number are the first of a larger.
        shape = (num_random_blocks, num_heads, max(1, -(-max_length // block_size)))
        generator = torch.Generator().manual_seed(seed_for(seed, "bigbird", layer))
        draws = torch.randint(2**31, shape, generator=generator, dtype=torch.int32, device="cpu")
        self.draws: Int[Tensor, "random heads blocks"]
        self.register_buffer("draws", draws.to(torch.empty(0).device))

    def keep_heads(self, first: int, count: int) -> None:
        self.draws = self.draws[:, first : first + count].clone()

    def pattern(self, blocks: Blocks, occupied: Tensor | None, *, causal: bool, device: torch.device) -> BlockPattern:
        number = torch.arange(len(blocks.lattice), device=device)
        if causal:
            sees = self._see_before(number[None], len(number))
            return BlockPattern(blocks.block_size, sees, own_block_causal(blocks.block_size, sees.shape[3], device))
        count = _num_real(blocks, occupied, device)
        reach = torch.Size([self.num_window_blocks // 2] * len(blocks.lattice.shape))
        window = blocks.neighbours(blocks.offsets(reach, causal=False, device=device)).expand(len(count), -1, -1)
        window = window.masked_fill(window >= count[:, :, None], -1)  # [batch, blocks, window], the own block first
        all_see = self._global_blocks(count)  # [batch, globals]
        others = all_see[:, None].expand(-1, len(number), -1)
        sees = self._see(number[None], window, others, count.expand(-1, len(number)))
        return BlockPattern(blocks.block_size, without_gaps(sees, len(number)), overseers=all_see)

    def seen(self, place: Int[Tensor, "batch queries"], length: int) -> Int[Tensor, "batch heads queries seen"]:
        size = self.block_size
        sees = self._see_before(place.div(size, rounding_mode="floor"), -(-length // size))
        places = sees[..., None] * size + torch.arange(size, device=place.device)
        return places.masked_fill(sees[..., None] < 0, -1).flatten(3)

    def _see_before(
        self, number: Int[Tensor, "batch blocks"], num_blocks: int
    ) -> Int[Tensor, "batch heads blocks seen"]:
        """What these blocks see if causal, whatever comes behind them; of `num_blocks` in all."""
        own, reach = number[..., None], self.num_window_blocks - 1
        window = (own - torch.arange(reach + 1, device=number.device)).clamp(min=-1)
        turn = torch.arange(self.num_global_blocks, device=number.device)
        others = torch.where(turn <= own, turn, -1)
        return without_gaps(self._see(number, window, others, (number - reach).clamp(min=0)), num_blocks)

    def _see(
        self,
        number: Int[Tensor, "#batch blocks"],
        window: Int[Tensor, "batch blocks window"],
        others: Int[Tensor, "batch blocks globals"],
        end: Int[Tensor, "batch blocks"],
    ) -> Int[Tensor, "batch heads blocks seen"]:
        """Window, globals and random blocks before `end`, none twice."""
        others = others.masked_fill((others[..., None] == window[:, :, None]).any(-1), -1)
        taken = torch.cat([window, others], dim=2)[:, None]
        drawn = self._random_blocks(number, taken, end[:, None])
        return torch.cat([taken.expand(-1, drawn.shape[1], -1, -1), drawn], dim=3)

    def _global_blocks(self, count: Int[Tensor, "batch 1"]) -> Int[Tensor, "batch globals"]:
        """Their numbers; -1 where a sequence is too short for so many."""
        turn = torch.arange(self.num_global_blocks, device=count.device)
        from_front = torch.where(turn % 2 == 0, turn // 2, count - 1 - turn // 2)
        return torch.where(turn < count, from_front, -1)

    def _random_blocks(
        self,
        number: Int[Tensor, "#batch blocks"],
        taken: Int[Tensor, "batch 1 blocks taken"],
        end: Int[Tensor, "batch 1 blocks"],
    ) -> Int[Tensor, "batch heads blocks random"]:
        """Blocks before `end`, without those taken; -1 where none is left."""
        draws = self.draws[:, :, number % self.draws.shape[2]].movedim(2, 1)  # [random, batch, heads, blocks]
        taken = torch.where((taken < 0) | (taken >= end[..., None]), 2**31, taken)
        taken = taken.expand(-1, draws.shape[2], -1, -1)
        drawn = []
        for draw in draws.long():
            taken = taken.sort(-1).values
            left = end - (taken < 2**31).sum(-1)
            rank = draw * left >> 31
            # What has this rank among those left has as many more before it as are taken up to there.
            skipped = taken - torch.arange(taken.shape[-1], device=end.device) <= rank[..., None]
            block = torch.where(left > 0, rank + skipped.sum(-1), -1)
            drawn.append(block)
            taken = torch.cat([taken, torch.where(block < 0, 2**31, block)[..., None]], dim=-1)
        return torch.stack(drawn, -1) if drawn else taken[..., :0]

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        choice = Choice(self.block_size, self.num_window_blocks, self.num_global_blocks, self.draws)
        return softmax_over(bigbird_visibility(choice, q, k, mask), q, k, v)


def _num_real(blocks: Blocks, occupied: Tensor | None, device: torch.device) -> Int[Tensor, "batch 1"]:
    """Blocks on the lattice up to the last that holds a token."""
    if occupied is None:
        return torch.full((1, 1), len(blocks.lattice), device=device)
    held = occupied.unflatten(1, (-1, blocks.block_size))[:, blocks.lead_blocks :].any(-1)
    return (held * torch.arange(1, len(blocks.lattice) + 1, device=device)).amax(1, keepdim=True)


def _at_least(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise UserError(f"attention.{name}={value} is too small.\n  It can be {least} or more.")
