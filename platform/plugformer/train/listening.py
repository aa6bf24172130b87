"""What mechanisms are given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from plugformer.interfaces import Attention

Call = tuple[Any, ...]  # q, k, v, mask and perhaps bias


@contextmanager
def listening(mechanisms: Sequence[Attention]) -> Iterator[dict[int, Call]]:
    """What each mechanism is given first, by its id."""
    calls: dict[int, Call] = {}

    def listen(mechanism: nn.Module, given: Call) -> None:
        calls.setdefault(id(mechanism), given)

    hooks = [mechanism.register_forward_pre_hook(listen) for mechanism in mechanisms]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
