"""The random directions that features are made of."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from plugformer.nn.initialise import seed_for


class RandomProjection(nn.Module):
    """Directions ω, each normally distributed, in blocks of orthogonal ones (Choromanski et al. 2021, section 2.4).

    What is drawn depends on `place` and the number of the draw alone; a checkpoint holds both it and the number.

    Args:
        dim: of the space.
        count: how many directions.
        place: a seed, and what tells this projection from others of it.
        redraw_every: optimiser steps between draws; None for never.
    """

    directions: Tensor  # [dim, count]
    draw: Tensor  # int, how often they were drawn anew

    def __init__(self, *, dim: int, count: int, place: tuple[int, str, int], redraw_every: int | None) -> None:
        super().__init__()
        self.place = place
        self.redraw_every = redraw_every
        self.register_buffer("directions", torch.empty(dim, count))
        self.register_buffer("draw", torch.zeros((), dtype=torch.long))
        self._redraw(0)
        self.register_load_state_dict_post_hook(_read_draw)

    def before_step(self, step: int) -> None:
        if self.redraw_every and step // self.redraw_every != self._number:
            self._redraw(step // self.redraw_every)

    @torch.no_grad()
    def _redraw(self, number: int) -> None:
        self._number = number  # the same as `draw`, without asking the device at each step
        self.draw.fill_(number)
        if not self.directions.is_meta:
            generator = torch.Generator().manual_seed(seed_for(*self.place, number))
            self.directions.copy_(orthogonal_directions(self.directions.shape[0], self.directions.shape[1], generator))


def _read_draw(module: RandomProjection, _: object) -> None:
    if not module.draw.is_meta:
        module._number = int(module.draw)


def orthogonal_directions(dim: int, count: int, generator: torch.Generator) -> Tensor:
    """`[dim, count]`: blocks of `dim` orthogonal directions, as long as normally distributed ones are."""
    draw = partial(torch.randn, generator=generator, device="cpu", dtype=torch.float64)
    q, r = torch.linalg.qr(draw(math.ceil(count / dim), dim, dim))
    # The algorithm chooses signs by its input; without that choice all rotations are equally likely (Mezzadri 2007).
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    directions = q.mT.reshape(-1, dim)[:count]
    return (directions * draw(count, dim).norm(dim=-1, keepdim=True)).T
