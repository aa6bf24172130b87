"""Normalisation over the width of the residual stream."""

from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba, Kiros, Hinton 2016).

    Args:
        eps: added to the variance.
        bias: whether a learned shift follows the learned scale.
    """

    def __init__(self, *, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(dim, eps=eps, bias=bias)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return super().forward(x)
