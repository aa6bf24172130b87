"""Numbers to try, and how two results are compared."""

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    """The same standard normal numbers at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Deviation:
    """The largest that the comparisons of a law have seen; None as long as there was none."""

    worst: float | None = None


_deviation: ContextVar[Deviation | None] = ContextVar("_deviation", default=None)


@contextmanager
def watch_deviation() -> Iterator[Deviation]:
    """For whoever runs laws and wants to tell how narrowly they hold."""
    watching = _deviation.set(Deviation())
    try:
        yield _deviation.get()  # type: ignore[misc]
    finally:
        _deviation.reset(watching)


def note_deviation(size: float) -> None:
    """Tell whoever watches how far something was from what it should be."""
    seen = _deviation.get()
    if seen is not None and not size <= (-1.0 if seen.worst is None else seen.worst):  # NaN is worst
        seen.worst = size


def _note_difference(actual: Tensor, expected: Tensor) -> None:
    if actual.shape == expected.shape and actual.numel() and actual.is_floating_point():
        note_deviation((actual.detach() - expected.detach()).abs().max().item())


def assert_close(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-5, what: str = "") -> None:
    """Within `tolerance` of numbers around 1, whatever order a sum was taken in."""
    _note_difference(actual, expected)

    def say(message: str) -> str:
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            return f"{what}\n{message}".strip()
        worst = (actual.detach() - expected.detach()).abs().max().item()
        return f"{what or 'what comes out'}: differs by {worst:.1e}, {tolerance:g} is allowed"

    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, msg=say)


def assert_same(actual: Any, expected: Any, *, what: str = "what comes out") -> None:
    """Equal to the bit: tensors, and mappings and tuples of such and of plain values."""
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype
        _note_difference(actual, expected)
        assert torch.equal(actual, expected), f"{what} is not the same"
    elif isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key], what=f"{what}: {key}")
    elif isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, what=what)
    else:
        assert actual == expected


def applies_if(condition: bool, otherwise: str) -> None:
    """Leave out a law that a plugin does not claim to obey."""
    if not condition:
        raise SkipTest(otherwise)


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out without filling it holds NaN."""
    memory: Any = torch.utils.deterministic
    before = (torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory)
    try:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = True
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]


@contextmanager
def draws_nothing(*, but: str = "") -> Iterator[None]:
    """Assert that the generators of torch, numpy and Python stay as they are, all but one."""
    before = _generators()
    yield
    for name, state in _generators().items():
        assert name == but or state == before[name], f"draws from {name}'s generator"


def _generators() -> dict[str, Any]:
    numpy, python = pickle.dumps(np.random.get_state()), random.getstate()
    return {"torch": torch.get_rng_state().tolist(), "numpy": numpy, "Python": python}
