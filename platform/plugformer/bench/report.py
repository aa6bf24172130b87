"""Everything that a benchmark found, as one JSON file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from plugformer.bench.layers import Candidate
from plugformer.bench.points import PASSES, Growth, Point, find_growth
from plugformer.bench.settings import BenchSettings
from plugformer.environment import describe_environment
from plugformer.registry import find


def find_growths(points: Sequence[Point], candidates: Sequence[Candidate], settings: BenchSettings) -> list[Growth]:
    return [
        find_growth(points, candidate.label, which, fit_from=settings.fit_from)
        for candidate in candidates
        for which in PASSES
    ]


def report(
    points: Sequence[Point], growths: Sequence[Growth], candidates: Sequence[Candidate], settings: BenchSettings
) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "machine": describe_machine(settings),
        "environment": describe_environment(),
        "candidates": [_describe(candidate) for candidate in candidates],
        "points": [point.as_json() for point in points],
        "growth": [growth.as_json() for growth in growths],
    }


def describe_machine(settings: BenchSettings) -> dict[str, Any]:
    on_cuda = settings.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_cuda else _processor(),
        "threads": settings.threads,
        "cores": os.cpu_count(),
        "clock": "CUDA events" if on_cuda else "CPU time" if settings.threads == 1 else "time of day",
        "load_average": os.getloadavg(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def _describe(candidate: Candidate) -> dict[str, Any]:
    described: dict[str, Any] = {"label": candidate.label, "peer": candidate.is_peer}
    if candidate.node is not None:
        described |= {"options": dict(candidate.node), "plugin": find("attention", candidate.node["name"]).provenance()}
    if (can := candidate.capabilities) is not None:
        described["claims"] = {"time_exponent": can.time_exponent, "memory_exponent": can.memory_exponent}
    return described
