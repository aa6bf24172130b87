"""Whether the processes that train are those that the settings ask for."""

import os
from collections.abc import Mapping

import torch

from plugformer.errors import UserError, counted
from plugformer.ranks import Rank
from plugformer.settings import TrainerSettings


def check_processes(rank: Rank, settings: TrainerSettings, environment: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        UserError: more or fewer processes than devices, or more of them than this machine has.
    """
    asked = settings.devices * settings.num_nodes
    here = int(environment.get("LOCAL_WORLD_SIZE", settings.devices))
    if rank.world != asked or (rank.world > 1 and here != settings.devices):
        raise UserError(_mismatch(rank, settings, environment))
    check_devices(settings)


def check_devices(settings: TrainerSettings) -> None:
    """
    Raises:
        UserError: more devices than this machine has; of the CPU any number of processes is one.
    """
    if settings.devices == 1:
        return
    on = settings.accelerator
    if on == "auto":
        on = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"gpu": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(on, settings.devices)
    if there < settings.devices:
        what = counted(there, {"gpu": "GPU"}.get(on, on)) if there else f"no {on.upper()}"
        instead = f"trainer.devices={there}" if there else "trainer.accelerator=cpu"
        raise UserError(
            f"trainer.devices={settings.devices}: there {'is' if there <= 1 else 'are'} {what} here "
            f"(trainer.accelerator={settings.accelerator}). Set {instead}."
        )


def _mismatch(rank: Rank, settings: TrainerSettings, environment: Mapping[str, str]) -> str:
    asked = f"trainer.devices={settings.devices} × trainer.num_nodes={settings.num_nodes}"
    total = settings.devices * settings.num_nodes
    if rank.world == 1:
        return (
            f"{asked} asks for {total} processes, and this one is alone. `plugformer train` starts those of one "
            "machine; of several, torchrun or srun do, with one process for each device."
        )
    starter = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "srun" if "RANK" not in environment else ""
    started = (
        f"{starter} started {rank.world} processes"
        if starter
        else f"RANK and WORLD_SIZE say that there are {rank.world} processes"
    )
    local = environment.get("LOCAL_WORLD_SIZE") or environment.get("SLURM_NTASKS_PER_NODE", "")
    devices = int(local) if local.isdigit() and rank.world % int(local) == 0 else rank.world
    unset = "" if starter else ", or unset these variables"
    return (
        f"{asked} = {total}, and {started}.\n"
        f"  Set trainer.devices={devices} trainer.num_nodes={rank.world // devices}{unset}."
    )
