"""Tensors that grow by a few tokens at a time, without a copy of all for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node


class Grown:
    """All tokens so far, in memory got ahead. Going on from it leaves it as it was.

    Several may share memory: only the first to go on from where the memory is filled to may write there, and whoever
    comes later takes a copy, as with slices of Go. Choosing sequences of a state chooses of what is seen.

    Args:
        memory: holds the tokens, and perhaps room behind them.
        axis: along which tokens stand.
        filled: how far the memory is filled, one number for all that share it; None where `memory` is full.
    """

    def __init__(self, memory: Tensor, axis: int, *, filled: list[int] | None = None) -> None:
        self._memory, self._axis = memory, axis
        self._filled = [memory.shape[axis]] if filled is None else filled
        self._length = self._filled[0]

    @property
    def seen(self) -> Tensor:
        return self._memory.narrow(self._axis, 0, self._length)

    def extend(self, new: Tensor) -> Grown:
        count = new.shape[self._axis]
        end = self._length + count
        if not self._may_write(end) or new.requires_grad:
            return self._copy(new, end)
        self._memory.narrow(self._axis, self._length, count).copy_(new)
        self._filled[0] = end
        return Grown(self._memory, self._axis, filled=self._filled)

    def _may_write(self, end: int) -> bool:
        first = self._filled[0] == self._length
        return first and end <= self._memory.shape[self._axis] and not self._memory.requires_grad

    def _copy(self, new: Tensor, end: int) -> Grown:
        shape = list(new.shape)
        shape[self._axis] = end  # as much again, so that copies become rare
        return Grown(torch.cat([self.seen, new, new.new_zeros(shape)], self._axis), self._axis, filled=[end])


def _flatten(grown: Grown) -> tuple[list[Any], int]:
    return [grown.seen], grown._axis


def _unflatten(parts: Any, axis: int) -> Grown:
    (seen,) = parts
    return Grown(seen, axis)


register_pytree_node(Grown, _flatten, _unflatten)
