"""What is known of a metric by its name."""

from __future__ import annotations

from plugformer.track.directions import LESS, MORE


def lower_is_better(metric: str) -> bool | None:
    """None where that isn't known."""
    name = metric.rpartition("/")[2]
    if name in LESS:
        return True
    return False if name in MORE else None
