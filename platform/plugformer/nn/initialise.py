"""First values of weights, the same for the same seed and place whatever stands beside them.

Every module draws from a generator of its own, seeded by the run's seed and the module's path in the model. So two runs
that differ in one part start from bit-equal weights in all others, and their comparison measures the part.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import nn

STD = 0.02  # Devlin et al. 2019; Dosovitskiy et al. 2021


def initialise(model: nn.Module, *, seed: int) -> None:
    """Draw all weights of `model` anew.

    Linear maps and embeddings: a normal distribution of standard deviation 0.02, cut off at two of them, biases zero.
    Other modules: their own `reset_parameters`.
    """
    for path, module in model.named_modules():
        reset = _reset_of(module)
        if reset is None:
            own = [name for name, _ in module.named_parameters(recurse=False)]
            assert not own, f"{type(module).__name__} holds {', '.join(own)} and has no reset_parameters()"
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, path))
            reset()


def seed_for(seed: int, *place: object) -> int:
    """A seed of 63 bits that depends on the run's seed and a place, such as a module's path or a sample's number."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    if isinstance(module, nn.Linear | nn.Embedding):
        return lambda: _truncated_normal(module)
    return getattr(module, "reset_parameters", None)


@torch.no_grad()
def _truncated_normal(module: nn.Linear | nn.Embedding) -> None:
    nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.zero_()
