"""What the tasks that predict discrete tokens share."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import Output, Token, Tokens, TokenSpec, Trunk
from plugformer.nn.cross_entropy import cross_entropy, likeliest

TOLD = 5  # likely tokens that a prediction names


@dataclass
class TokensOutput(Output):
    """
    `predictions` are float `[batch, places, 2]`: the negative log-likelihood of the token that is to be predicted at
    each place, in nats, and whether it was the likeliest (1) or not (0). `targets` are int `[batch, places, 2]`:
    whether a place counts (1) or not (0; its predictions are 0 too), and the bytes its token stands for.

    Attributes:
        likely: int `[batch, asked, told]`, the likeliest tokens where they are asked for.
        probabilities: float `[batch, asked, told]`, theirs.
        aligned: float `[batch]`, the loss of each sample in CTC, where that is learned besides.
    """

    likely: Tensor | None = None
    probabilities: Tensor | None = None
    aligned: Tensor | None = None

    def told(self, sample: int, asked: int) -> list[dict[str, Any]]:
        """The likeliest tokens at one place."""
        assert self.likely is not None and self.probabilities is not None, "nothing was asked for"
        found = zip(self.likely[sample, asked].tolist(), self.probabilities[sample, asked].tolist(), strict=True)
        return [{"token": Token(token), "probability": probability} for token, probability in found]


class VocabularyOutput(nn.Module):
    """From hidden states to the vocabulary.

    Args:
        dim: of the hidden states.
        tokens: whose vocabulary.
        tied: whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        bias: whether a learned number is added to each logit.
        z_loss, label_smoothing: as in `cross_entropy`, while training.
        chunk: tokens whose logits are held at once.

    Raises:
        UserError: an option out of range, by its name in the task.
    """

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        tied: bool,
        chunk: int,
        bias: bool = False,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise UserError(f"task.chunk={chunk}: must be at least 1.")
        if z_loss < 0:
            raise UserError(f"task.z_loss={z_loss}: must not be negative.")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"task.label_smoothing={label_smoothing}: must be at least 0 and less than 1.")
        self.vocab_size = tokens.vocab_size or 1  # continuous tokens are refused once it is known what is needed
        self.linear = None if tied else nn.Linear(dim, self.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(self.vocab_size)) if bias else None
        self.z_loss = z_loss
        self.label_smoothing = label_smoothing
        self.chunk = chunk
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        trunk: Trunk,
        hidden: Float[Tensor, "batch places dim"],
        target: Int[Tensor, "batch places"],
        counts: Int[Tensor, "batch places"] | Bool[Tensor, "batch places"],
        size: Int[Tensor, "batch places"] | None = None,
    ) -> TokensOutput:
        """How likely the targets are.

        Args:
            trunk: with the table of the embedding.
            hidden: a state for each place that predicts.
            target: the token that is to be predicted there.
            counts: which places count.
            size: bytes that the target stands for.
        """
        scores = cross_entropy(
            hidden.flatten(0, 1),
            self.matrix(trunk),
            target.flatten(),
            bias=self.bias,
            counts=counts.flatten(),
            z_loss=self.z_loss if self.training else 0.0,
            label_smoothing=self.label_smoothing if self.training else 0.0,
            chunk=self.chunk,
        )
        nats, correct = scores.nats.view(target.shape), scores.correct.view(target.shape)
        predictions = torch.stack([nats, correct.to(nats)], -1).where(counts[..., None] > 0, 0.0)
        counts = counts.long()
        targets = torch.stack([counts, torch.zeros_like(counts) if size is None else size * counts], -1)
        return TokensOutput(scores.loss, predictions, targets, weight=counts.sum())

    def likeliest(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> tuple[Tensor, Tensor]:
        """The most probable tokens at each place, int `[batch, places, told]`, and their probabilities."""
        count = min(TOLD, self.vocab_size)
        found = likeliest(hidden.flatten(0, 1), self.matrix(trunk), bias=self.bias, count=count, chunk=self.chunk)
        tokens, probabilities = (each.view(*hidden.shape[:2], count) for each in found)
        return tokens, probabilities

    def logits(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places vocab"]:
        """All of them at once, so of few places."""
        return F.linear(hidden, self.matrix(trunk), self.bias)

    def matrix(self, trunk: Trunk) -> Float[Tensor, "vocab dim"]:
        if self.linear is not None:
            return self.linear.weight
        if trunk.target_table is None:
            raise UserError(
                "task.tied=true: the embedding of this tokenizer has no table to share with the output.\n"
                "  Set task.tied=false."
            )
        return trunk.target_table


# ---------------------------------------------------------------------------------------------- where


def following(values: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """At each place what stands at the next; 0 at the last."""
    return F.pad(values[:, 1:], (0, 1))


def last_valid(hidden: Float[Tensor, "batch length dim"], tokens: Tokens) -> Float[Tensor, "batch 1 dim"]:
    """The hidden state of the last token that isn't padding."""
    if tokens.valid is None:
        return hidden[:, -1:]
    place = torch.arange(hidden.shape[1], device=hidden.device)
    last = (tokens.valid * place).amax(1)
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))


