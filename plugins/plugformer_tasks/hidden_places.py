"""Targets of the tasks that predict hidden tokens of a grid."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plugformer.errors import UserError
from plugformer.interfaces import Features, Grid, Sample, Targets
from plugformer_tasks.grid_masks import MASKS, Masking

UNITS: dict[Masking, int] = {"random": 1, "blocks": 4}  # 16 tokens are BEiT's smallest block


class HiddenPlaces(Targets):
    """Which tokens are hidden and which visible; padding is neither.

    Features, int: `hidden`, `[hidden]`, and `visible`, `[visible]`, places in raster order, in a batch filled up with
    -1. How many there are of each depends on the number of real tokens alone: at least one of each, and nothing is
    hidden of a sequence of one token.

    Args:
        grid: that tokens lie on.
        share: of the real tokens, those that are hidden.
        masking, unit: as options of the task.

    Raises:
        UserError: options out of range, or a grid that blocks can't be drawn on.
    """

    def __init__(self, *, grid: Grid, share: float, masking: Masking, unit: int | None) -> None:
        if not 0 < share < 1:
            raise UserError(f"task.share={share}: of continuous tokens, must be more than 0 and less than 1.")
        if unit is not None and unit < 1:
            raise UserError(f"task.unit={unit}: must be at least 1.")
        if masking == "blocks" and len(grid.shape) > 2:
            raise UserError(
                f"task.masking=blocks: blocks are drawn on a grid of 1 or 2 axes; that of this tokenizer has "
                f"{len(grid.shape)}.\n  Set task.masking=random."
            )
        self.grid = grid
        self.share = share
        self.masking: Masking = masking
        self.unit = UNITS[masking] if unit is None else unit

    def encode(self, sample: Sample, inputs: Features) -> Features:
        valid = inputs.get("valid", torch.ones(len(self.grid), dtype=torch.bool))
        hidden = MASKS[self.masking](self.grid, valid, self.number(int(valid.sum())), unit=self.unit)
        return {"hidden": hidden.nonzero()[:, 0], "visible": (valid & ~hidden).nonzero()[:, 0]}

    def example(self, inputs: Features) -> Features:
        place, number = torch.arange(len(self.grid)), self.number(len(self.grid))
        return {"hidden": place[:number], "visible": place[number:]}

    def collate(self, features: Sequence[Features]) -> Features:
        return {key: _filled([each[key] for each in features]) for key in ("hidden", "visible")}

    def number(self, real: int) -> int:
        """How many of so many real tokens are hidden."""
        return max(0, min(max(1, round(self.share * real)), real - 1))


def _filled(places: Sequence[Tensor]) -> Tensor:
    """int `[batch, places]`, at least one place wide."""
    filled = pad_sequence(list(places), batch_first=True, padding_value=-1)
    return filled if filled.shape[1] else filled.new_full((len(places), 1), -1)
