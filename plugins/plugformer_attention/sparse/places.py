"""Tokens in blocks: runs of a sequence, or tiles of a grid.

Places are numbered block by block. Tokens that lie on no grid come first, in blocks of their own (`lead_blocks`); the
blocks behind them lie on a lattice of one or more axes and are numbered with its *last* axis slowest, so that a longer
text, or a longer recording's spectrogram, adds blocks at the end and leaves the others' numbers alone.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.interfaces import Grid, Layout, Mask


@dataclass(frozen=True)
class Blocks(ABC):
    """How a batch's tokens stand in blocks.

    Attributes:
        length: tokens of a sequence, padding included.
        block_size: places of a block.
        lead_blocks: blocks of tokens that lie on no grid.
        lattice: of the blocks.
        tile: the places of a block; `block_size` or fewer.
    """

    length: int
    block_size: int
    lead_blocks: int
    lattice: Grid
    tile: Grid

    @property
    def places(self) -> int:
        return (self.lead_blocks + len(self.lattice)) * self.block_size

    @abstractmethod
    def spread(self, x: Tensor, dim: int) -> Tensor:
        """The tokens along axis `dim` in their places; what stands in empty places is no matter, but finite."""

    @abstractmethod
    def collect(self, x: Tensor, dim: int) -> Tensor:
        """The reverse."""

    @abstractmethod
    def occupied(self, valid: Bool[Tensor, "batch length"] | None) -> Bool[Tensor, "#batch places"] | None:
        """The places that hold a token; None if all do."""

    def inside(self, device: torch.device) -> Int[Tensor, "block_size axes"]:
        """Coordinates of each place in its block; places that no token can have lie out of reach of all."""
        inside = self.tile.coordinates().to(device)
        return F.pad(inside, (0, 0, 0, self.block_size - len(inside)), value=-(2**40))

    def offsets(self, reach: torch.Size, *, causal: bool, device: torch.device) -> Int[Tensor, "offsets axes"]:
        """From a block to those at most `reach` blocks away along each axis, the first to itself.

        With `causal`, only to those before it.
        """
        spans = []
        for far, size in zip(reach, self.lattice.shape, strict=True):
            near = min(far, size - 1)  # what lies out of the lattice costs nothing
            # The own block, then those before, then those behind: the own one comes first in the product, too.
            spans.append([0, *range(-near, 0), *range(1, 1 if causal else near + 1)])
        return torch.tensor(list(product(*spans)), device=device)

    def neighbours(self, offsets: Int[Tensor, "offsets axes"]) -> Int[Tensor, "blocks offsets"]:
        """Number of the block at each offset from each block on the lattice, -1 where there is none."""
        number = torch.arange(len(self.lattice), device=offsets.device)[:, None]
        there = torch.zeros_like(number)
        exists = torch.ones_like(number, dtype=torch.bool)
        stride = 1
        for axis, size in enumerate(self.lattice.shape):
            at = number // stride % size + offsets[:, axis]
            exists = exists & (at >= 0) & (at < size)
            there = there + at * stride
            stride *= size
        return torch.where(exists, there, -1)


@dataclass(frozen=True)
class Runs(Blocks):
    """Runs of tokens in the sequence's order; the last run may be short.

    Attributes:
        leading: tokens at the front that lie on no grid.
    """

    leading: int = 0

    @classmethod
    def of(cls, length: int, block_size: int, leading: int, *, shorten: bool = False) -> "Runs":
        block_size = min(block_size, max(1, length)) if shorten else block_size
        lattice = Grid(("block",), (max(1, ceil((length - leading) / block_size)),))
        return cls(length, block_size, ceil(leading / block_size), lattice, Grid(("place",), (block_size,)), leading)

    def spread(self, x: Tensor, dim: int) -> Tensor:
        missing = len(self.lattice) * self.block_size - (self.length - self.leading)
        if not self.leading:
            return pad(x, dim, 0, missing)
        lead, rest = x.split([self.leading, self.length - self.leading], dim)
        rest = pad(rest, dim, 0, missing)
        return torch.cat([pad(lead, dim, 0, self.lead_blocks * self.block_size - self.leading), rest], dim)

    def collect(self, x: Tensor, dim: int) -> Tensor:
        front = self.lead_blocks * self.block_size
        if x.shape[dim] == self.length:
            return x
        rest = x.narrow(dim, front, self.length - self.leading)
        return torch.cat([x.narrow(dim, 0, self.leading), rest], dim) if self.leading else rest

    def occupied(self, valid: Bool[Tensor, "batch length"] | None) -> Bool[Tensor, "#batch places"] | None:
        if valid is not None:
            return self.spread(valid, 1)
        if self.places == self.length:
            return None
        place = torch.arange(self.places)
        front = self.lead_blocks * self.block_size
        return ((place < self.leading) | ((place >= front) & (place < front + self.length - self.leading)))[None]


@dataclass(frozen=True)
class Tiles(Blocks):
    """Tiles of a grid, each token in the place its coordinates say, whatever its place in the sequence.

    Attributes:
        to_place: int `[batch or 1, length]`, each token's place; `places` for tokens that have none: padding.
        to_token: int `[batch or 1, places]`, the reverse; `length` for empty places.
    """

    to_place: Tensor
    to_token: Tensor

    @classmethod
    def of(
        cls, layout: Layout, valid: Bool[Tensor, "batch length"] | None, block_size: int, *, shorten: bool = False
    ) -> "Tiles":
        (grid,) = layout.grids
        length = layout.coordinates.shape[1]
        tile = tile_of(grid, block_size)
        block_size = len(tile) if shorten else block_size
        shape = tuple(ceil(size / side) for size, side in zip(grid.shape, tile.shape, strict=True))
        lattice = Grid(grid.axes, shape)
        # Where every place of the grid is taken, so many tokens must lie on none.
        lead_blocks = ceil(max(layout.leading, length - len(grid)) / block_size)
        front, places = lead_blocks * block_size, (lead_blocks + len(lattice)) * block_size

        on_grid = layout.on_grid(0)
        stray = ~on_grid if valid is None else ~on_grid & valid
        stray_place = stray.long().cumsum(1) - 1
        torch._assert_async(
            (stray.sum(1) <= front).all(),
            "more tokens that lie on no grid than stand at the front; put them there, as Tokens.prepend does",
        )
        number, inside = torch.zeros_like(layout.grid_index), torch.zeros_like(layout.grid_index)
        stride = 1
        for axis, (side, count) in enumerate(zip(tile.shape, shape, strict=True)):
            at = layout.coordinates[..., axis]
            number = number + at // side * stride
            inside = inside * side + at % side
            stride *= count
        to_place = torch.where(on_grid, front + number * block_size + inside, stray_place)
        if valid is not None:
            to_place = torch.where(valid, to_place, places)
        taken = (
            torch.zeros_like(to_place[:, :1]).expand(-1, places + 1).scatter_add(1, to_place, torch.ones_like(to_place))
        )
        torch._assert_async(
            (taken[:, :places] <= 1).all(), "two tokens lie on one place of the grid, such as those of two images"
        )
        token = torch.arange(length, device=to_place.device).expand_as(to_place)
        to_token = to_place.new_full((to_place.shape[0], places + 1), length).scatter(1, to_place, token)[:, :-1]
        return cls(length, block_size, lead_blocks, lattice, tile, to_place, to_token)

    def spread(self, x: Tensor, dim: int) -> Tensor:
        return pick(x, dim, self.to_token.clamp(max=self.length - 1))

    def collect(self, x: Tensor, dim: int) -> Tensor:
        return pick(x, dim, self.to_place.clamp(max=self.places - 1))

    def occupied(self, valid: Bool[Tensor, "batch length"] | None) -> Bool[Tensor, "#batch places"] | None:
        return self.to_token < self.length


def blocks_of(mask: Mask, length: int, block_size: int, *, shorten: bool = False) -> Blocks:
    """Tiles where tokens lie on one grid of several axes and see both ways, else runs of the sequence.

    With `shorten`, blocks have no more places than are needed where a sequence doesn't fill one.
    """
    leading = leading_of(mask, length)
    if leading is not None:
        return Runs.of(length, block_size, leading, shorten=shorten)
    assert mask.layout is not None
    return Tiles.of(mask.layout, mask.valid, block_size, shorten=shorten)


def leading_of(mask: Mask, length: int) -> int | None:
    """How many tokens at the front lie on no grid; None where tokens stand in tiles."""
    layout = mask.layout
    if layout is None:
        return 0
    if mask.causal or len(layout.grids) != 1 or len(layout.grids[0].shape) < 2:
        return min(layout.leading, length)
    return None


def tile_of(grid: Grid, block_size: int) -> Grid:
    """A tile of `block_size` places or fewer, near to a cube, for a grid.

    The length of the last axis has no say in which tokens share a tile: it grows when a sample shares a batch with
    longer ones.
    """
    sides: list[int] = []
    for axis, size in enumerate(grid.shape[:-1]):
        left = block_size // prod(sides)
        sides.append(max(1, min(size, int(left ** (1 / (len(grid.shape) - axis)) + 1e-9))))
    return Grid(grid.axes, (*sides, min(grid.shape[-1], block_size // prod(sides))))


def pad(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """With zeros before and after along one axis."""
    if before == after == 0:
        return x
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (before, after))


def pick(x: Tensor, dim: int, index: Int[Tensor, "#batch picked"]) -> Tensor:
    """`x [batch, ...]` at `index` along axis `dim`."""
    if index.shape[0] == 1:
        return x.index_select(dim, index[0])
    wide = index.reshape(len(index), *[1] * (dim - 1), -1, *[1] * (x.dim() - 1 - dim))
    return x.gather(dim, wide.expand(*x.shape[:dim], index.shape[1], *x.shape[dim + 1 :]))
