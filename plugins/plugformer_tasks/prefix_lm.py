"""The rest of a sequence from its beginning."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from plugformer.data.collate import stack
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Features, Grid, Needs, Sample, Targets, Tokens, TokenSpec
from plugformer_tasks.next_token import Next, NextToken


class PrefixLM(NextToken):
    """Predict each token of the rest from a prefix, whose tokens all see each other, and the rest before it.

    Where a sequence is cut is drawn anew each time (Raffel et al. 2020, section 3.2.1; Liu et al. 2018). In prediction
    the prefix is the middle of the lengths that could be drawn. Continuous tokens, in raster order, are predicted as
    they are (El-Nouby et al. 2024, AIM, section 3.3).

    Args:
        min_share: the shortest prefix as a share of the sequence; it has one token at least.
        max_share: the longest, which leaves one token at least.
        tied: of discrete tokens, whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        z_loss: of discrete tokens, factor of the squared log of the softmax's normaliser while training; PaLM takes
            1e-4 (Chowdhery et al. 2022, section 5).
        label_smoothing: of discrete tokens, share of the target probability that is spread over the vocabulary while
            training.
        chunk: discrete tokens whose logits are held at once; fewer take less memory.
        normalise: whether each continuous token that is to be predicted is brought to mean 0 and deviation 1 first (He
            et al. 2022, section 4.1).
        head_layers: residual feed-forward layers between the backbone and the prediction of a continuous token; 0 for
            a linear map alone, AIM has 12 (El-Nouby et al. 2024, section 3.2).

    Raises:
        UserError: an option out of range, or of the other kind of tokens.
    """

    needs = Needs(directions=frozenset({"prefix"}))
    targets: "Prefixes"

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        min_share: float = 0.0,
        max_share: float = 1.0,
        tied: bool = True,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        chunk: int = 1024,
        normalise: bool = True,
        head_layers: int = 2,
    ) -> None:
        super().__init__(
            dim=dim,
            tokens=tokens,
            tied=tied,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            chunk=chunk,
            normalise=normalise,
            head_layers=head_layers,
        )
        if not 0 <= min_share <= max_share <= 1:
            raise UserError(
                f"task.min_share={min_share}, task.max_share={max_share}: both must lie between 0 and 1, the first not "
                "above the second."
            )
        self.targets = Prefixes(grid=tokens.grid, min_share=min_share, max_share=max_share)

    def prepare(self, tokens: Tokens, batch: Batch) -> tuple[Tokens, Next]:
        prefix, after = batch["targets"].get("prefix"), Next.of(tokens)
        if prefix is None:
            prefix = self.targets.middle(tokens.real)
        return replace(tokens, prefix=prefix), Next(after.place, after.counts & (after.place >= prefix[:, None]))

    def prompted(self, tokens: Tokens, length: int) -> Tokens:
        """The prompt is the prefix, whatever stands before it as padding included."""
        batch = tokens.embeddings.shape[0]
        return replace(tokens, prefix=torch.full((batch,), length, device=tokens.embeddings.device))


class Prefixes(Targets):
    """How long the prefix of a sequence is, uniform between two shares of its real tokens.

    Feature: `prefix`, int scalar, the places up to the last of them.
    """

    def __init__(self, *, grid: Grid, min_share: float, max_share: float) -> None:
        self.grid = grid
        self.min_share = min_share
        self.max_share = max_share

    def encode(self, sample: Sample, inputs: Features) -> Features:
        real = self._real(inputs)
        length = int(real.sum())
        longest = max(0, min(length - 1, round(self.max_share * length)))
        shortest = min(longest, max(1, round(self.min_share * length)))
        return {"prefix": places_of(real, torch.randint(shortest, longest + 1, ()))}

    def example(self, inputs: Features) -> Features:
        return {"prefix": torch.tensor(len(self._real(inputs)) // 2)}

    def middle(self, real: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch"]:
        """The prefix of sequences of these tokens that lies in the middle of those that could be drawn."""
        length = real.sum(1)
        middle = ((self.min_share + self.max_share) / 2 * length).round().long()
        return places_of(real, middle.clamp(min=1).minimum(length - 1).clamp(min=0))

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)

    def _real(self, inputs: Features) -> Bool[Tensor, "length"]:
        if "ids" in inputs:
            return torch.ones_like(inputs["ids"], dtype=torch.bool)
        return inputs.get("valid", torch.ones(len(self.grid), dtype=torch.bool))


def places_of(real: Bool[Tensor, "*batch length"], count: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """How many places the first `count` real tokens take, with the padding that stands before and between them."""
    return (real.cumsum(-1) < count[..., None]).sum(-1) + (count > 0).long()
