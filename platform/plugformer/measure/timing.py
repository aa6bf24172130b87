"""How long calls take, measured side by side."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

CPU = torch.device("cpu")


def interleaved_times(
    calls: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = 5,
    device: torch.device = CPU,
    at_least: float = 0.0,
    wall: bool = False,
    warm_up: bool = True,
    heed: Callable[[str, float], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds that each call takes, `repeats` figures for each.

    Each is called once to warm up. Then the calls take turns, each round beginning with another, so that whatever else
    the machine does falls on all of them alike.

    Args:
        calls: by name.
        repeats: rounds.
        device: on the CPU, the process's CPU time, of all threads together; it does not count what other processes do.
            On CUDA, the device's time between two events.
        at_least: a shorter call is repeated within a round until it has taken this many seconds, and the mean counts.
        wall: take the time of day on the CPU instead: for several threads on a machine that does nothing else.
        warm_up: leave out the first call of each, if they have been called before.
        heed: is told each figure when it is there.
    """
    assert device.type in ("cpu", "cuda"), f"no time is measured on {device}"
    clock = _time_on_cuda if device.type == "cuda" else _time_of_day if wall else _time_on_cpu
    times: dict[str, list[float]] = {name: [] for name in calls}
    counts = {}
    for name, call in calls.items():
        if warm_up:
            call()
        once = clock(call, 1, device) if at_least else at_least
        counts[name] = max(1, round(at_least / once)) if once else 1
    names = list(calls)
    for number in range(repeats):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(clock(calls[name], counts[name], device))
            if heed is not None:
                heed(name, times[name][-1])
    return times


def _time_on_cpu(call: Callable[[], Any], count: int, device: torch.device) -> float:
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def _time_of_day(call: Callable[[], Any], count: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _time_on_cuda(call: Callable[[], Any], count: int, device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1000 / count
