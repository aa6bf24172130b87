"""Samples of a batch mixed with each other (Zhang et al. 2018, mixup)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta

from plugformer.errors import UserError
from plugformer.interfaces import Features


def check_mixing(**options: float) -> None:
    """
    Raises:
        UserError: the parameter of a Beta distribution that is negative; 0 stands for none.
    """
    for name, alpha in options.items():
        if alpha < 0:
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


def blend(x: Float[Tensor, "batch *any"], batch: Features) -> Float[Tensor, "batch *any"]:
    """Each sample mixed with its partner, if the batch says how."""
    if "partner" not in batch:
        return x
    own = batch["own"].to(x).reshape(-1, *[1] * (x.ndim - 1))
    return own * x + (1 - own) * x[batch["partner"]]
