"""What a loop spends its time on, part by part."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any, Protocol

import torch


class Clock(Protocol):
    def now(self) -> Any:
        """A mark at this moment; it must cost next to nothing and wait for nothing."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks; may wait until both are reached."""


class HostClock:
    """The time of day, on which the work of a CPU is done when it is asked for."""

    def now(self) -> float:
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class DeviceClock:
    """The time at which an accelerator gets to where it was told of a mark, without waiting for it to get there.

    What it takes to bring about work counts where the device had to wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._module = torch.get_device_module(device)

    def now(self) -> Any:
        event = self._module.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1000  # it is told in milliseconds


def clock_of(device: torch.device) -> Clock:
    return HostClock() if device.type == "cpu" else DeviceClock(device)


class Stopwatch:
    """Sums up how long each part took since it was last read.

    Args:
        clock: which takes the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[str | None, Any]] = []

    def start(self, part: str | None) -> None:
        """End the part that there was and begin this one; None for what is not counted."""
        self._marks.append((part, self._clock.now()))

    def read(self) -> dict[str, float]:
        """Seconds of each part up to the last mark, and from there anew."""
        seconds: dict[str, float] = defaultdict(float)
        for (part, begin), (_, end) in pairwise(self._marks):
            if part is not None:
                seconds[part] += self._clock.seconds(begin, end)
        del self._marks[:-1]
        return dict(seconds)
