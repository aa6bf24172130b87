"""What bidirectional and causal kernel attention share."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from plugformer_attention.kernel.features import FEATURE_MAPS, FeatureMap
from plugformer_attention.precision import precise

LOWEST = -1e30  # the reference of a query that has seen no key; finite, so that differences to it are numbers


class Kernel(NamedTuple):
    """Which kernel.

    Attributes:
        features: a name in FEATURE_MAPS.
        projection: `[head_dim, projected]`.
        temperature: τ of exp(τ q·k); queries and keys are multiplied by its root.
    """

    features: str
    projection: Tensor
    temperature: float

    @property
    def map(self) -> FeatureMap:
        return FEATURE_MAPS[self.features]

    def num_features(self, head_dim: int) -> int:
        return self.map.count(head_dim, self.projection.shape[-1])

    def for_(self, dtype: torch.dtype) -> "Kernel":
        """The same for inputs that are computed with in `dtype` and not multiplied by the root of τ."""
        return self._replace(projection=self.projection.to(dtype) * self.temperature**0.5)

    def features_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map.features(x, self.projection, self.temperature)

    def features_of_few(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `for_` and `features_of`, for fewer tokens than there are directions to multiply by the root."""
        return self.map.features(x * self.temperature**0.5, self.projection.to(x.dtype), 1.0)


def piece(x: Tensor, start: int, stop: int) -> Tensor:
    """Some tokens of `[batch, heads, length, head_dim]` as `[batch · heads, tokens, head_dim]`, dense and in the
    precision for computing."""
    return x[:, :, start:stop].to(precise(x.dtype)).contiguous().flatten(0, 1)


def pieces(first: Tensor, second: Tensor, third: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    return piece(first, start, stop), piece(second, start, stop), piece(third, start, stop)


def put(x: Tensor, start: int, stop: int, part: Tensor) -> None:
    """Write `[batch · heads, tokens, ...]` into `[batch, heads, length, ...]`; in float16, what is too large for it as
    the largest number it has."""
    place = x[:, :, start:stop]
    if x.dtype == torch.float16:
        largest = torch.finfo(x.dtype).max
        part = part.clamp(-largest, largest)
    place.copy_(part.view(place.shape))


def chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, size):
        yield start, min(start + size, length)


def with_ones(v: Tensor) -> Tensor:
    """[v, 1]: the sum of weights is one more column of the sum of weighted values."""
    return F.pad(v, (0, 1), value=1.0)


def divide(sums: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Out, and the weight it was divided by, from sums `[..., head_dim + 1]`."""
    weight = away_from_zero(sums[..., -1:], kernel.map.smallest)
    return sums[..., :-1] / weight, weight[..., 0]


def away_from_zero(weight: Tensor, smallest: float) -> Tensor:
    """An estimate can come out negative, and must keep its sign to be right in the mean."""
    return torch.where(weight.abs() > smallest, weight, smallest)


def gradient_of_division(dout: Tensor, out: Tensor, weight: Tensor, kernel: Kernel) -> Tensor:
    """Of sums."""
    weight = weight.unsqueeze(-1)
    last = (dout * out).sum(-1, keepdim=True).div_(weight).neg_()
    return torch.cat([dout / weight, last.masked_fill_(weight.abs() <= kernel.map.smallest, 0.0)], -1)


def gradient_of_keys(
    k: Tensor, f: Tensor, df: Tensor, kernel: Kernel, *, weighted: bool
) -> tuple[Tensor, Tensor | None]:
    """That of keys and, if they are `weighted`, that of the logarithm of their weights; overwrites `df`."""
    ds = (f * df).sum(-1, keepdim=True) if weighted or kernel.map.scaled else None
    dk = kernel.map.gradient(k, kernel.projection, f, df)
    if kernel.map.scaled:
        assert ds is not None
        dk = dk + kernel.map.gradient_of_scale(k, kernel.temperature, ds)
    return dk, ds[..., 0] if ds is not None and weighted else None


def gradient_of_queries(q: Tensor, f: Tensor, df: Tensor, kernel: Kernel) -> Tensor:
    """Through f alone: attention is a ratio, so that what scales a query cancels. Overwrites `df`."""
    return kernel.map.gradient(q, kernel.projection, f, df)


def products(tokens: int, *sizes: tuple[int, int]) -> int:
    """Operations of products that take each token from one width to another."""
    return 2 * tokens * sum(width * other for width, other in sizes)
