"""One label for a whole sample."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from plugformer.data.collate import stack
from plugformer.errors import UserError, counted
from plugformer.interfaces import (
    Batch,
    Confusion,
    DataSpec,
    Direction,
    Features,
    Monitor,
    Needs,
    Output,
    Sample,
    Targets,
    Task,
    Tokenizer,
    Tokens,
    Trunk,
)
from plugformer.nn.initialise import STD
from plugformer_tasks.confused_pairs import ConfusedPairs

MANY = 500  # labels of which a matrix is still kept


class Classification(Task):
    """A linear classifier on pooled hidden states (Devlin et al. 2019; Dosovitskiy et al. 2021).

    Of samples that are mixed it learns both labels, each by its share (Zhang et al. 2018).

    Args:
        pool: `cls` prepends a learned token and reads the label off it; `mean` averages over all real tokens.
        label_smoothing: share of the target probability that is spread over all classes while training
            (Szegedy et al. 2016).
        dropout: probability on the pooled state while training.
        monitor: by which validation metric the best checkpoint is chosen.

    Raises:
        UserError: data with fewer than two labels.
    """

    mixes = True

    def __init__(
        self,
        *,
        dim: int,
        data: DataSpec,
        pool: Literal["cls", "mean"] = "cls",
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        monitor: Literal["accuracy", "f1", "loss"] = "accuracy",
    ) -> None:
        super().__init__()
        if len(data.labels) < 2:
            raise UserError(
                f"task=classification: the data has {counted(len(data.labels), 'label')}, at least 2 are needed."
            )
        # A token at the front sees nothing but itself in a causal backbone.
        directions: set[Direction] = {"bidirectional"} if pool == "cls" else {"bidirectional", "causal", "prefix"}
        self.needs = Needs(directions=frozenset(directions), keys=frozenset({"label"}), whole_samples=True)
        self.monitor = Monitor(f"val/{monitor}", "min" if monitor == "loss" else "max")
        self.targets = Labels()
        self.labels = data.labels
        self.few = len(self.labels) <= MANY
        self.confused = "confusion_matrix" if self.few else "confusions"  # the metric's name, and the table's
        self.label_smoothing = label_smoothing
        self.pooling = ClassToken(dim=dim) if pool == "cls" else MeanOfTokens()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, len(data.labels))

    def forward(self, trunk: Trunk, batch: Batch) -> Output:
        tokens = self.pooling.prepare(trunk.embed(batch["inputs"]))
        hidden = trunk.backbone(tokens)
        logits = self.head(self.dropout(self.pooling(hidden, tokens)))
        label = batch["targets"].get("label")
        loss = None if label is None else self._loss(logits, label, batch["inputs"])
        return Output(loss, logits, label, weight=len(logits))

    def _loss(self, logits: Float[Tensor, "batch classes"], label: Int[Tensor, "batch"], inputs: Features) -> Tensor:
        smoothing = self.label_smoothing if self.training else 0.0
        if "partner" not in inputs:
            return F.cross_entropy(logits, label, label_smoothing=smoothing)
        first, second = (
            F.cross_entropy(logits, each, label_smoothing=smoothing, reduction="none")
            for each in (label, label[inputs["partner"]])
        )
        return (inputs["own"] * first + (1 - inputs["own"]) * second).mean()

    def metrics(self) -> Mapping[str, Metric]:
        classes = len(self.labels)
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "balanced_accuracy": MulticlassAccuracy(classes, average="macro"),
            "f1": MulticlassF1Score(classes, average="macro"),
            self.confused: MulticlassConfusionMatrix(classes) if self.few else ConfusedPairs(classes),
        }

    def tables(self, values: Mapping[str, Tensor]) -> dict[str, list[list[Any]]]:
        """The confusion matrix: a row for each true label, a column for each predicted one; of very many labels the
        pairs that occurred, the most frequent ones first."""
        if self.few:
            counts = values[self.confused].tolist()
            rows = [[label, *row] for label, row in zip(self.labels, counts, strict=True)]
            return {self.confused: [["true \\ predicted", *self.labels], *rows]}
        found = self.confusion(values)
        pairs = zip(found.pairs.tolist(), found.counts.tolist(), strict=True)
        named = [[self.labels[true], self.labels[predicted], count] for (true, predicted), count in pairs]
        return {self.confused: [["true", "predicted", "count"], *sorted(named, key=lambda row: -row[2])]}

    def confusion(self, values: Mapping[str, Tensor]) -> Confusion:
        found = values[self.confused]
        if not self.few:
            return Confusion(self.labels, found[:, :2], found[:, 2])
        pairs = found.nonzero()
        return Confusion(self.labels, pairs, found[pairs[:, 0], pairs[:, 1]])

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        assert output.targets is not None, "there are targets"
        return F.cross_entropy(output.predictions, output.targets, reduction="none")

    def describe(self, output: Output) -> list[dict[str, Any]]:
        probability, best = output.predictions.softmax(-1).max(-1)
        found = zip(best.tolist(), probability.tolist(), strict=True)
        return [{"label": self.labels[index], "probability": p} for index, p in found]

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The label as it is and as it is predicted, and how probable either is."""
        assert output.targets is not None, "there are targets"
        of_target = output.predictions.softmax(-1).gather(1, output.targets[:, None])[:, 0].tolist()
        return [
            {
                "target": self.labels[target],
                "prediction": found["label"],
                "probability": found["probability"],
                "probability of the target": probability,
            }
            for target, found, probability in zip(
                output.targets.tolist(), self.describe(output), of_target, strict=True
            )
        ]


class Labels(Targets):
    """The label's index."""

    def encode(self, sample: Sample, inputs: Features) -> Features:
        return {"label": torch.tensor(sample["label"])}

    def example(self, inputs: Features) -> Features:
        return {"label": torch.tensor(0)}

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)


class ClassToken(nn.Module):
    """A learned token at the front, whose hidden state stands for the sequence."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.vector, std=STD)

    def prepare(self, tokens: Tokens) -> Tokens:
        return tokens.prepend(self.vector)

    def forward(self, hidden: Float[Tensor, "batch length dim"], tokens: Tokens) -> Float[Tensor, "batch dim"]:
        return hidden[:, 0]


class MeanOfTokens(nn.Module):
    """The mean over real tokens."""

    def prepare(self, tokens: Tokens) -> Tokens:
        return tokens

    def forward(self, hidden: Float[Tensor, "batch length dim"], tokens: Tokens) -> Float[Tensor, "batch dim"]:
        if tokens.valid is None:
            return hidden.mean(1)
        valid = tokens.valid[..., None].to(hidden.dtype)
        return (hidden * valid).sum(1) / valid.sum(1)
