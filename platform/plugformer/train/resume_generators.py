"""The states of random generators, as data that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch
from torch import distributed

State = dict[str, Any]


def generator_states(device: torch.device) -> State:
    """Those of this process: Python's, NumPy's, torch's, and the device's where it has one of its own.

    Args:
        device: that this process trains on.
    """
    version, words, gauss = random.getstate()
    keys: Any
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    states: State = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "place": int(place),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_generator_states(states: State, device: torch.device) -> None:
    """Go on drawing as after `generator_states`; a device of another type goes on as it was seeded."""
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["place"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(states["torch"])
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])


def of_all_ranks(own: State) -> list[State]:
    """Of every process that trains, in their order; each has to call it."""
    if not distributed.is_initialized():
        return [own]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, own)
    return states
