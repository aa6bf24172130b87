"""Relative positions, as a bias on the logits of each head.

There is a distance between two tokens on one grid only: those on different grids, or on none, get a bias of zero.
"""

from collections.abc import Iterable
from functools import reduce
from math import log
from typing import ClassVar, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Position


class Alibi(Position):
    """A penalty that grows linearly with the distance, steeper in some heads than in others (Press et al. 2022).

    The distance is the same both ways, which a causal mask makes the paper's. On a grid of several axes it is Euclid's,
    as in CROMA (Fuller et al. 2023). Nothing is learned.
    """

    adds_bias: ClassVar[bool] = True
    slopes: Tensor  # [heads 1 1]; its type is that of the bias

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.empty(num_heads, 1, 1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.slopes.copy_(torch.tensor(slopes(len(self.slopes)))[:, None, None])

    def keep_heads(self, first: int, count: int) -> None:
        self.slopes = self.slopes[first : first + count].clone()

    def bias(self, queries: Layout, keys: Layout) -> Float[Tensor, "batch heads queries keys"]:
        # Nothing in it is learned. With it stay the queries, so that their id is never another's; unless they are the
        # keys, which would then hold themselves.
        others = None if queries is keys else queries
        bias, _ = keys.once((self, id(queries)), lambda: (self._bias(queries, keys), others))
        return bias

    def _bias(self, queries: Layout, keys: Layout) -> Float[Tensor, "batch heads queries keys"]:
        places = queries.coordinates.float(), keys.coordinates.float()
        distance = torch.cdist(*places, compute_mode="donot_use_mm_for_euclid_dist")
        own = queries.grid_index[:, :, None]
        distance = distance * ((own == keys.grid_index[:, None]) & (own >= 0))
        return (-self.slopes * distance[:, None]).to(self.slopes.dtype)


def slopes(num_heads: int) -> list[float]:
    """Of each head (section 3 of Press et al.): a geometric sequence that ends at 2⁻⁸, and begins at its ratio.

    Where `num_heads` is no power of two: those of the power below, then every other one of the power above.
    """
    power = 2 ** (num_heads.bit_length() - 1)
    below = [2.0 ** (-8 * n / power) for n in range(1, power + 1)]
    above = [2.0 ** (-4 * n / power) for n in range(1, 2 * power, 2)]
    return below + above[: num_heads - power]


class Relative(Position):
    """A learned bias for every head and bucket of distances, shared by all layers (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others ranges that grow logarithmically. Keys before and after a
    query have buckets of their own, unless no key after it is seen. On a grid of several axes, where those before it
    may be to its right, each axis has such a table and their biases are summed (Xu et al. 2021, LayoutLMv2).

    Args:
        num_buckets: distances that are told apart; even, at least 4.
        max_distance: all distances from this on share a bucket.

    Raises:
        UserError: numbers that leave no range to divide.
    """

    adds_bias: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_heads: int,
        grids: tuple[Grid, ...],
        causal: bool = False,
        num_buckets: int = 32,
        max_distance: int = 128,
    ) -> None:
        super().__init__()
        if num_buckets < 4 or num_buckets % 2:
            raise UserError(f"position.num_buckets={num_buckets}: must be even and at least 4.")
        if max_distance <= num_buckets // 2:
            raise UserError(
                f"position.max_distance={max_distance}: must be more than {num_buckets // 2}, half of "
                f"position.num_buckets={num_buckets}."
            )
        self.places = [(number, axis) for number, grid in enumerate(grids) for axis in range(len(grid.axes))]
        self.tables = nn.ModuleList(
            DistanceTable(
                num_buckets, num_heads, max_distance=max_distance, one_sided=causal and len(grids[number].axes) == 1
            )
            for number, _ in self.places
        )

    def keep_heads(self, first: int, count: int) -> None:
        for table in cast("Iterable[DistanceTable]", self.tables):
            table.values = nn.Embedding.from_pretrained(
                table.values.weight.detach()[:, first : first + count].clone(),
                freeze=not table.values.weight.requires_grad,
            )

    def bias(self, queries: Layout, keys: Layout) -> Float[Tensor, "batch heads queries keys"]:
        biases = []
        for (number, axis), table in zip(self.places, self.tables, strict=True):
            distance = keys.coordinates[:, None, :, axis] - queries.coordinates[:, :, None, axis]
            related = queries.on_grid(number)[:, :, None] & keys.on_grid(number)[:, None]
            biases.append(table(distance, related))
        return rearrange(reduce(torch.add, biases), "batch queries keys heads -> batch heads queries keys")


class DistanceTable(nn.Module):
    """A value for each head and bucket of distances."""

    def __init__(self, num_buckets: int, num_heads: int, *, max_distance: int, one_sided: bool) -> None:
        super().__init__()
        self.values = nn.Embedding(num_buckets, num_heads)
        self.max_distance, self.one_sided = max_distance, one_sided

    def forward(
        self, distance: Int[Tensor, "batch queries keys"], related: Bool[Tensor, "batch queries keys"]
    ) -> Float[Tensor, "batch queries keys heads"]:
        # Buckets are found once a distance, not once a pair; the last row is for pairs that have none.
        far = self.max_distance
        reach = torch.arange(-far, far + 1, device=distance.device)
        bucket = buckets(reach, one_sided=self.one_sided, num_buckets=self.values.num_embeddings, max_distance=far)
        values = F.pad(self.values(bucket), (0, 0, 0, 1))
        return F.embedding((distance.clamp(-far, far) + far).where(related, 2 * far + 1), values)


def buckets(
    distance: Int[Tensor, "*any"], *, one_sided: bool, num_buckets: int, max_distance: int
) -> Int[Tensor, "*any"]:
    """The bucket of each distance, from the query to the key; `one_sided`: those to later keys count as zero."""
    if one_sided:
        offset, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        num_buckets //= 2
        offset, distance = (distance > 0) * num_buckets, distance.abs()
    exact = num_buckets // 2
    share = torch.log(distance.clamp(min=exact) / exact) / log(max_distance / exact)  # 0 at exact, 1 at max_distance
    ranged = (exact + (share * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return offset + distance.where(distance < exact, ranged)
