"""Mechanisms compute in single precision at least: rounded to halves, hashes tie and sums over a sequence drift."""

from contextlib import AbstractContextManager, nullcontext

import torch


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers of this one are computed in."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Where products keep the precision that they are given."""
    available = torch.amp.is_autocast_available(device.type)
    if not available or not torch.is_autocast_enabled(device.type):  # to turn off what is off takes a while
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
