"""What the environment tells the processes of a job."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

LOCAL = "127.0.0.1"

# What starters of processes say of them, and what Lightning leaves behind: of another job, none of ours.
_OF_OTHERS = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "NODE_RANK",
        "ROLE_NAME",
        "ROLE_RANK",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
    }
)


def rank_environments(world: int, port: int, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """Of each of `world` processes on this machine, that find each other at a port; a copy, nothing else changes."""
    common = {
        name: value
        for name, value in environment.items()
        if name not in _OF_OTHERS and not name.startswith("TORCHELASTIC_")
    }
    if world > 1:  # together they shall have as many threads as one would
        common.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // world)))
    common |= {
        "MASTER_ADDR": LOCAL,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    return [common | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(world)]


def free_port() -> int:
    """One that nobody listens on, at this moment."""
    with socket.socket() as found:
        found.bind((LOCAL, 0))
        return found.getsockname()[1]


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
