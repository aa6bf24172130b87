"""Running a part of a model once more so that it does exactly the same.

Blocks that recompute what they don't keep need it: the same dropout, the same precision, and the same discrete choices,
for a bucket that a rounding error changes has another gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

_current: Replay | None = None


def decide(choose: Callable[[], Tensor]) -> Tensor:
    """A discrete choice that a mechanism makes from its inputs, such as hash buckets: made anew, or while something is
    replayed, the one made before. It carries no gradient.

    What is chosen is remembered in the type it has, for each layer: a small one keeps memory small.
    """
    if _current is None:
        with torch.no_grad():
            return choose()
    return _current.decide(choose)


class Replay:
    """What must be remembered of a call so that it can be made once more, any number of times.

    replay = Replay(x.device)
    with replay.first(): out = part(x)
    with replay.again(): same = part(x)

    Remembered are the states of the generators (the CPU's and the device's, and only if something was drawn), whether
    autocast was on, and what was decided. A part must be in the same mode both times, and must not change its buffers.
    """

    def __init__(self, device: torch.device) -> None:
        self._repeating = False
        self._device = device
        self._drawn_from: list[Tensor] | None = None
        self._decisions: list[Tensor] = []
        self._number = 0  # of the next decision

    @contextmanager
    def first(self) -> Iterator[None]:
        before = _generators(self._device)
        self._autocast = _autocast(self._device.type)
        with self._in_charge(repeating=False):
            yield
        after = _generators(self._device)
        with _disable_current_modes():  # such as one in which tensors hold no numbers; a generator's state does
            drawn = not all(map(torch.equal, before, after))
        self._drawn_from = before if drawn else None

    @contextmanager
    def again(self) -> Iterator[None]:
        now = None if self._drawn_from is None else _generators(self._device)
        self._number = 0
        try:
            if self._drawn_from is not None:
                _restore(self._drawn_from, self._device)
            with self._in_charge(repeating=True), self._autocast():
                yield
        finally:
            if now is not None:
                _restore(now, self._device)

    @contextmanager
    def _in_charge(self, *, repeating: bool) -> Iterator[None]:
        global _current  # noqa: PLW0603
        before, _current, self._repeating = _current, self, repeating
        try:
            yield
        finally:
            _current = before

    @torch._disable_dynamo  # so that what is compiled is the same both times
    def decide(self, choose: Callable[[], Tensor]) -> Tensor:
        if not self._repeating:
            with torch.no_grad():
                self._decisions.append(choose())
            return self._decisions[-1]
        assert self._number < len(self._decisions), "more is decided than the first time"
        self._number += 1
        return self._decisions[self._number - 1]


def _generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators: the CPU's, and the device's where it has one of its own."""
    own = [] if device.type in ("cpu", "meta") else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, device)


def _autocast(device_type: str) -> Callable[[], Any]:
    """Makes the autocast that there is now, once more."""
    if not torch.amp.is_autocast_available(device_type):
        return lambda: torch.autocast("cpu", enabled=False)
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    cached = torch.is_autocast_cache_enabled()
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cached)
