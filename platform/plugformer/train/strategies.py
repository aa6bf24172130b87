"""How devices share the work of one model."""

from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from plugformer.ranks import Rank
from plugformer.settings import TrainerSettings
from plugformer.train.divided import FullySharded, TensorParallel


def data_rank(rank: Rank, settings: TrainerSettings) -> Rank:
    """Which of the processes that share the data this one is; those that share a layer read the same."""
    return Rank() if settings.strategy == "tensor_parallel" else rank


def make_strategy(rank: Rank, settings: TrainerSettings) -> Any:
    """Lightning's strategy, for ranks that run already."""
    if rank.world == 1:
        return "auto"
    if settings.strategy == "fsdp":
        sharded = settings.checkpoint == "sharded"
        return FullySharded(world=rank.world, precision=settings.precision, sharded_checkpoints=sharded)
    if settings.strategy == "tensor_parallel":
        return TensorParallel(world=rank.world)
    return DDPStrategy()
