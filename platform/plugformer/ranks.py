"""Which of several processes that train one model this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """
    Attributes:
        number: from 0, over all nodes; what is done once is done by 0.
        world: processes in all.
        local: from 0, on this node: which of its devices is this one's.
    """

    number: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Rank:
        """As who started this process says: `plugformer train`, torchrun, or SLURM's srun; alone if nobody does."""
        for number, world, local, *others in _NAMES:
            if all(name in environment for name in (number, world, *others)):
                return cls(int(environment[number]), int(environment[world]), int(environment.get(local, 0)))
        return cls()

    @property
    def first(self) -> bool:
        return self.number == 0


# Number, processes, number on the node; and what else there is where processes were really started together: how they
# find each other, or a step of SLURM's, for the script of a job says that it is the first of as many and is alone.
_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"),
)
