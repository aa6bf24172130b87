"""Samples of a batch mixed with each other: their numbers (Zhang et al. 2018, mixup) or parts of their pictures
(Yun et al. 2019, CutMix)."""

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta

from plugformer.errors import UserError
from plugformer.interfaces import Features


def check_mixing(**options: float) -> None:
    """
    Raises:
        UserError: the parameter of a Beta distribution that is negative or no finite number; 0 stands for none.
    """
    for name, alpha in options.items():
        if not 0 <= alpha < inf:
            raise UserError(f"tokenizer.{name}={alpha}: must be greater than 0, or 0 to mix nothing.")


def draw_mixing(batch_size: int, *, alpha: float) -> Features:
    """`partner`, int `[batch]`, and `own`, float `[batch]`, as in `Tokenizer.mix`, from torch's generator.

    Args:
        batch_size: samples; one may become its own partner.
        alpha: what a sample keeps of itself is drawn from Beta(alpha, alpha): near 0 it is nearly all or nothing, 1
            makes all shares equally likely, more brings them near a half.
    """
    own = Beta(alpha, alpha).sample((batch_size,))
    return {"partner": torch.randperm(batch_size), "own": own}


def draw_boxes(batch_size: int, *, height: int, width: int, alpha: float) -> Features:
    """As `draw_mixing`, and `box`, int `[batch, 4]`: top, left, bottom, right of what comes from the partner.

    A box has the picture's proportions and its middle anywhere in it; what would lie outside is cut off. `own` is what
    is left of the picture, counted in pixels (section 3.1; appendix A, algorithm A1).
    """
    mixing = draw_mixing(batch_size, alpha=alpha)
    sides = torch.tensor([height, width])
    middle = (torch.rand(batch_size, 2) * sides).long()
    half = (0.5 * (1 - mixing["own"]).sqrt()[:, None] * sides).long()
    first, last = (middle - half).clamp(min=0), torch.minimum(middle + half, sides)
    own = 1 - (last - first).prod(1) / (height * width)
    return {**mixing, "own": own, "box": torch.cat([first, last], 1)}


def blend(x: Float[Tensor, "batch *any"], batch: Features) -> Float[Tensor, "batch *any"]:
    """Each sample mixed with its partner, if the batch says how."""
    if "partner" not in batch:
        return x
    own = batch["own"].to(x).reshape(-1, *[1] * (x.ndim - 1))
    return torch.lerp(x[batch["partner"]], x, own)


def paste(
    pictures: Float[Tensor, "batch channels height width"], batch: Features
) -> Float[Tensor, "batch channels height width"]:
    """Each picture with its partner's pixels in its box."""
    top, left, bottom, right = batch["box"].unbind(1)
    inside = _between(top, bottom, pictures.shape[2])[:, :, None] & _between(left, right, pictures.shape[3])[:, None]
    return torch.where(inside[:, None], pictures[batch["partner"]], pictures)


def _between(first: Tensor, last: Tensor, side: int) -> Tensor:
    """Bool `[batch, side]`: which rows or columns a box holds."""
    place = torch.arange(side, device=first.device)
    return (place >= first[:, None]) & (place < last[:, None])
