"""Learning rates that fall with depth."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from plugformer.errors import UserError
from plugformer.train.optimizers import Together


def decay_by_layer(
    optimizer: torch.optim.Optimizer, depths: Mapping[nn.Parameter, int], decay: float
) -> torch.optim.Optimizer:
    """The optimiser with each of its groups split by depth: a layer's learning rate is `decay` times that of the one
    above it (Howard and Ruder 2018, section 3.2; Clark et al. 2020, appendix A; Bao et al. 2022, appendix H).

    Args:
        optimizer: before its first step, and before a schedule knows its groups.
        depths: of each parameter; the greatest keeps its group's learning rate.
        decay: what a layer's learning rate is of that of the one above.

    Raises:
        UserError: it is made of others whose groups aren't its own.
    """
    if isinstance(optimizer, Together):
        return Together([decay_by_layer(part, depths, decay) for part in optimizer.parts])
    top = max(depths.values())
    # In place: an optimiser around another one shares the list of its groups.
    optimizer.param_groups[:] = [
        {**group, "params": parameters, "lr": group["lr"] * decay ** (top - depth)}
        for group in optimizer.param_groups
        for depth, parameters in _by_depth(group, depths)
    ]
    for name, inner in vars(optimizer).items():
        if isinstance(inner, torch.optim.Optimizer) and inner.param_groups is not optimizer.param_groups:
            raise UserError(
                f"trainer.layer_decay={decay}: {type(optimizer).__name__} holds another optimiser, {name}, whose "
                "groups are not its own, so they can't be split by layer.\n  Set trainer.layer_decay=1."
            )
    return optimizer


def _by_depth(group: Mapping[str, Any], depths: Mapping[nn.Parameter, int]) -> list[tuple[int, list[nn.Parameter]]]:
    """The parameters of a group by their depth, the deepest first."""
    found: dict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter in group["params"]:
        found[depths[parameter]].append(parameter)
    return sorted(found.items(), reverse=True)
