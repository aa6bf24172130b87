"""What was taken for what, where there are too many labels for a matrix."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ConfusedPairs(Metric):
    """Int `[pairs, 3]`: the true and the predicted class of all pairs that occurred, and how often.

    It needs memory for each sample, not for each pair of classes.

    Args:
        classes: how many there are.
    """

    is_differentiable = False
    full_state_update = False
    pairs: list[Tensor] | Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, predictions: Float[Tensor, "batch classes"], targets: Int[Tensor, "batch"]) -> None:
        assert isinstance(self.pairs, list), "not yet reduced"
        self.pairs.append(targets * self.classes + predictions.argmax(-1))

    def compute(self) -> Int[Tensor, "pairs 3"]:
        pairs, counts = dim_zero_cat(self.pairs).unique(return_counts=True)
        return torch.stack([pairs // self.classes, pairs % self.classes, counts], -1)
