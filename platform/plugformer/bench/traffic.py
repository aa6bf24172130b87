"""What a call computes and moves, counted from its operations: for the rates that a device achieves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Work(NamedTuple):
    """
    Attributes:
        flops: of matrix products and exact attention; of torch's own operations alone, not of kernels of others.
        bytes: read and written if every operation goes through memory once, views left out. Fused kernels need fewer.
    """

    flops: int
    bytes: int


class _Bytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            moved = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in moved)
        return out


def count_work(call: Callable[[], Any]) -> Work | None:
    """Work of one call; None where it can't be counted, such as inside compiled code."""
    counter = FlopCounterMode(display=False)
    try:
        with counter, _Bytes() as moved:
            call()
    except (RuntimeError, NotImplementedError, torch._dynamo.exc.TorchDynamoException):
        return None
    return Work(counter.get_total_flops(), moved.total)
