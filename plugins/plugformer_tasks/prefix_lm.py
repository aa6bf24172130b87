"""The rest of a sequence from its beginning."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from plugformer.data.collate import stack
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Features, Needs, Sample, Targets, Tokens, TokenSpec
from plugformer_tasks.language_model import NextToken, VocabularyOutput, continues


class PrefixLM(NextToken):
    """Predict each token of the rest from a prefix, whose tokens all see each other, and the rest before it.

    Where a sequence is cut is drawn anew each time (Raffel et al. 2020, section 3.2.1; Liu et al. 2018). In prediction
    the prefix is the middle of the lengths that could be drawn.

    Args:
        min_share: the shortest prefix as a share of the sequence; it has one token at least.
        max_share: the longest, which leaves one token at least.
        tied: whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        z_loss: factor of the squared log of the softmax's normaliser while training; PaLM takes 1e-4
            (Chowdhery et al. 2022, section 5).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        chunk: tokens whose logits are held at once; fewer take less memory.

    Raises:
        UserError: an option out of range.
    """

    needs = Needs(directions=frozenset({"prefix"}), token_kinds=frozenset({"discrete"}))
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
    ) -> None:
        super().__init__()
        if not 0 <= min_share <= max_share <= 1:
            raise UserError(
                f"task.min_share={min_share}, task.max_share={max_share}: both must lie between 0 and 1, the first not "
                "above the second."
            )
        self.targets = Prefixes(min_share=min_share, max_share=max_share)
        self.output = VocabularyOutput(
            dim=dim, tokens=tokens, tied=tied, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk
        )

    def prepare(self, tokens: Tokens, batch: Batch) -> tuple[Tokens, Bool[Tensor, "batch length"]]:
        prefix = batch["targets"].get("prefix")
        if prefix is None:
            prefix = self.targets.middle(lengths(tokens))
        place = torch.arange(tokens.embeddings.shape[1], device=prefix.device)
        return replace(tokens, prefix=prefix), continues(tokens) & (place + 1 >= prefix[:, None])

    def prompted(self, tokens: Tokens, length: int) -> Tokens:
        """The prompt is the prefix, whatever stands before it as padding included."""
        batch = tokens.embeddings.shape[0]
        return replace(tokens, prefix=torch.full((batch,), length, device=tokens.embeddings.device))


def lengths(tokens: Tokens) -> Tensor:
    """int `[batch]`, real tokens of each sequence."""
    batch, length = tokens.embeddings.shape[:2]
    if tokens.valid is None:
        return torch.full((batch,), length, device=tokens.embeddings.device)
    return tokens.valid.sum(1)


class Prefixes(Targets):
    """How long the prefix of a sequence is, uniform between two shares of it."""

    def __init__(self, *, min_share: float, max_share: float) -> None:
        self.min_share = min_share
        self.max_share = max_share

    def encode(self, sample: Sample, inputs: Features) -> Features:
        length = len(inputs["ids"])
        longest = max(0, min(length - 1, round(self.max_share * length)))
        shortest = min(longest, max(1, round(self.min_share * length)))
        return {"prefix": torch.randint(shortest, longest + 1, ())}

    def example(self, inputs: Features) -> Features:
        return {"prefix": torch.tensor(len(inputs["ids"]) // 2)}

    def middle(self, length: Tensor) -> Tensor:
        """The prefix of sequences of these lengths that lies in the middle of those that could be drawn."""
        middle = ((self.min_share + self.max_share) / 2 * length).round().long()
        return middle.clamp(min=1).minimum(length - 1).clamp(min=0)

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)
