"""Weights of positions that were learned on one grid, brought to another."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Grid, Position, Tokenizer, TokenSpec
from plugformer.model import Model
from plugformer.registry import build
from plugformer.weights.source import Weights


@dataclass(frozen=True)
class Interpolated:
    """
    Attributes:
        names: of the tensors.
        theirs, ours: the grids, before and after.
    """

    names: tuple[str, ...]
    theirs: Grid
    ours: Grid

    def __str__(self) -> str:
        return f"positions interpolated from {_shape(self.theirs)} to {_shape(self.ours)}"


def tokens_of(weights: Weights) -> TokenSpec | None:
    """What the tokens are that the weights were trained on; None if nobody can tell."""
    if weights.tokenizer is None or "tokenizer" not in weights.composition:
        return None
    with suppress(OSError, KeyError, TypeError, ValueError, UserError):  # not installed here, of other options, damaged
        tokenizer: Tokenizer = build("tokenizer", weights.composition["tokenizer"])
        tokenizer.load(weights.tokenizer)
        return tokenizer.spec
    return None


def interpolate(
    weights: Weights, model: Model, theirs: TokenSpec | None, ours: TokenSpec
) -> tuple[Weights, Interpolated | None]:
    """The weights with those of positions brought to the grid of a model, and which these are; None if there are none.

    Text is not stretched: its places are counted, and don't divide one extent.

    Args:
        weights: whose tensors alone matter.
        model: that they are for.
        theirs, ours: the tokens of either.
    """
    if theirs is None or theirs.grid == ours.grid or {theirs.token_kind, ours.token_kind} != {"continuous"}:
        return weights, None
    brought: dict[str, Tensor] = {}
    for place, module in model.named_modules():
        if isinstance(module, Position):
            own = _under(f"{place}.", weights.tensors)
            resized = module.resized(own, (theirs.grid,))
            brought |= {f"{place}.{name}": tensor for name, tensor in resized.items() if tensor is not own[name]}
    if not brought:
        return weights, None
    found = Interpolated(tuple(brought), theirs.grid, ours.grid)
    return replace(weights, tensors={**weights.tensors, **brought}), found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shape(grid: Grid) -> str:
    return " × ".join(map(str, grid.shape))
