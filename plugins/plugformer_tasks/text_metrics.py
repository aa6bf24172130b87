"""How near written texts are to those that should have been written."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate, word_error_rate
from torchmetrics.utilities.data import dim_zero_cat

from plugformer.errors import UserError, unknown
from plugformer.interfaces import Monitor
from plugformer_tasks.target_texts import END

TextMetricName = Literal["bleu", "chrf", "exact_match", "cer", "wer"]


class TextMetric(Metric):
    """Of a whole corpus: all texts are kept, and measured together at the end.

    Each kind keeps the same, so that torchmetrics may keep it once for all. Nothing, a tensor without elements, where
    nothing was written.
    """

    is_differentiable = False
    full_state_update = False
    texts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("texts", [], dist_reduce_fx="cat")

    def update(
        self,
        predictions: Tensor,
        targets: Tensor | None,
        written: Sequence[str] = (),
        references: Sequence[str] = (),
    ) -> None:
        """
        Args:
            predictions, targets: of the task's other metrics.
            written: texts that the model wrote; none where it wasn't asked to.
            references: what each should be.
        """
        pairs = zip(written, references, strict=True)
        data = b"".join(text.encode() + bytes([END]) for pair in pairs for text in pair)
        # Even if there are none: of a rank that never had any, the others would get a tensor of another type.
        self.texts.append(torch.tensor(list(data), dtype=torch.uint8, device=self.device))

    def compute(self) -> Tensor:
        data = bytes(dim_zero_cat(self.texts).tolist()) if len(self.texts) else b""
        texts = [text.decode() for text in data.split(bytes([END]))[:-1]]
        value = self.measure(texts[::2], texts[1::2]) if texts else None
        return torch.tensor([] if value is None else value, device=self.device)

    @abstractmethod
    def measure(self, written: list[str], references: list[str]) -> float | None:
        """None where it can't be said."""


class Bleu(TextMetric):
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), tokenized as sacrebleu does by default, 13a (Post 2018)."""

    higher_is_better = True

    def measure(self, written: list[str], references: list[str]) -> float:
        return BLEU(force=True).corpus_score(written, [references]).score  # texts that look tokenized are no matter


class Chrf(TextMetric):
    """Corpus chrF2 from 0 to 100: up to six characters, without words (Popović 2015), by sacrebleu (Post 2018)."""

    higher_is_better = True

    def measure(self, written: list[str], references: list[str]) -> float:
        return CHRF().corpus_score(written, [references]).score


class ExactMatch(TextMetric):
    """The share of texts that are what they should be, character by character."""

    higher_is_better = True

    def measure(self, written: list[str], references: list[str]) -> float:
        return sum(map(str.__eq__, written, references)) / len(references)


class CharacterErrorRate(TextMetric):
    """Characters to insert, delete or replace, over those that there should be; it can be above 1."""

    higher_is_better = False

    def measure(self, written: list[str], references: list[str]) -> float | None:
        return float(char_error_rate(written, references)) if any(references) else None


class WordErrorRate(TextMetric):
    """Words to insert, delete or replace, over those that there should be; it can be above 1."""

    higher_is_better = False

    def measure(self, written: list[str], references: list[str]) -> float | None:
        return float(word_error_rate(written, references)) if any(map(str.split, references)) else None


TEXT_METRICS: Mapping[str, type[TextMetric]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "exact_match": ExactMatch,
    "cer": CharacterErrorRate,
    "wer": WordErrorRate,
}


def text_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """
    Raises:
        UserError: there is none of such a name.
    """
    for name in names:
        if name not in TEXT_METRICS:
            raise unknown(f"task.metrics: no metric is called {name}", name, TEXT_METRICS, "There are")
    return {name: TEXT_METRICS[name]() for name in names}


def text_monitor(name: str, *, metrics: Sequence[str], val_samples: int) -> Monitor:
    """By which of the metrics, or `loss`, checkpoints are chosen.

    Raises:
        UserError: it isn't measured in validation.
    """
    if name == "loss":
        return Monitor("val/loss", "min")
    if name not in metrics:
        raise UserError(
            f"task.monitor={name}: it isn't among task.metrics={list(metrics)}. Add it, or set task.monitor=loss."
        )
    if val_samples < 1:
        raise UserError(
            f"task.monitor={name}: nothing is written in validation with task.val_samples={val_samples}.\n"
            "  Set a greater task.val_samples, or task.monitor=loss."
        )
    return Monitor(f"val/{name}", "max" if TEXT_METRICS[name].higher_is_better else "min")


def compared_texts(written: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """As `TextMetric.update` takes them."""
    return {"written": written, "references": references}
