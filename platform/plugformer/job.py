"""Which job of a sweep a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """
    Attributes:
        group: of the whole sweep, the same for all its jobs: its folder.
        number: from 0.
        name: what it was told apart from others by: its overrides, as in `attention=bigbird,seed=1`.
    """

    group: str
    number: int
    name: str
