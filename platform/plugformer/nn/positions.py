"""Absolute positions, from the coordinates of tokens on their grid. A token that lies on no grid gets none."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Position

# How places on a grid of several axes are told apart: by their number in raster order, or axis by axis.
Order = Literal["raster", "axes"]


class NoPosition(Position):
    """No positions: the model sees a set."""


class Learned(Position):
    """A learned vector for every place (Devlin et al. 2019; Dosovitskiy et al. 2021, appendix D.4).

    Args:
        order: `raster` gives every place of the grid a vector of its own; `axes` adds one for its row and one for
            its column.
    """

    bounded: ClassVar[bool] = True

    def __init__(self, *, dim: int, grids: tuple[Grid, ...], order: Order = "raster") -> None:
        super().__init__()
        self.order: Order = order
        self.grids = grids
        self.tables = nn.ModuleList(Tables(self._sizes(grid), dim) for grid in grids)

    def add(self, x: Float[Tensor, "batch length dim"], layout: Layout) -> Float[Tensor, "batch length dim"]:
        for number, grid in enumerate(layout.grids):
            position = self.tables[number](_places(number, grid, layout, self.order))
            x = x + position * layout.on_grid(number)[..., None].to(x.dtype)
        return x

    def resized(self, weights: Mapping[str, Tensor], grids: tuple[Grid, ...]) -> Mapping[str, Tensor]:
        """Tables interpolated, if the axes are the same: of either grid, places cover one extent (section 3.2).

        In raster order on two axes it is bicubic, as in transformers; antialiased, as in timm, if an axis gets shorter.
        Elsewhere it is linear, axis by axis.
        """
        brought = dict(weights)
        if [grid.axes for grid in grids] != [grid.axes for grid in self.grids]:
            return brought
        for number, (theirs, ours) in enumerate(zip(grids, self.grids, strict=True)):
            sizes = self._sizes(theirs)
            names = [f"tables.{number}.{axis}.weight" for axis in range(len(sizes))]
            if [len(weights.get(name, ())) for name in names] != sizes:
                continue  # of another order
            if self.order == "raster":
                brought[names[0]] = resize_table(weights[names[0]], theirs.shape, ours.shape)
            else:
                for name, size in zip(names, zip(theirs.shape, ours.shape, strict=True), strict=True):
                    brought[name] = resize_table(weights[name], size[:1], size[1:])
        return brought

    def _sizes(self, grid: Grid) -> list[int]:
        """How many vectors each table of a grid holds."""
        return [len(grid)] if self.order == "raster" else list(grid.shape)


class Tables(nn.ModuleList):
    """A table of vectors for each number of a place; their sum is the place's."""

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__(nn.Embedding(size, dim) for size in sizes)

    def forward(self, places: list[Tensor]) -> Tensor:
        return torch.stack([table(place) for table, place in zip(self, places, strict=True)]).sum(0)


def resize_table(
    table: Float[Tensor, "places dim"], old: tuple[int, ...], new: tuple[int, ...]
) -> Float[Tensor, "new_places dim"]:
    """A vector for every place of a grid, in raster order, interpolated to a grid of another shape."""
    if old == new:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    if len(old) == 2:
        picture = rearrange(wide, "(rows columns) dim -> 1 dim rows columns", rows=old[0])
        shorter = any(after < before for before, after in zip(old, new, strict=True))
        picture = F.interpolate(picture, new, mode="bicubic", align_corners=False, antialias=shorter)
        wide = rearrange(picture, "1 dim rows columns -> (rows columns) dim")
    else:
        wide = wide.unflatten(0, old)
        for axis, size in enumerate(new):
            wide = _resize_axis(wide.movedim(axis, -1), size).movedim(-1, axis)
        wide = wide.flatten(0, -2)
    return wide.to(table.dtype)


def _resize_axis(x: Float[Tensor, "*any length"], size: int) -> Float[Tensor, "*any size"]:
    """Linearly; with antialias, which changes nothing where an axis gets longer."""
    line = x.reshape(1, -1, 1, x.shape[-1])
    line = F.interpolate(line, (1, size), mode="bilinear", align_corners=False, antialias=True)
    return line.reshape(*x.shape[:-1], size)


class Sinusoidal(Position):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5).

    Args:
        base: the longest wavelength is 2π times this.
        order: `raster` encodes the number in raster order; `axes` gives each axis its share of the width
            (He et al. 2022, MAE).

    Raises:
        UserError: the width can't be divided into pairs for every axis.
    """

    def __init__(self, *, dim: int, grids: tuple[Grid, ...], base: float = 10_000.0, order: Order = "axes") -> None:
        super().__init__()
        self.order: Order = order
        for grid in grids:
            shares = 2 * (1 if order == "raster" else len(grid.axes))
            if dim % shares:
                raise UserError(
                    f"position=sinusoidal: backbone.dim={dim} must be divisible by {shares} for {grid.axes}."
                )
        self.dim, self.base = dim, base

    def add(self, x: Float[Tensor, "batch length dim"], layout: Layout) -> Float[Tensor, "batch length dim"]:
        for number, grid in enumerate(layout.grids):
            places = _places(number, grid, layout, self.order)
            position = torch.cat([self._waves(place, self.dim // len(places)) for place in places], -1)
            x = x + (position * layout.on_grid(number)[..., None]).to(x.dtype)
        return x

    def _waves(self, place: Tensor, width: int) -> Tensor:
        frequency = self.base ** (-torch.arange(0, width, 2, device=place.device) / width)
        angle = place[..., None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1)


def _places(number: int, grid: Grid, layout: Layout, order: Order) -> list[Tensor]:
    """The whole numbers that say where tokens stand on a grid, each `[batch, length]`; 0 where a token is off it."""
    on_grid = layout.on_grid(number)
    axes = [layout.coordinates[..., axis] * on_grid for axis in range(len(grid.axes))]
    return [grid.raster(torch.stack(axes, -1))] if order == "raster" else axes
