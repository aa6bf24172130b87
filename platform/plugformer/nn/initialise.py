"""First values of weights, the same for the same seed and place whatever stands beside them.

Every module draws from a generator of its own, seeded by the run's seed and the module's path in the model. So two runs
that differ in one part start from bit-equal weights in all others, and their comparison measures the part.

How it draws is the `Scheme` of the nearest module around it that has one under `scheme`, such as a backbone.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from plugformer.errors import UserError

STD = 0.02  # Devlin et al. 2019; Dosovitskiy et al. 2021

Weights = Literal["truncated", "xavier", "lecun"]
Residual = Literal["same", "depth_scaled", "zero"]


class ResidualLinear(nn.Linear):
    """The last linear map of a residual branch: what comes out is added to the residual stream."""


@dataclass(frozen=True)
class Scheme:
    """How linear maps and embeddings start; biases are zero.

    Attributes:
        weights: of linear maps. `truncated`: a normal distribution of standard deviation 0.02, cut off at two of them
            (Devlin et al. 2019). `xavier`: uniform, of variance 2 / (inputs + outputs) (Glorot and Bengio 2010).
            `lecun`: normal, of variance 1 / inputs (LeCun et al. 1998). Embeddings are `truncated` in all of them.
        residual: of those that write to the residual stream. `same`: as the others. `depth_scaled`: the same over the
            root of the number of residual branches (Radford et al. 2019, section 2.3). `zero`: zeros, so that a branch
            starts by adding nothing (Goyal et al. 2017, section 5.1).
        num_branches: residual branches in the whole model.
    """

    weights: Weights = "truncated"
    residual: Residual = "same"
    num_branches: int = 1

    def reaching(self, branch: nn.Module) -> nn.Module:
        """The branch itself, once it is sure that `residual` finds the map it is meant for.

        Raises:
            UserError: it doesn't.
        """
        if self.residual != "same" and not any(isinstance(module, ResidualLinear) for module in branch.modules()):
            raise UserError(
                f"backbone.residual_init={self.residual}: {type(branch).__name__} doesn't say which of its linear maps "
                "writes to the residual stream, by making it a ResidualLinear.\n  Set backbone.residual_init=same."
            )
        return branch

    @torch.no_grad()
    def draw(self, module: nn.Linear | nn.Embedding) -> None:
        if isinstance(module, nn.Embedding) or self.weights == "truncated":
            nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
        elif self.weights == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, ResidualLinear):
            module.weight.mul_({"same": 1.0, "depth_scaled": self.num_branches**-0.5, "zero": 0.0}[self.residual])
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()


def initialise(model: nn.Module, *, seed: int) -> None:
    """Draw all weights of `model` anew.

    Linear maps and embeddings: as the scheme around them says, or the default one. Other modules: their own
    `reset_parameters`.
    """
    schemes: dict[str, Scheme] = {}
    for path, module in model.named_modules():
        around = schemes.get(path.rpartition(".")[0], Scheme())
        schemes[path] = getattr(module, "scheme", around)
        reset = _reset_of(module, schemes[path])
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


def _reset_of(module: nn.Module, scheme: Scheme) -> Callable[[], None] | None:
    if isinstance(module, nn.Linear | nn.Embedding):
        return lambda: scheme.draw(module)
    return getattr(module, "reset_parameters", None)
