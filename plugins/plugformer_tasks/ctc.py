"""What is said, step by step, without an alignment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import Batch, Needs, Output, Split, Task, Tokenizer, TokenSpec, Trunk
from plugformer_tasks.ctc_decoding import decode
from plugformer_tasks.ctc_head import CtcHead, Steps, mean_of_each, mean_of_items
from plugformer_tasks.ctc_targets import FittingTargets
from plugformer_tasks.target_texts import TargetTokens, references
from plugformer_tasks.text_metrics import compared_texts, text_metrics, text_monitor

METRICS = ("cer", "wer", "exact_match")


@dataclass
class CtcOutput(Output):
    """`predictions` are float `[batch, steps, vocab]`, log-probabilities, and `targets` int `[batch, tokens]`.

    Attributes:
        lengths: int `[batch]`, how many steps are real.
        nats, items: float and int `[batch]`, of the texts as `CtcHead` has them; None where there are no targets.
    """

    lengths: Tensor = field(kw_only=True)
    nats: Tensor | None = None
    items: Tensor | None = None

    @property
    def steps(self) -> Steps:
        return Steps(self.predictions, self.lengths)


class Ctc(Task):
    """Write a text along what was read: each step says a label or none, and a text is as likely as all ways to spread
    its labels over the steps together (Graves et al. 2006, connectionist temporal classification).

    Steps are the places of the last axis of the tokens' grid, such as time or columns: over the other axes hidden
    states are averaged. Labels are tokens of the target; a text must have no more of them than there are steps.

    Args:
        num_beams: prefixes that are followed in tests and predictions (Hannun et al. 2014), without a language model; 1
            for the best path, which validation always takes.
        dropout: probability on the hidden states while training.
        misfits: what becomes of samples whose text has more labels than they have steps. `fail`: an error that names
            the first. `skip`: they are warned of and left out of the loss; what is written of them still counts.
        monitor: by which validation metric the best checkpoint is chosen.

    Raises:
        UserError: an option out of range, or a target's tokenizer without a token for padding, or that packs.
    """

    needs = Needs(directions=frozenset({"bidirectional"}), keys=frozenset({"target_text"}), whole_samples=True)

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        target_tokenizer: Tokenizer,
        num_beams: int = 1,
        dropout: float = 0.0,
        misfits: Literal["fail", "skip"] = "fail",
        monitor: Literal["cer", "wer", "exact_match", "loss"] = "cer",
    ) -> None:
        super().__init__()
        if num_beams < 1:
            raise UserError(f"task.num_beams={num_beams}: must be at least 1.")
        if not 0 <= dropout < 1:
            raise UserError(f"task.dropout={dropout}: must be at least 0 and less than 1.")
        target = target_tokenizer.spec
        if target.packs:
            raise UserError(
                "task=ctc: each text is written for a sample of its own; its tokenizer packs several into one sequence."
                "\n  Set target_tokenizer.packing=none."
            )
        self.target_tokenizer = target_tokenizer
        self.num_beams = num_beams
        self.monitor = text_monitor(monitor, metrics=METRICS, val_samples=1)
        self.targets = FittingTargets(TargetTokens(target_tokenizer), tokens=tokens, target=target, misfits=misfits)
        self.dropout = nn.Dropout(dropout)
        self.head = CtcHead(dim=dim, target=target)

    def forward(self, trunk: Trunk, batch: Batch) -> CtcOutput:
        tokens = trunk.embed(batch["inputs"])
        steps = self.head(self.dropout(trunk.backbone(tokens)), tokens.mask(causal=False))
        ids = batch["targets"].get("ids")
        if ids is None:
            return CtcOutput(None, steps.log_probs, None, weight=len(steps.lengths), lengths=steps.lengths)
        nats, items = self.head.nats(steps, ids), self.head.items(steps, ids)
        return CtcOutput(
            mean_of_items(nats, items),
            steps.log_probs,
            ids,
            weight=items.sum(),
            lengths=steps.lengths,
            nats=nats,
            items=items,
        )

    def metrics(self) -> Mapping[str, Metric]:
        return text_metrics(METRICS)

    def compared(self, trunk: Trunk, batch: Batch, output: Output, *, split: Split) -> Mapping[str, Any]:
        num_beams = 1 if split == "val" else self.num_beams
        assert isinstance(output, CtcOutput), "of another task"
        written = decode(output.steps, blank=self.head.blank, num_beams=num_beams)
        return compared_texts(self._texts(written), references(batch["targets"]["reference"]))

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """The text, and as its score the log-probability of all its alignments in nats."""
        assert isinstance(output, CtcOutput), "of another task"
        written = decode(output.steps, blank=self.head.blank, num_beams=self.num_beams)
        scores = -self.head.nats(output.steps, self._ids(written, output.lengths.device))
        texts = self._texts(written)
        return [{"text": text, "score": score} for text, score in zip(texts, scores.tolist(), strict=True)]

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        """Of each text, the mean over its items; 0 where it finds no room."""
        assert isinstance(output, CtcOutput) and output.nats is not None and output.items is not None, "with targets"
        return mean_of_each(output.nats, output.items)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The text as it should be, and that of the best path."""
        assert isinstance(output, CtcOutput), "of another task"
        written = self._texts(decode(output.steps, blank=self.head.blank, num_beams=1))
        texts = zip(references(batch["targets"]["reference"]), written, strict=True)
        return [{"target": target, "prediction": text} for target, text in texts]

    def _texts(self, written: Sequence[Sequence[int]]) -> list[str]:
        assert self.target_tokenizer is not None, "every constructor is given one"
        return [self.target_tokenizer.decode(torch.tensor(labels, dtype=torch.long)) for labels in written]

    def _ids(self, written: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "batch tokens"]:
        """As a tokenizer would collate them."""
        rows = [torch.tensor([*labels, self.head.blank], device=device) for labels in written]
        return pad_sequence(rows, batch_first=True, padding_value=self.head.blank)
