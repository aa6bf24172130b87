"""Which tokens of a grid are hidden: so many of those that are real, drawn from torch's generator."""

from collections.abc import Callable
from math import ceil, exp, log
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from plugformer.interfaces import Grid

Masking = Literal["random", "blocks"]

NARROWEST = 0.3  # a block's sides to each other (Bao et al. 2022, algorithm 1)


def random_mask(grid: Grid, valid: Bool[Tensor, "length"], number: int, *, unit: int) -> Bool[Tensor, "length"]:
    """Squares of the grid, chosen uniformly (Xie et al. 2022, section 3.2; He et al. 2022, section 3).

    Args:
        grid: that tokens lie on, in raster order.
        valid: which of them are real.
        number: how many of those are hidden; of the last square only as many as are lacking.
        unit: side of a square in tokens; 1 hides each by itself.
    """
    units = Grid(grid.axes, tuple(ceil(size / unit) for size in grid.shape))
    order = torch.rand(len(units))[units.raster(grid.coordinates() // unit)]
    candidates = valid.nonzero()[:, 0]
    candidates = candidates[torch.randperm(len(candidates))]  # within a square, too, none comes first
    chosen = candidates[order[candidates].argsort(stable=True)[:number]]
    return torch.zeros_like(valid).index_fill(0, chosen, True)


def block_mask(grid: Grid, valid: Bool[Tensor, "length"], number: int, *, unit: int) -> Bool[Tensor, "length"]:
    """Rectangles of random size, shape and place, which may overlap (Bao et al. 2022, BEiT, algorithm 1).

    On a grid of one axis they are spans. They lie where real tokens do.

    Args:
        grid: of one or two axes, that tokens lie on, in raster order.
        valid: which of them are real.
        number: how many of those are hidden; the last rectangle is cut to what is lacking.
        unit: the smallest rectangle has as many tokens as a square of this side; smaller if fewer are lacking.
    """
    real, hidden = valid.reshape(grid.shape), torch.zeros(grid.shape, dtype=torch.bool)
    places = real.nonzero()
    while (lacking := number - int(hidden.sum())) > 0:
        block = torch.zeros_like(hidden)
        block[_block(places, smallest=min(unit ** len(grid.shape), lacking), largest=lacking)] = True
        hidden.view(-1)[(block & real & ~hidden).flatten().nonzero()[:lacking, 0]] = True
    return hidden.flatten()


def _block(places: Int[Tensor, "real axes"], *, smallest: int, largest: int) -> tuple[slice, ...]:
    """A rectangle inside the one around these places, of a number of tokens between these."""
    axes = places.shape[1]
    first, last = places.amin(0).tolist(), places.amax(0).tolist()
    drawn_size, drawn_ratio, *drawn_places = torch.rand(2 + axes).tolist()
    size = smallest + drawn_size * (largest - smallest)
    ratio = exp((2 * drawn_ratio - 1) * log(NARROWEST))
    sides = [size] if axes == 1 else [(size * ratio) ** 0.5, (size / ratio) ** 0.5]
    found = []
    for low, high, side, drawn in zip(first, last, sides, drawn_places, strict=True):
        whole = min(max(1, round(side)), high - low + 1)
        begin = low + int(drawn * (high - low + 2 - whole))
        found.append(slice(begin, begin + whole))
    return tuple(found)


MASKS: dict[Masking, Callable[..., Tensor]] = {"random": random_mask, "blocks": block_mask}
