"""Feature maps: functions φ for which φ(q)·φ(k) is, or estimates, a kernel of q and k.

A map gives φ(x) = exp(s) f: features f of moderate size and the logarithm s of what they are to be multiplied by, so
that large inputs overflow nowhere. Gradients are written out, for they are taken chunk by chunk in a backward pass that
keeps no features. What is a factor of all features, such as 1/√m, is left out: attention is a ratio.

Shapes: x `[..., tokens, head_dim]`, projection `[head_dim, projected]`, f `[..., tokens, features]`, s `[..., tokens]`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class FeatureMap(ABC):
    """
    Attributes:
        scaled: whether s depends on x; otherwise it is zero.
        smallest: a sum of products of features that is taken for zero.
    """

    scaled: ClassVar[bool] = False
    smallest: ClassVar[float] = 1e-20

    @abstractmethod
    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """f and s, of the kernel exp(temperature · q·k) where the map estimates that one."""

    @abstractmethod
    def gradient(self, x: Tensor, projection: Tensor, f: Tensor, df: Tensor) -> Tensor:
        """Of x, given that of f, through f alone. May overwrite `df`."""

    def gradient_of_scale(self, x: Tensor, temperature: float, ds: Tensor) -> Tensor:
        """Of x, given that of s `[..., tokens, 1]`, for maps that are `scaled`."""
        raise NotImplementedError

    def count(self, head_dim: int, projected: int) -> int:
        """How many features there are."""
        return projected


class Positive(FeatureMap):
    """exp(ωᵀx − ‖x‖²/2): positive features of the softmax kernel (Choromanski et al. 2021, lemma 1).

    s takes each token's own largest logit, never another token's. As it cancels, its gradient is that of the norm.
    """

    scaled = True

    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = x @ projection
        largest = logits.detach().amax(-1, keepdim=True)
        return logits.sub_(largest).exp_(), largest[..., 0] - temperature / 2 * x.square().sum(-1)

    def gradient(self, x: Tensor, projection: Tensor, f: Tensor, df: Tensor) -> Tensor:
        return df.mul_(f) @ projection.mT

    def gradient_of_scale(self, x: Tensor, temperature: float, ds: Tensor) -> Tensor:
        return -temperature * ds * x


class Relu(FeatureMap):
    """max(ωᵀx, 0) (Choromanski et al. 2021, section 4.3): no estimate of softmax, but a kernel that often does well."""

    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return (x @ projection).relu_(), torch.zeros_like(x[..., 0])

    def gradient(self, x: Tensor, projection: Tensor, f: Tensor, df: Tensor) -> Tensor:
        return df.mul_(f > 0) @ projection.mT


class Gaussian(FeatureMap):
    """sin ωᵀx, cos ωᵀx: an estimate of exp(−‖q − k‖²/2) (Rahimi and Recht 2007; Peng et al. 2021, section 2.2).

    It can come out negative, and near zero by chance: then the average over keys is far off.
    """

    smallest = 1e-6

    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        angles = x @ projection
        return torch.cat([angles.sin(), angles.cos()], -1) * projection.shape[-1] ** -0.5, torch.zeros_like(x[..., 0])

    def gradient(self, x: Tensor, projection: Tensor, f: Tensor, df: Tensor) -> Tensor:
        (sin, cos), (dsin, dcos) = f.chunk(2, -1), df.chunk(2, -1)
        return (cos * dsin).sub_(sin * dcos) @ projection.mT

    def count(self, head_dim: int, projected: int) -> int:
        return 2 * projected


class Trigonometric(Gaussian):
    """exp(‖x‖²/2) [sin ωᵀx, cos ωᵀx]: the softmax kernel, of great variance where it is small (Choromanski et al. 2021,
    section 2.3)."""

    scaled = True

    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return super().features(x, projection, temperature)[0], temperature / 2 * x.square().sum(-1)

    def gradient_of_scale(self, x: Tensor, temperature: float, ds: Tensor) -> Tensor:
        return temperature * ds * x


class Elu(FeatureMap):
    """elu(x) + 1 (Katharopoulos et al. 2020, section 3.2.1); nothing is projected."""

    def features(self, x: Tensor, projection: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return torch.where(x > 0, x + 1, x.clamp_max(0).exp()), torch.zeros_like(x[..., 0])

    def gradient(self, x: Tensor, projection: Tensor, f: Tensor, df: Tensor) -> Tensor:
        return df.mul_(f.clamp_max(1))  # e^x below zero, one above

    def count(self, head_dim: int, projected: int) -> int:
        return head_dim


FEATURE_MAPS: dict[str, FeatureMap] = {
    "positive": Positive(),
    "relu": Relu(),
    "gaussian": Gaussian(),
    "trigonometric": Trigonometric(),
    "elu": Elu(),
}
