"""Weights that training can go back to."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Snapshot:
    """What modules and an optimiser hold at a step, copied on their device.

    Learning rates are not part of it: they belong to the schedule, which goes on. What mechanisms draw at a step is
    theirs to draw again, as when a checkpoint is loaded.

    Args:
        step: of training, as it is counted.
        modules: all that hold weights.
        optimizer: of theirs.
    """

    @torch.no_grad()
    def __init__(self, *, step: int, modules: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> None:
        self.step = step
        self._modules = [(module, _copied(module.state_dict())) for module in modules]
        self._optimizer = optimizer
        self._states = {weight: _copied(state) for weight, state in optimizer.state.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Bring everything back. It may be done more than once."""
        for module, weights in self._modules:
            module.load_state_dict(weights)
        for weight in [weight for weight in self._optimizer.state if weight not in self._states]:
            del self._optimizer.state[weight]  # it had none yet
        for weight, before in self._states.items():
            self._optimizer.state[weight].update(_copied(before))


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in values.items()}
