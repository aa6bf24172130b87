"""Running a part of a model once more so that it does exactly the same.

Blocks that recompute what they don't keep need it: the same dropout, and the same discrete choices, for a bucket that a
rounding error changes has another gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_making: list[Tensor] | None = None
_repeating: Iterator[Tensor] | None = None


def decide(choose: Callable[[], Tensor]) -> Tensor:
    """A discrete choice that a mechanism makes from its inputs, such as hash buckets: made anew, or while something is
    replayed, the one made before."""
    if _repeating is not None:
        return next(_repeating)
    choice = choose()
    if _making is not None:
        _making.append(choice)
    return choice


class Replay:
    """What must be remembered of a call so that it can be made once more.

    with replay.first(): out = part(x)
    with replay.again(): same = part(x)
    """

    def __init__(self) -> None:
        self._decisions: list[Tensor] = []

    @contextmanager
    def first(self) -> Iterator[None]:
        global _making  # noqa: PLW0603
        self._generators = _generators()
        before, _making = _making, self._decisions
        try:
            yield
        finally:
            _making = before

    @contextmanager
    def again(self) -> Iterator[None]:
        global _repeating  # noqa: PLW0603
        now = _generators()
        before, _repeating = _repeating, iter(self._decisions)
        _restore(self._generators)
        try:
            yield
        finally:
            _repeating = before
            _restore(now)


def _generators() -> list[Tensor]:
    """The states of torch's generators: the CPU's, and that of the CUDA device in use."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


def _restore(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
