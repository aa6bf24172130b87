"""The processes that train one model together."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from plugformer.ranks import Rank
from plugformer.train.meeting import find_address, naming_port

PATIENCE = timedelta(hours=2)  # with which ranks wait for one that learns a vocabulary or writes a checkpoint


@contextmanager
def joined(rank: Rank, accelerator: str) -> Iterator[None]:
    """Within the group of all ranks, which find each other by MASTER_ADDR and MASTER_PORT; Lightning uses it as it is.

    Args:
        rank: this process's.
        accelerator: as `trainer.accelerator`; decides what they speak over.
    """
    if rank.world == 1:
        yield
        return
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(rank.local)
    backend = "nccl" if on_gpu else "gloo"
    find_address()
    with naming_port():
        distributed.init_process_group(backend, rank=rank.number, world_size=rank.world, timeout=PATIENCE)
    try:
        yield
    except Exception as error:
        error.__dict__.setdefault("failed_at", time.monotonic())  # before others fail because this one leaves
        raise
    finally:
        distributed.destroy_process_group()


def wait_for_all() -> None:
    """Until every rank has come here."""
    if distributed.is_initialized():
        distributed.barrier()


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over all ranks."""
    return _reduced(values, device, distributed.ReduceOp.SUM)


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of any rank."""
    return _reduced(values, device, distributed.ReduceOp.MAX)


def _reduced(values: Sequence[float], device: torch.device, how: Any) -> list[float]:
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    distributed.all_reduce(tensor, how)
    return tensor.tolist()
