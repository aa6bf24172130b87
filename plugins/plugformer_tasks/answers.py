"""The words of a text that answer something, each from all before it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import (
    Batch,
    Features,
    Monitor,
    Needs,
    Output,
    Sample,
    Targets,
    Task,
    Tokenizer,
    TokenSpec,
    Trunk,
)
from plugformer_tasks.language_model import (
    Accuracy,
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
from plugformer_tasks.shown_texts import filled


class Answers(Task):
    """Predict the next token as a language model does, but only where it is part of an answer.

    Which words of a text are answers is said by its data. In prediction, the text is gone on with. An answer that the
    tokenizer doesn't know is refused: all unknown ones are the same token, so that any would count as right.

    Args:
        tied: whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        chunk: tokens whose logits are held at once; fewer take less memory.

    Raises:
        UserError: an option out of range, a tokenizer that doesn't tell words, or an answer that it doesn't know.
    """

    needs = Needs(
        directions=frozenset({"causal"}),
        token_kinds=frozenset({"discrete"}),
        keys=frozenset({"answers"}),
        whole_samples=True,
    )
    monitor = Monitor("val/accuracy", "max")
    generates = True

    def __init__(
        self, *, dim: int, tokens: TokenSpec, tied: bool = True, label_smoothing: float = 0.0, chunk: int = 1024
    ) -> None:
        super().__init__()
        if tokens.token_kind == "discrete" and not tokens.words:  # others are refused once it is known what is needed
            raise UserError("task=answers: this tokenizer doesn't tell which word a token belongs to. Choose another.")
        self.targets = Places(unknown=tokens.specials.get("unk"))
        self.output = VocabularyOutput(dim=dim, tokens=tokens, tied=tied, label_smoothing=label_smoothing, chunk=chunk)

    def forward(self, trunk: Trunk, batch: Batch) -> TokensOutput:
        tokens, targets = trunk.embed(batch["inputs"]), batch["targets"]
        hidden = trunk.backbone(tokens)
        if not targets:
            likely, probabilities = self.output.likeliest(trunk, last_valid(hidden, tokens))
            return TokensOutput(None, likely, None, weight=0, likely=likely, probabilities=probabilities)
        place = targets["place"]
        return self.output(
            trunk, _asked(hidden, place), following(batch["inputs"]["ids"]).gather(1, place), targets["counts"]
        )

    def logits(self, trunk: Trunk, hidden: Tensor) -> Tensor:
        return self.output.logits(trunk, hidden)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(), "perplexity": Perplexity()}

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """The tokens most likely to come next; with targets, how well the answers were predicted."""
        assert isinstance(output, TokensOutput)
        if output.targets is not None:
            return summaries(output)
        return [{"next": output.told(number, 0)} for number in range(len(output.predictions))]

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        return sample_losses(output)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The text with its answers as they are, and as they are predicted."""
        place = batch["targets"]["place"]
        hidden = trunk.backbone(trunk.embed(batch["inputs"]))
        likely, _ = self.output.likeliest(trunk, _asked(hidden, place))
        counts = batch["targets"]["counts"] > 0
        return joined(filled(tokenizer, batch["inputs"], place + 1, counts, likely[..., 0]), accuracies(output))


def _asked(
    hidden: Float[Tensor, "batch length dim"], place: Int[Tensor, "batch answers"]
) -> Float[Tensor, "batch answers dim"]:
    return hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[2]))


class Places(Targets):
    """Features, int `[answers]`: the `place` of the token before each token of an answer, and that it `counts` (1).

    A text whose answers were all truncated has one place, which doesn't count (0).

    Args:
        unknown: the token that stands for all that the tokenizer doesn't know; None if it knows everything.
    """

    def __init__(self, *, unknown: int | None = None) -> None:
        self.unknown = unknown

    def encode(self, sample: Sample, inputs: Features) -> Features:
        answers = torch.isin(inputs["words"], torch.tensor(sample["answers"], dtype=torch.long))
        if self.unknown is not None and (lost := answers & (inputs["ids"] == self.unknown)).any():
            raise UserError(
                f"{sample.get('id', 'a text')}: the tokenizer doesn't know its answer at word "
                f"{int(inputs['words'][lost][0])}, and takes all that it doesn't know for the same.\n"
                "  Set a greater tokenizer.vocab_size, or a smaller tokenizer.min_frequency, so that it knows them all."
            )
        place = answers[1:].nonzero()[:, 0]  # nothing stands before the first token
        if not len(place):
            return {"place": torch.zeros(1, dtype=torch.long), "counts": torch.zeros(1, dtype=torch.long)}
        return {"place": place, "counts": torch.ones_like(place)}

    def example(self, inputs: Features) -> Features:
        place = torch.arange(len(inputs["ids"]) // 4 + 1)
        return {"place": place, "counts": torch.ones_like(place)}

    def collate(self, features: Sequence[Features]) -> Features:
        """Filled up with places that don't count."""

        def filled(key: str) -> Tensor:
            return pad_sequence([each[key] for each in features], batch_first=True)

        return {"place": filled("place"), "counts": filled("counts")}
