"""Keys and values of the tokens so far."""

import torch
from torch import Tensor

from plugformer.interfaces import Cache


class KeyValueCache(Cache):
    """Grows with every token; keys are remembered after rotation."""

    def __init__(self) -> None:
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self._k = k if self._k is None else torch.cat([self._k, k], dim=2)
        self._v = v if self._v is None else torch.cat([self._v, v], dim=2)
        return self._k, self._v
