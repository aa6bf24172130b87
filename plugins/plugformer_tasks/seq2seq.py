"""One sequence from another: any modality in, text out."""

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import Batch, Features, Memory, Needs, Output, Split, Targets, Tokenizer, TokenSpec, Trunk
from plugformer_tasks.ctc_head import CtcHead, mean_of_each, mean_of_items
from plugformer_tasks.ctc_targets import FittingTargets
from plugformer_tasks.language_model import Accuracy, Perplexity, TokensOutput
from plugformer_tasks.target_texts import TaughtTexts, references
from plugformer_tasks.text_metrics import compared_texts, text_metrics, text_monitor
from plugformer_tasks.writing import Writer


class Seq2Seq(Writer):
    """Write a text for what was read, each token from all before it and the whole source (Sutskever et al. 2014;
    Vaswani et al. 2017).

    In training and for the loss, what stands before a token is the text as it should be. In evaluation texts are
    written from nothing as well, and compared whole, as text, with what they should be: bleu and chrf go from 0 to 100,
    as sacrebleu has them, the others from 0 to 1.

    Args:
        tied: whether the table of the decoder's embedding is the output's matrix too (Press and Wolf 2017).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        z_loss: factor of the squared log of the softmax's normaliser while training.
        chunk: tokens whose logits are held at once; fewer take less memory.
        start: the special token that the decoder is given first; BART has eos, T5 pad. If it is bos, and texts begin
            with it by their tokenizer, they begin with one.
        metrics: of the texts that are written.
        monitor: the metric of validation by which the best checkpoint is chosen.
        val_samples: of validation, for how many samples texts are written, token by token the likeliest; 0 for none.
        num_beams: followed at once by the beam search that writes the texts of a test; 1 for the likeliest token each.
        length_penalty: the greater it is, the longer are the texts of a beam search; 0 compares sums of
            log-probabilities as they are.
        max_new_tokens: of a text that is written; null for those that the longest target can have.
        ctc_weight: share in the loss of CTC on the encoder's states, which has them follow the text from left to right,
            as speech does (Watanabe et al. 2017); 0 for none. It is no part of what is written.
        misfits: with CTC, what becomes of samples that have fewer time steps than their text has labels. `fail`: an
            error. `skip`: a warning, and CTC learns nothing of them.

    Raises:
        UserError: an option out of range, or a target's tokenizer that doesn't mark where texts end.
    """

    needs = Needs(directions=frozenset({"encoder_decoder"}), keys=frozenset({"target_text"}), whole_samples=True)

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        target_tokenizer: Tokenizer,
        tied: bool = True,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        chunk: int = 1024,
        start: Literal["bos", "eos", "pad"] = "bos",
        metrics: tuple[Literal["bleu", "chrf", "exact_match", "cer", "wer"], ...] = (
            "bleu",
            "chrf",
            "exact_match",
            "cer",
            "wer",
        ),
        monitor: Literal["loss", "bleu", "chrf", "exact_match", "cer", "wer"] = "loss",
        val_samples: int = 256,
        num_beams: int = 4,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
        ctc_weight: float = 0.0,
        misfits: Literal["fail", "skip"] = "fail",
    ) -> None:
        super().__init__(
            dim=dim,
            tokenizer=target_tokenizer,
            start=start,
            tied=tied,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            chunk=chunk,
        )
        check_target(target_tokenizer)
        spec = target_tokenizer.spec
        self.room = len(spec.grid) if max_new_tokens is None else max_new_tokens
        if not 1 <= self.room <= len(spec.grid):
            raise UserError(
                f"task.max_new_tokens={max_new_tokens}: must be at least 1, and at most {len(spec.grid)}, those of the "
                "longest target.\n  Set a greater target_tokenizer.max_length, or tokenizer.max_length where one "
                "tokenizer is for both."
            )
        if val_samples < 0:
            raise UserError(f"task.val_samples={val_samples}: must not be negative.")
        if not 1 <= num_beams <= (spec.vocab_size or 1):
            raise UserError(
                f"task.num_beams={num_beams}: must be at least 1, and at most the {spec.vocab_size} tokens of the "
                "target's vocabulary."
            )
        self.metric_names = metrics
        self.monitor = text_monitor(monitor, metrics=metrics, val_samples=val_samples)
        self.val_samples, self.num_beams, self.length_penalty = val_samples, num_beams, length_penalty
        if not 0 <= ctc_weight < 1:
            raise UserError(f"task.ctc_weight={ctc_weight}: must be at least 0 and less than 1.")
        if misfits != "fail" and not ctc_weight:
            raise UserError(f"task.misfits={misfits}: is of CTC, and task.ctc_weight=0 has none. Leave it out.")
        self.targets: Targets = TaughtTexts(target_tokenizer, start=self.start)
        self.ctc_weight, self.ctc = ctc_weight, None
        if ctc_weight:
            self.ctc = CtcHead(dim=dim, target=spec)
            self.targets = FittingTargets(self.targets, tokens=tokens, target=spec, misfits=misfits)

    def teach(self, trunk: Trunk, memory: Memory, targets: Features) -> TokensOutput:
        output = super().teach(trunk, memory, targets)
        if self.ctc is not None:
            assert output.loss is not None, "there are targets"
            steps = self.ctc(memory.hidden, memory.mask)
            nats, items = self.ctc.nats(steps, targets["ids"]), self.ctc.items(steps, targets["ids"])
            output.loss = (1 - self.ctc_weight) * output.loss + self.ctc_weight * mean_of_items(nats, items)
            output.aligned = mean_of_each(nats, items)
        return output

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        assert isinstance(output, TokensOutput), "with targets"
        losses = super().losses(output)
        if output.aligned is None:
            return losses
        return (1 - self.ctc_weight) * losses + self.ctc_weight * output.aligned

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(), "perplexity": Perplexity(), **text_metrics(self.metric_names)}

    def compared(self, trunk: Trunk, batch: Batch, output: Output, *, split: Split) -> Mapping[str, Any]:
        """Texts as they are written and as they should be; of validation's first samples alone, however batched."""
        if not self.metric_names:
            return {}
        validates = split == "val"
        rows = (batch["index"] < self.val_samples if validates else batch["index"] >= 0).nonzero()[:, 0]
        if not len(rows):
            return {}
        source = {key: value[rows] for key, value in batch["inputs"].items()}
        written = self.write(
            trunk,
            source,
            num_beams=1 if validates else self.num_beams,
            length_penalty=self.length_penalty,
            room=self.room,
        )
        return compared_texts(self.texts(written), references(batch["targets"]["reference"][rows]))

    def references(self, batch: Batch) -> list[str]:
        return references(batch["targets"]["reference"])


def check_target(tokenizer: Tokenizer) -> None:
    """
    Raises:
        UserError: it doesn't mark where texts end, or makes one sequence of several.
    """
    if "eos" not in tokenizer.spec.around:
        raise UserError(
            "task=seq2seq: a text that is written must end, and its tokenizer puts no special token behind texts.\n"
            "  Set target_tokenizer.eos=true, or tokenizer.eos=true where one tokenizer is for both."
        )
    if tokenizer.spec.packs:
        raise UserError(
            "task=seq2seq: each text is written for a sample of its own; its tokenizer packs several into one sequence."
            "\n  Set target_tokenizer.packing=none, or tokenizer.packing=none where one tokenizer is for both."
        )
