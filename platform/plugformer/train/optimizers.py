"""Optimisers of torch under their names."""

import torch

from plugformer.errors import UserError
from plugformer.interfaces import Optimizer, ParameterGroups


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); norms, biases and embeddings are not decayed.

    Args:
        lr: the highest learning rate, reached after warm-up.
        weight_decay: times the learning rate, the share of each matrix that is taken off per step.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the root of the mean square.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr <= 0:
            raise UserError(f"optimizer.lr={lr}: must be greater than 0.")
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps

    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups.with_decay(self.weight_decay), lr=self.lr, betas=self.betas, eps=self.eps)
