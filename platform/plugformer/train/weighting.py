"""The loss of a global batch, of which every process and every round has a part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from plugformer.spread import local


class GlobalBatch:
    """What one optimiser step learns from, while its small batches pass through the model.

    A loss is the mean over the items of its small batch, tokens for instance, of which small batches have more or
    fewer. So each is weighted by its items, and in the end gradients are those of the mean over all items. Weights are
    relative to the first round's, so that losses keep their size, as half precision needs. Nothing waits for a device.

    Args:
        world: processes that share the data, and whose gradients the backward pass averages.
        accumulate: by which it divides losses, however many rounds there are.

    Attributes:
        loss: the mean over all items, once the last round was added.
    """

    loss: Tensor

    def __init__(self, *, world: int = 1, accumulate: int = 1) -> None:
        self.world, self.accumulate = world, accumulate
        self._begin()

    def _begin(self) -> None:
        self._own: Tensor | None = None  # [2], of this process's rounds: the sum over all items, and their number
        self._usual: Tensor | None = None  # items of a small batch of the first round
        self._factor: Tensor | None = None  # that gradients still lack

    def add(self, loss: Tensor, items: int | Tensor, *, last: bool) -> Tensor:
        """The loss of a small batch as it is to be differentiated.

        Args:
            loss: the mean over its items.
            items: how many.
            last: whether no other round follows.
        """
        dtype = torch.promote_types(loss.dtype, torch.float32)
        count = torch.as_tensor(items, dtype=dtype, device=loss.device)
        own = torch.stack([loss.detach() * count, count])
        self._own = own if self._own is None else self._own + own
        total = self._of_all(self._own) if last or self._usual is None else None
        if self._usual is None:
            assert total is not None
            self._usual = _at_least_one(total[1]) / self.world
        if last:
            assert total is not None
            self.loss = total[0] / _at_least_one(total[1])
            if self.accumulate > 1:  # else the weights are right already
                self._factor = self._usual / _at_least_one(total[1]) * (self.accumulate * self.world)
        return loss * (count / self._usual).to(loss.dtype)

    def finish(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the gradients those of the mean over all items, once the last round has added to them."""
        if self._factor is not None:
            gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, self._factor)
        self._begin()

    def _of_all(self, sums: Tensor) -> Tensor:
        if self.world > 1:
            sums = sums.clone()
            distributed.all_reduce(sums)
        return sums


def _at_least_one(items: Tensor) -> Tensor:
    """Where there are none, the loss is 0 and has no gradient."""
    return items.clamp(min=1)
