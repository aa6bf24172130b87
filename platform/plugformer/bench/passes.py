"""A pass through a layer, forward alone or forward and backward, ready to be called again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plugformer.bench.points import Pass


class Passes:
    """
    Args:
        layer: `[batch, length, dim]` → the same; already on its device.
        x: its input.
        gradient: of the output, for the pass back.
    """

    def __init__(self, layer: nn.Module, x: Tensor, gradient: Tensor) -> None:
        self.layer = layer
        self.x = x
        self.gradient = gradient

    @property
    def calls(self) -> dict[Pass, Callable[[], None]]:
        return {"forward": self.forward, "training": self.training}

    def forward(self) -> None:
        """As in evaluation; nothing is kept for a pass back."""
        self.layer.eval()
        with torch.no_grad():
            self.layer(self.x)

    def training(self) -> None:
        """Gradients of the input and of all weights."""
        self.layer.train()
        x = self.x.detach().requires_grad_()
        self.layer(x).backward(self.gradient)
        for parameter in self.layer.parameters():
            parameter.grad = None
