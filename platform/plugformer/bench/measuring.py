"""The measurement itself: length by length, all candidates taking turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugformer.bench.layers import Candidate
from plugformer.bench.passes import Passes
from plugformer.bench.points import Cost, Point
from plugformer.bench.settings import BenchSettings
from plugformer.bench.traffic import count_work
from plugformer.errors import UserError
from plugformer.measure import interleaved_times, peak_memory

SHORTEST = 0.02  # seconds; quicker calls are repeated within a round
QUADRATIC = 2.0  # growth that is feared until it is known better


def settle(settings: BenchSettings) -> BenchSettings:
    """The settings with every `auto` decided.

    Raises:
        UserError: CUDA is asked for and isn't there.
    """
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise UserError("device=cuda: torch sees no CUDA device here. Leave device out, or set device=cpu.")
    device = settings.device if settings.device != "auto" else "cuda" if has_cuda else "cpu"
    dtype = settings.dtype if settings.dtype != "auto" else "bfloat16" if device == "cuda" else "float32"
    limit = settings.limit_gib or 0.8 * free_memory(torch.device(device)) / 2**30
    return replace(settings, device=device, dtype=dtype, limit_gib=limit)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0] != "max":  # a container's share
        free.append(int(limit[0]) - int(used[0]))
    return min(free)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def measure(
    candidates: Sequence[Candidate],
    settings: BenchSettings,
    *,
    before: Sequence[Point] = (),
    heed: Callable[[list[Point]], None] = lambda points: None,
) -> list[Point]:
    """The points of all lengths.

    Args:
        candidates: what to measure.
        settings: settled.
        before: points of shorter lengths, to foresee by them what would be too much.
        heed: is told the points of the length in work whenever one of them changes.
    """
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(settings.threads)
        if settings.compile:  # torch would give up and go on uncompiled, silently, once it has seen a few layers
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10000))
        measured: list[Point] = []
        for length in settings.length:
            measured += _measure_length(candidates, settings, length, [*before, *measured], heed)
        return measured


def _measure_length(
    candidates: Sequence[Candidate],
    settings: BenchSettings,
    length: int,
    before: Sequence[Point],
    heed: Callable[[list[Point]], None],
) -> list[Point]:
    points = [Point(candidate.label, length) for candidate in candidates]
    device, timed = torch.device(settings.device), {}
    x, gradient = _inputs(settings, length)
    quickest = float("inf")
    if settings.compile:
        torch._dynamo.reset()
    heed(points)
    for candidate, point in zip(candidates, points, strict=True):
        point.note = _too_much([p for p in before if p.label == candidate.label], length, settings)
        if not point.note:
            try:
                passes = _prepare(candidate, settings, length, x, gradient)
                for which, call in passes.calls.items():
                    start = time.perf_counter()
                    point.costs[which] = Cost(peak_memory(call, device))
                    quickest = min(quickest, time.perf_counter() - start)
                    heed(points)
                timed[candidate.label] = (point, passes)
            except UserError as error:
                point.costs, point.note = {}, str(error)
            except Exception as error:  # of whatever kind: it is reported, and the others go on
                first = str(error).strip().partition("\n")[0]
                point.costs, point.note, point.failed = {}, f"failed: {type(error).__name__}: {first[:200]}", True
        heed(points)
    costs = {
        f"{label} {which}": (call, point.costs[which])
        for label, (point, passes) in timed.items()
        for which, call in passes.calls.items()
    }

    if not costs:
        return points

    def note_time(name: str, seconds: float) -> None:
        costs[name][1].seconds.append(seconds)
        heed(points)

    interleaved_times(
        {name: call for name, (call, _) in costs.items()},
        repeats=settings.repeats,
        device=device,
        at_least=SHORTEST if quickest < SHORTEST or device.type == "cuda" else 0.0,
        wall=settings.threads > 1,
        warm_up=False,
        heed=note_time,
    )
    if device.type == "cuda" and not settings.compile:
        for call, cost in costs.values():
            if (work := count_work(call)) is not None:
                cost.flops, cost.bytes = work
        heed(points)
    return points


def _prepare(candidate: Candidate, settings: BenchSettings, length: int, x: Tensor, gradient: Tensor) -> Passes:
    torch.manual_seed(settings.seed)
    layer = candidate.make(length).to(x.device, x.dtype)
    if not settings.compile:
        return Passes(layer, x, gradient)
    compiled: Any = torch.compile(layer, dynamic=False)
    passes = Passes(compiled, x, gradient)
    for call in passes.calls.values():  # compiling is no part of what is measured
        call()
    return passes


def _inputs(settings: BenchSettings, length: int) -> tuple[Tensor, Tensor]:
    """A sequence and the gradient of what a layer makes of it."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape, dtype = (settings.batch, length, settings.dim), getattr(torch, settings.dtype)
    x, gradient = (torch.randn(shape, generator=generator).to(settings.device, dtype) for _ in range(2))
    return x, gradient


def _too_much(before: Sequence[Point], length: int, settings: BenchSettings) -> str:
    """Why a length is left out, judged by those before it; empty if it isn't."""
    known = [point for point in before if "training" in point.costs and point.costs["training"].seconds]
    if not known:
        return ""
    seconds = _foresee([(p.length, p.costs["training"].median or 0.0) for p in known], length)
    gib = _foresee([(p.length, p.costs["training"].peak / 2**30) for p in known], length)
    if seconds > settings.limit_s:
        return f"left out: about {_round(seconds)} s a pass, over limit_s={settings.limit_s:g}"
    if settings.limit_gib is not None and gib > settings.limit_gib:
        return f"left out: about {_round(gib)} GiB, over limit_gib={_round(settings.limit_gib)}"
    return ""


def _round(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _foresee(costs: Sequence[tuple[int, float]], length: int) -> float:
    """A cost at a further length, growing as between the last two."""
    (last, cost), growth = costs[-1], 1.0
    if len(costs) == 1:
        growth = (length / last) ** QUADRATIC
    elif costs[-2][1] > 0:
        growth = max(1.0, cost / costs[-2][1]) ** (log(length / last) / log(last / costs[-2][0]))
    return cost * growth
