"""Each token from those before it: what the tasks of it share, for tokens of either kind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from plugformer.interfaces import Batch, Monitor, Output, Task, Tokenizer, Tokens, TokenSpec, Trunk
from plugformer_tasks.language_model import (
    Accuracy,
    BitsPerByte,
    Perplexity,
    TokensOutput,
    VocabularyOutput,
    accuracies,
    following,
    joined,
    last_valid,
    sample_losses,
    summaries,
)
from plugformer_tasks.other_kind import refuse_other_kind
from plugformer_tasks.patch_output import PatchesOutput, PatchOutput, describe_errors, with_pictures
from plugformer_tasks.places import placed, taken
from plugformer_tasks.shown_texts import continued


@dataclass(frozen=True)
class Next:
    """What follows each token of a batch.

    Attributes:
        place: int `[batch, length]`, of the next real token; any if there is none.
        counts: bool `[batch, length]`, whether it is to be predicted.
    """

    place: Int[Tensor, "batch length"]
    counts: Bool[Tensor, "batch length"]

    @classmethod
    def of(cls, tokens: Tokens) -> "Next":
        """Which real tokens are followed by another of the same document.

        Those of a grid with several axes may have padding between them.
        """
        batch, length = tokens.embeddings.shape[:2]
        place = torch.arange(length, device=tokens.embeddings.device).expand(batch, -1)
        if tokens.valid is None:
            found, after = place < length - 1, place + 1
        else:
            real = place.where(tokens.valid, length)
            after = torch.cat([real[:, 1:], torch.full_like(real[:, :1], length)], 1).flip(1).cummin(1).values.flip(1)
            found = tokens.valid & (after < length)
        after = after.clamp(max=length - 1)
        if tokens.segments is not None:
            found = found & (tokens.segments.gather(1, after) == tokens.segments)
        return cls(after, found)


class NextToken(Task):
    """Predicts each token from those before it. A subclass says which of them count, and has the options.

    Nothing is predicted across the border between two documents of a sequence, and nothing from or at padding.
    """

    monitor = Monitor("val/loss", "min")
    generates = True
    output: "NextId | NextPatch"

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        tied: bool,
        z_loss: float,
        label_smoothing: float,
        chunk: int,
        normalise: bool,
        head_layers: int,
    ) -> None:
        super().__init__()
        discrete = {"tied": tied, "z_loss": z_loss, "label_smoothing": label_smoothing, "chunk": chunk}
        continuous = {"normalise": normalise, "head_layers": head_layers}
        refuse_other_kind(type(self), tokens, discrete=discrete, continuous=continuous)
        if tokens.token_kind == "discrete":
            self.output = NextId(
                dim=dim, tokens=tokens, tied=tied, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk
            )
        else:
            self.output = NextPatch(dim=dim, tokens=tokens, normalise=normalise, layers=head_layers)
            self.needs = replace(self.needs, separate_tokens=True)
            self.generates, self.mixes = False, True

    def forward(self, trunk: Trunk, batch: Batch) -> Output:
        tokens, after = self.prepare(trunk.embed(batch["inputs"]), batch)
        hidden = trunk.backbone(replace(tokens, raw=None))
        return self.output.next(trunk, hidden, tokens, after, batch)

    def prepare(self, tokens: Tokens, batch: Batch) -> tuple[Tokens, Next]:
        """What goes into the backbone, and which places predict a token that counts."""
        return tokens, Next.of(tokens)

    def logits(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places vocab"]:
        assert isinstance(self.output, NextId), "continuous tokens have no vocabulary"
        return self.output.logits(trunk, hidden)

    def metrics(self) -> Mapping[str, Metric]:
        return self.output.metrics()

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """How well each token was predicted and, of discrete ones, which are most likely to come next."""
        return self.output.describe(output)

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        return self.output.sample_losses(output)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """How a beginning goes on, and how the model goes on with it; of continuous tokens pictures of what was there
        and of what is predicted, each token from those before it."""
        if isinstance(self.output, NextId):
            return joined(continued(self, trunk, batch["inputs"], tokenizer=tokenizer), accuracies(output))
        tokens, after = self.prepare(trunk.embed(batch["inputs"]), batch)
        return with_pictures(self.describe(output), self.output.pictures(tokens, after, output))


class NextId(VocabularyOutput):
    """How likely the next discrete token is."""

    def next(
        self, trunk: Trunk, hidden: Float[Tensor, "batch length dim"], tokens: Tokens, after: Next, batch: Batch
    ) -> TokensOutput:
        ids, size = batch["inputs"]["ids"], batch["inputs"].get("bytes")
        assert hidden.shape[:2] == ids.shape, "a hidden state for each id"
        made = self(trunk, hidden, following(ids), after.counts, None if size is None else following(size))
        if not self.training:
            made.likely, made.probabilities = self.likeliest(trunk, last_valid(hidden, tokens))
        return made

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(), "perplexity": Perplexity(), "bits_per_byte": BitsPerByte()}

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """The loss in nats a token, and the tokens most likely to come next."""
        assert isinstance(output, TokensOutput)
        return [{**each, "next": output.told(number, 0)} for number, each in enumerate(summaries(output))]

    def sample_losses(self, output: Output) -> Float[Tensor, "batch"]:
        return sample_losses(output)


class NextPatch(PatchOutput):
    """How far off the next continuous token is (El-Nouby et al. 2024, AIM, section 3)."""

    def next(
        self, trunk: Trunk, hidden: Float[Tensor, "batch length dim"], tokens: Tokens, after: Next, batch: Batch
    ) -> PatchesOutput:
        raw = tokens.raw
        assert raw is not None, "an embedding of continuous tokens gives them as they were, too"
        made = self(hidden, taken(raw, after.place), after.counts, None if self.training else raw)
        if not self.training and not batch["targets"]:
            made.pictures = self.pictures(tokens, after, made)
        return made

    def pictures(self, tokens: Tokens, after: Next, made: Output) -> dict[str, Tensor]:
        """Tokens as they were, and each as it was predicted; those that weren't, such as a prefix, as they were."""
        raw, valid = tokens.raw, tokens.valid
        assert raw is not None and isinstance(made, PatchesOutput) and made.predicted is not None
        original = raw if valid is None else raw.where(valid[..., None], torch.nan)
        predicted = self.shown(made.predicted, taken(raw, after.place)).to(raw)
        places = after.place.where(after.counts, -1)
        return {"original": original, "predicted": placed(original, places, predicted)}

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """How many tokens were predicted, their mean squared error, and that over the error of copying the last."""
        return describe_errors(output, counted="predicted")

    def sample_losses(self, output: Output) -> Float[Tensor, "batch"]:
        assert isinstance(output, PatchesOutput), "of another task"
        return self.losses(output)
