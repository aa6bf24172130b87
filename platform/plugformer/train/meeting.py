"""Where processes that others started find each other."""

import json
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from lightning_fabric.plugins.environments import SLURMEnvironment
from torch.distributed import DistError, DistNetworkError, PrefixStore
from torch.distributed.rendezvous import rendezvous

from plugformer.launch.failure import PortInUse
from plugformer.ranks import Rank


class Meeting:
    """What ranks say to each other before they train, and when they fail.

    Args:
        rank: this process's; of several.
    """

    def __init__(self, *, rank: Rank) -> None:
        self.rank = rank
        find_address()
        with naming_port():
            store, *_ = next(rendezvous("env://", rank.number, rank.world))
        self._store = PrefixStore("plugformer", store)

    def shared(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """What the first rank makes, the same for all, for it may depend on the time or on chance.

        Args:
            make: gives plain values.

        Returns:
            None where the first rank could not make it. Only there is the reason raised.
        """
        if not self.rank.first:
            try:
                return json.loads(self._store.get("shared"))
            except DistError:  # it is gone
                return None
        try:
            made = make()
        except BaseException:
            self._store.set("shared", json.dumps(None))
            raise
        self._store.set("shared", json.dumps(made))
        return made

    def speaks(self) -> bool:
        """Whether this rank is the first to fail, so that it says why; the others fail because of it, or alike."""
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:  # whoever kept the count is gone
            return False


@contextmanager
def naming_port() -> Iterator[None]:
    """
    Raises:
        PortInUse: instead of what torch says.
    """
    try:
        yield
    except DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise PortInUse(
            f"MASTER_PORT={os.environ['MASTER_PORT']}: in use by another program. Set MASTER_PORT to another one."
        ) from None


def find_address(environment: MutableMapping[str, str] = os.environ) -> None:
    """SLURM names the nodes of a step; the first of them is where the processes meet, at a port of the step's own."""
    if "MASTER_ADDR" not in environment and "SLURM_STEP_ID" in environment:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        environment["MASTER_ADDR"] = SLURMEnvironment.resolve_root_node_address(nodes)
    if "MASTER_PORT" not in environment and "SLURM_STEP_ID" in environment:
        step = int(environment["SLURM_JOB_ID"]) * 31 + int(environment["SLURM_STEP_ID"])
        environment["MASTER_PORT"] = str(12000 + step % 20000)
