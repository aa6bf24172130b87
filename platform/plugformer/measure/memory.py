"""How much memory a call needs at its worst moment."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler import profile

CPU = torch.device("cpu")


def peak_memory(call: Callable[[], Any], device: torch.device = CPU) -> int:
    """Bytes that `call` holds at its worst moment, beyond what was there before; what it returns is part of it.

    On the CPU every allocation and release of torch's allocator is added up, so the figure is exact and the same at
    each call. On CUDA it is what the caching allocator had given out at its peak.

    What an earlier call has cached for later ones, such as a mask's dense form, is not seen: make such things inside
    `call` to see them, or call it once before to leave them out.
    """
    if device.type == "cuda":
        return _peak_on_cuda(call, device)
    assert device.type == "cpu", f"no memory is measured on {device}"
    profiler = profile(profile_memory=True)
    with _silence():
        profiler.__enter__()
    try:
        call()
    finally:
        with _silence():
            profiler.__exit__(None, None, None)
    results = profiler.kineto_results
    assert results is not None
    events: list[Any] = results.events()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    changes.sort(key=lambda change: change[0])  # stable: those of one instant stay in order
    return max(accumulate((count for _, count in changes), initial=0))


@contextmanager
def _silence() -> Iterator[None]:
    """The profiler's library writes of its own doings to the process's standard error, past Python's."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _peak_on_cuda(call: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
