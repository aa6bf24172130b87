"""Normalisation over the width of the residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square, then a learned scale for each channel (Zhang and Sennrich 2019; T5, Llama).

    Args:
        eps: added to the mean square.
    """

    def __init__(self, *, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        # Under autocast the weight is wider than x, which torch warns of and has no fast kernel for.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class ScaleNorm(nn.Module):
    """Every token at one length, which is learned and starts at √dim (Nguyen and Salazar 2019).

    Args:
        eps: the least length that is divided by.
    """

    def __init__(self, *, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.first_length = eps, dim**0.5
        self.length = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.length, self.first_length)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.length * F.normalize(x, dim=-1, eps=self.eps)


class FixNorm(nn.Module):
    """Every token at the fixed length √dim; nothing is learned.

    FixNorm gives word embeddings a fixed length (Nguyen and Chiang 2018; Nguyen and Salazar 2019). Here the residual
    stream gets one: `scale` without its learned length.

    Args:
        eps: the least length that is divided by.
    """

    def __init__(self, *, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.length = eps, dim**0.5

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.length * F.normalize(x, dim=-1, eps=self.eps)