# ---------------------------------------------------------------------------------------------- how good it is


def summaries(output: Output) -> list[dict[str, Any]]:
    """Of each sample alone: loss, perplexity, accuracy and, where bytes are known, bits per byte."""
    assert output.targets is not None
    (nats, correct), (counts, size) = (part.sum(1).T.tolist() for part in (output.predictions, output.targets))
    return [_summary(*sums) for sums in zip(nats, correct, counts, size, strict=True)]


def _summary(nats: float, correct: float, count: int, size: int) -> dict[str, Any]:
    if not count:
        return {"loss": None, "perplexity": None, "accuracy": None}
    loss = nats / count
    perplexity = math.exp(min(loss, 700.0))  # JSON has no infinity
    found = {"loss": loss, "perplexity": perplexity, "accuracy": correct / count}
    return found | ({"bits_per_byte": nats / math.log(2) / size} if size else {})


def sample_losses(output: Output) -> Float[Tensor, "batch"]:
    """Of each sample alone, the mean over its tokens that count, in nats; 0 where none does."""
    assert output.targets is not None
    return output.predictions[..., 0].sum(1) / output.targets[..., 0].sum(1).clamp(min=1)


def accuracies(output: Output) -> list[dict[str, Any]]:
    """The accuracy of each sample alone."""
    return [{"accuracy": each["accuracy"]} for each in summaries(output)]


def joined(*parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is said of the same samples, together."""
    return [{key: value for each in said for key, value in each.items()} for said in zip(*parts, strict=True)]


class _Quotient(Metric):
    """Of two sums over `predictions` and `targets`, both `[batch, places, 2]` as in `TokensOutput`."""

    is_differentiable = False
    full_state_update = False
    above: Tensor
    below: Tensor
    columns: ClassVar[tuple[int, int]]  # of predictions and of targets

    def __init__(self) -> None:
        super().__init__()
        self.add_state("above", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("below", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        above, below = self.columns
        self.above = self.above + predictions[..., above].sum()
        self.below = self.below + targets[..., below].sum()

    def compute(self) -> Tensor:
        return self.above / self.below


class Accuracy(_Quotient):
    """The share of tokens that were the likeliest."""

    higher_is_better = True
    columns = (1, 0)


class Perplexity(_Quotient):
    """The exponential of the mean negative log-likelihood in nats."""

    higher_is_better = False
    columns = (0, 0)

    def compute(self) -> Tensor:
        return super().compute().exp()


class BitsPerByte(_Quotient):
    """The negative log-likelihood in bits over the bytes of UTF-8 that the tokens stand for.

    So models of different tokenizers can be compared (Gao et al. 2020, The Pile, section 3.1). Nothing, a tensor
    without elements, where tokens don't stand for bytes.
    """

    higher_is_better = False
    columns = (0, 1)

    def compute(self) -> Tensor:
        bits = super().compute() / math.log(2)
        return bits if self.below > 0 else bits.new_zeros(0)
