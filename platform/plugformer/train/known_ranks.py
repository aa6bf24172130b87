"""Ranks that run already, as Lightning is told of them."""

import os

from lightning_fabric.plugins.environments import ClusterEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from plugformer.ranks import Rank


class KnownRanks(ClusterEnvironment):
    """However they were started: by `plugformer train`, torchrun or srun; and one that is alone, whatever variables of
    other jobs stand in its environment.

    Args:
        rank: this process's.
        devices: ranks on each node.
    """

    def __init__(self, rank: Rank, *, devices: int) -> None:
        super().__init__()
        self._rank, self._devices = rank, devices
        rank_zero_only.rank = rank.number  # type: ignore[attr-defined]

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return False  # nobody has to look for them

    def world_size(self) -> int:
        return self._rank.world

    def set_world_size(self, size: int) -> None:
        assert size == self._rank.world

    def global_rank(self) -> int:
        return self._rank.number

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._rank.number

    def local_rank(self) -> int:
        return self._rank.local

    def node_rank(self) -> int:
        return self._rank.number // self._devices
