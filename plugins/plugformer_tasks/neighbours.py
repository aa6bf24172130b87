"""The nearest token that could be copied."""

import torch
from jaxtyping import Int
from torch import Tensor

FAR = 2**40


def nearest_visible(
    coordinates: Int[Tensor, "#batch length axes"],
    hidden: Int[Tensor, "batch hidden"],
    visible: Int[Tensor, "batch visible"],
) -> Int[Tensor, "batch hidden"]:
    """For each hidden place the visible one that is nearest on the grid; of several the first in raster order.

    Args:
        coordinates: of all tokens.
        hidden, visible: places in raster order, filled up with -1.
    """
    rows = zip(coordinates.expand(len(hidden), -1, -1), hidden, visible, strict=True)
    return torch.stack([_nearest(*row) for row in rows])  # one by one: a batch of tables could be too large


def _nearest(
    coordinates: Int[Tensor, "length axes"], hidden: Int[Tensor, "hidden"], visible: Int[Tensor, "visible"]
) -> Int[Tensor, "hidden"]:
    there, here = coordinates[visible.clamp(min=0)], coordinates[hidden.clamp(min=0)]
    distance = (here[:, None] - there).square().sum(-1).masked_fill(visible < 0, FAR)
    first = distance * len(visible) + torch.arange(len(visible), device=visible.device)
    return visible[first.argmin(1)].clamp(min=0)
