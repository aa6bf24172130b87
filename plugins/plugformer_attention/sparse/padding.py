"""Padding in front of sequences, put behind them, so that their blocks are counted as they are without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer_attention.sparse.places import pick


@dataclass(frozen=True)
class Padding:
    """
    Attributes:
        count: int `[batch or 1, 1]`, tokens of padding before the first real one, not counting `leading`.
        leading: tokens at the front that stay there.
    """

    count: Int[Tensor, "#batch 1"]
    leading: int

    @classmethod
    def of(cls, valid: Bool[Tensor, "#batch length"] | None, leading: int) -> Padding | None:
        """None if it is known that there is none in front."""
        if valid is None or leading == valid.shape[1]:
            return None
        first = valid[:, leading]
        # A number can be looked at where nobody has to wait for it, and where there is one.
        known = first.device.type == "cpu" and type(first) is Tensor and not torch.compiler.is_compiling()
        if known and bool(first.all()):
            return None
        return cls(valid[:, leading:].byte().argmax(1, keepdim=True), leading)  # the first of the largest

    def behind(self, x: Tensor, dim: int) -> Tensor:
        """The tokens along axis `dim` with that padding behind them."""
        return self._turn(x, dim, self.count)

    def in_front(self, x: Tensor, dim: int) -> Tensor:
        """The reverse, with zeros for padding, which sees nothing before it."""
        x = self._turn(x, dim, -self.count)
        token = torch.arange(x.shape[dim], device=x.device)
        padding = (token >= self.leading) & (token < self.leading + self.count)
        return x.masked_fill(padding.view(-1, *[1] * (dim - 1), len(token), *[1] * (x.dim() - 1 - dim)), 0.0)

    def mask_behind(self, mask: Mask) -> Mask:
        assert mask.valid is not None
        segments = None if mask.segments is None else self.behind(mask.segments.expand(len(self.count), -1), 1)
        return replace(mask, valid=self.behind(mask.valid, 1), segments=segments)

    def _turn(self, x: Tensor, dim: int, count: Tensor) -> Tensor:
        token = torch.arange(x.shape[dim], device=x.device)
        turned = (token - self.leading + count) % (len(token) - self.leading) + self.leading
        return pick(x, dim, torch.where(token < self.leading, token, turned))
