"""From hidden states to continuous tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import Output, TokenSpec
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.norms import LayerNorm
from plugformer_tasks.patch_metrics import AgainstMean, AgainstNeighbour, Error

Loss = Literal["l1", "l2"]

EPS = 1e-6  # added to a token's variance (He et al. 2022, in their code)


@dataclass
class PatchesOutput(Output):
    """
    `predictions` are float `[batch, places, 2]`: the mean squared error of what is predicted at each place, and that of
    copying a neighbour, which is NaN while training. `targets` are float `[batch, places, 1 + token_dim]`: whether a
    place counts (1) or not (0; all else is 0 then too), and what is to be predicted.

    Attributes:
        predicted: float `[batch, places, token_dim]`, in the space of the targets.
    """

    predicted: Tensor | None = None


class PatchOutput(nn.Module):
    """Raw tokens from hidden states by a linear map, perhaps behind some layers more.

    Args:
        dim: of the hidden states.
        tokens: that are predicted.
        normalise: whether each is brought to mean 0 and deviation 1 first (He et al. 2022, section 4.1).
        loss: `l1`, the mean absolute error (Xie et al. 2022), or `l2`, the mean squared one (He et al. 2022).
        layers: residual feed-forward layers before the linear map (El-Nouby et al. 2024, section 3.2).

    Raises:
        UserError: options out of range, or tokens that have no deviation.
    """

    def __init__(self, *, dim: int, tokens: TokenSpec, normalise: bool, loss: Loss = "l2", layers: int = 0) -> None:
        super().__init__()
        if tokens.token_dim == 1 and normalise:
            raise UserError(
                "task.normalise=true: the tokens of this tokenizer are single numbers, which have no deviation.\n"
                "  Set task.normalise=false, or choose larger patches."
            )
        if layers < 0:
            raise UserError(f"task.head_layers={layers}: must not be negative.")
        self.token_dim = tokens.token_dim or 1  # discrete tokens are refused once it is known what is needed
        self.normalise = normalise
        self.loss = loss
        self.layers = nn.ModuleList(ResidualMlp(dim=dim) for _ in range(layers))
        self.linear = nn.Linear(dim, self.token_dim)

    def forward(
        self,
        hidden: Float[Tensor, "batch places dim"],
        raw: Float[Tensor, "batch places token_dim"],
        counts: Bool[Tensor, "batch places"],
        neighbour: Float[Tensor, "batch places token_dim"] | None = None,
    ) -> PatchesOutput:
        """How far from the raw tokens what is predicted of them is.

        Args:
            hidden: a state for each place that predicts.
            raw: the token that is to be predicted there.
            counts: which places count.
            neighbour: the raw token that could be copied instead; None if nobody wants to know.
        """
        for layer in self.layers:
            hidden = layer(hidden)
        predicted, target = _wide(self.linear(hidden)), self.target(raw)
        error = (predicted - target).where(counts[..., None], 0.0)
        each = (error.abs() if self.loss == "l1" else error.square()).mean(-1)
        weight = counts.sum()
        squared = error.square().mean(-1)
        copied = torch.full_like(squared, torch.nan)
        if neighbour is not None:
            copied = (self.target(neighbour) - target).where(counts[..., None], 0.0).square().mean(-1)
        told = torch.cat([counts[..., None].to(target), target.where(counts[..., None], 0.0)], -1)
        loss = each.sum() / weight.clamp(min=1)
        return PatchesOutput(loss, torch.stack([squared, copied], -1), told, weight, predicted=predicted)

    def losses(self, output: PatchesOutput) -> Float[Tensor, "batch"]:
        """Of each sample: the mean over its tokens that count."""
        assert output.predicted is not None and output.targets is not None, "there are targets"
        counts, target = output.targets[..., :1], output.targets[..., 1:]
        error = (output.predicted - target).where(counts > 0, 0.0)
        each = (error.abs() if self.loss == "l1" else error.square()).mean(-1)
        return each.sum(1) / counts[..., 0].sum(1).clamp(min=1)

    def target(self, raw: Float[Tensor, "*any token_dim"]) -> Float[Tensor, "*any token_dim"]:
        raw = _wide(raw)
        if not self.normalise:
            return raw
        mean, deviation = _statistics(raw)
        return (raw - mean) / deviation

    def shown(
        self, predicted: Float[Tensor, "*any token_dim"], raw: Float[Tensor, "*any token_dim"]
    ) -> Float[Tensor, "*any token_dim"]:
        """Predictions as raw tokens: with the mean and deviation of the true ones, which no model is asked for."""
        if not self.normalise:
            return predicted
        mean, deviation = _statistics(_wide(raw))
        return predicted * deviation + mean

    def metrics(self) -> Mapping[str, Metric]:
        kinds: dict[str, type[Metric]] = {
            "error": Error,
            "against_mean": AgainstMean,
            "against_neighbour": AgainstNeighbour,
        }
        return {name: kind(token_dim=self.token_dim) for name, kind in kinds.items()}


class ResidualMlp(nn.Module):
    """A block without attention: each token by itself."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim=dim)
        self.mlp = Mlp(dim=dim)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return x + self.mlp(self.norm(x))


def describe_errors(output: Output, *, counted: str) -> list[dict[str, Any]]:
    """Of each sample alone: how many tokens were predicted, their error, and that over a copied neighbour's.

    Args:
        output: of a task.
        counted: the name for their number.
    """
    assert output.targets is not None
    error, neighbour = output.predictions.sum(1).T.tolist()
    numbers = output.targets[..., 0].sum(1).long().tolist()
    return [
        {counted: number, "error": e / number if number else None, "against_neighbour": e / n if n else None}
        for number, e, n in zip(numbers, error, neighbour, strict=True)
    ]


def with_pictures(described: list[dict[str, Any]], pictures: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """To what is said of each sample its `picture`: of those of a batch, by their captions, its own."""
    return [
        {"picture": {caption: each[number] for caption, each in pictures.items()}, **found}
        for number, found in enumerate(described)
    ]


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: differences and variances of numbers in bfloat16 are too coarse."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _statistics(raw: Float[Tensor, "*any token_dim"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each token, `[..., 1]`."""
    return raw.mean(-1, keepdim=True), (raw.var(-1, keepdim=True) + EPS).sqrt()
