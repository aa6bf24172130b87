"""The processes that train one model together."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from plugformer.ranks import Rank


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
    distributed.init_process_group("nccl" if on_gpu else "gloo", rank=rank.number, world_size=rank.world)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wait_for_all() -> None:
    """Until every rank has come here."""
    if distributed.is_initialized():
        distributed.barrier()
