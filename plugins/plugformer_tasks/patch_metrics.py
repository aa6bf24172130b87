"""How well continuous tokens are predicted, beside predictions that need no model."""

import torch
from torch import Tensor
from torchmetrics import Metric

ROUNDING = 1e-6  # a mean square that is less of its parts is what rounding leaves of zero


class _Errors(Metric):
    """Sums over `predictions` and `targets` as in `PatchesOutput`, from which each subclass computes its own."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    error: Tensor
    neighbour: Tensor
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, *, token_dim: int) -> None:
        super().__init__()
        for name in ("error", "neighbour", "squares"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(token_dim), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        counts, target = targets[..., 0], targets[..., 1:]
        self.error = self.error + predictions[..., 0].sum()
        self.neighbour = self.neighbour + predictions[..., 1].sum()
        self.total = self.total + target.flatten(0, -2).sum(0)
        self.squares = self.squares + target.square().mean(-1).sum()
        self.count = self.count + counts.sum().long()

    def over(self, baseline: Tensor) -> Tensor:
        """The error as a multiple of another sum of errors; nothing, a tensor without elements, if that is zero."""
        return self.error / baseline if baseline > ROUNDING * self.squares else self.error.new_zeros(0)


class Error(_Errors):
    """The mean squared error, of targets as they are predicted."""

    def compute(self) -> Tensor:
        return self.error / self.count if self.count else self.error.new_zeros(0)


class AgainstMean(_Errors):
    """The error over that of always predicting the mean of all targets; below 1 is better."""

    def compute(self) -> Tensor:
        count = self.count.clamp(min=1)
        return self.over(self.squares - count * (self.total / count).square().mean())


class AgainstNeighbour(_Errors):
    """The error over that of copying the target of the nearest token that was visible; below 1 is better."""

    def compute(self) -> Tensor:
        return self.over(self.neighbour)
