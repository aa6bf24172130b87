"""Rotary positions: places become angles that queries and keys are turned by."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Position

Scaling = Literal["none", "linear", "ntk"]


class Rope(Position):
    """Pairs of channels turned by angles that grow with the place (Su et al. 2021, section 3.2).

    The logit of two tokens on one grid then depends on the difference of their places alone. Channel `i` is paired with
    `i + width / 2`, as in Llama and its kin, so that their weights copy; the paper pairs neighbours. On a grid of
    several axes each axis turns an equal share of the pairs. Tokens that lie on no grid are not turned.

    Args:
        base: the slowest pair turns once in about 2π times this many places.
        fraction: of the channels of a head that are turned; the last ones are left as they are (GPT-NeoX).
        scaling: for sequences longer than those trained on: none; linear divides places by the factor (Chen et al.
            2023); ntk raises the base, so that fast pairs stay and slow ones stretch (bloc97 2023).
        factor: how many times longer; at least 1.

    Raises:
        UserError: a fraction or factor out of its range, or channels that can't be divided into pairs for every axis.
    """

    def __init__(
        self,
        *,
        head_dim: int,
        grids: tuple[Grid, ...],
        base: float = 10_000.0,
        fraction: float = 1.0,
        scaling: Scaling = "none",
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.base, self.scaling, self.factor = base, scaling, factor
        self.width = round(fraction * head_dim)
        self.kept = head_dim - self.width
        _check_scaling(base, scaling, factor)
        for grid in grids:
            _check_width(self.width, head_dim, fraction, grid)
            if scaling == "ntk" and self.width == 2 * len(grid.axes):
                raise UserError(
                    f"position.scaling=ntk: one pair of channels for each of {grid.axes} is too few to stretch.\n"
                    "  Set position.scaling=linear, or turn more channels: a larger position.fraction, or fewer heads."
                )

    def rotate(
        self, x: Float[Tensor, "batch heads length head_dim"], layout: Layout
    ) -> Float[Tensor, "batch heads length head_dim"]:
        cos, sin = layout.once((self, x.dtype), lambda: self._turns(layout, x.dtype))
        half = self.width // 2
        first, second, kept = x.split([half, half, self.kept], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, kept], dim=-1)

    def _turns(self, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each `[batch, 1, length, pairs]`."""
        angle = self._angle(layout)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def _angle(self, layout: Layout) -> Float[Tensor, "batch length pairs"]:
        angles = []
        for number, grid in enumerate(layout.grids):
            num_axes = len(grid.axes)
            places = layout.coordinates[..., :num_axes] * layout.on_grid(number)[..., None]
            frequency = self._frequency(self.width // num_axes, places.device)
            angles.append((places[..., None] * frequency).flatten(-2))  # axis by axis
        return torch.stack(angles).sum(0)

    def _frequency(self, width: int, device: torch.device) -> Tensor:
        """Radians a place, of the `width / 2` pairs that one axis turns."""
        base = self.base * self.factor ** (width / (width - 2)) if self.scaling == "ntk" else self.base
        frequency = 1.0 / base ** (torch.arange(0, width, 2, device=device) / width)
        return frequency / self.factor if self.scaling == "linear" else frequency


def _check_scaling(base: float, scaling: Scaling, factor: float) -> None:
    if base <= 1:
        raise UserError(f"position.base={base}: must be more than 1.")
    if factor < 1:
        raise UserError(f"position.factor={factor}: must be at least 1.")
    if scaling == "none" and factor != 1:
        raise UserError(
            f"position.factor={factor} does nothing with position.scaling=none.\n"
            "  Set position.scaling=linear or position.scaling=ntk."
        )


def _check_width(width: int, head_dim: int, fraction: float, grid: Grid) -> None:
    if not 0 < fraction <= 1:
        raise UserError(f"position.fraction={fraction}: must be more than 0 and at most 1.")
    step = 2 * len(grid.axes)
    if width and width % step == 0:
        return
    possible = ", ".join(f"{each / head_dim:.4g}" for each in range(step, head_dim + 1, step))
    raise UserError(
        f"position.fraction={fraction}: turns {width} of the {head_dim} channels of a head (backbone.dim / "
        f"backbone.num_heads), which must be a multiple of {step} for {grid.axes}.\n"
        f"  Fractions that are: {possible or 'none; make heads wider'}"
    )
