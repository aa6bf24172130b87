"""How large gradients and updates are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugformer.spread import norm_of


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of all of them as one vector; those without a gradient count for nothing."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    return norm_of([parameter.grad for parameter in learning if parameter.grad is not None], learning)


class Update:
    """What a step does to weights, which are remembered as they were before it.

    Args:
        parameters: before the step; for as long as this lives, they take their memory twice.
    """

    @torch.no_grad()
    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._before = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The norm of the change since, relative to that of the weights now; these may have been zeros."""
        change = [now - before for now, before in zip(self._parameters, self._before, strict=True)]
        size = norm_of([parameter.detach() for parameter in self._parameters], self._parameters)
        return norm_of(change, self._parameters) / size.clamp(min=torch.finfo(size.dtype).tiny)
