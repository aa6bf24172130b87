"""How devices share the work of one model."""

from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from plugformer.ranks import Rank
from plugformer.settings import TrainerSettings


def data_rank(rank: Rank, settings: TrainerSettings) -> Rank:
    """Which of the processes that share the data this one is; those that share a layer read the same."""
    return rank


def make_strategy(rank: Rank, settings: TrainerSettings) -> Any:
    """Lightning's strategy, for ranks that run already."""
    return "auto" if rank.world == 1 else DDPStrategy()
