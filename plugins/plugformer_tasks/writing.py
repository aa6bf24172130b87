"""What the tasks share in which a decoder writes one sequence for another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plugformer.decode.beam import beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.continuation import Continuation
from plugformer.decode.sampling import sample
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Features, Memory, Monitor, Output, Task, Tokenizer, Trunk
from plugformer_tasks.language_model import (
    TokensOutput,
    VocabularyOutput,
    accuracies,
    joined,
    sample_losses,
    summaries,
)
from plugformer_tasks.shown_texts import session_of, text_of

SHOWN = 64  # tokens of a text that is written to be shown


@dataclass
class Written(Output):
    """`predictions` are int `[batch, longest]`, the tokens that were written, padded.

    Attributes:
        written: for each sample the same with its score, without what ends it.
    """

    written: Sequence[Continuation] = field(default_factory=list)


class Writer(Task):
    """Writes each token of a target from all before it and the whole source. A subclass says what these are, and has
    the options.

    Args:
        tokenizer: of what is written.
        start: the role of the special token that begins it.

    Raises:
        UserError: an option out of range, or a tokenizer that lacks a special token.
    """

    monitor = Monitor("val/loss", "min")
    generates = True
    target_tokenizer: Tokenizer

    def __init__(
        self,
        *,
        dim: int,
        tokenizer: Tokenizer,
        start: str,
        tied: bool,
        label_smoothing: float,
        z_loss: float,
        chunk: int,
    ) -> None:
        super().__init__()
        spec = tokenizer.spec
        for role, option in {start: f"task.start={start}", "eos": "what ends a text", "pad": "what pads it"}.items():
            if role not in spec.specials:
                raise UserError(
                    f"{option}: the tokenizer of what is written has no such special token.\n"
                    f"  Its special tokens: {', '.join(spec.specials) or 'none'}."
                )
        self.target_tokenizer, self.start, self.eos = tokenizer, spec.specials[start], spec.specials["eos"]
        self.output = VocabularyOutput(
            dim=dim, tokens=spec, tied=tied, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk
        )

    def forward(self, trunk: Trunk, batch: Batch) -> Output:
        if not batch["targets"]:
            return self.predict(trunk, batch)
        return self.teach(trunk, self.read(trunk, batch), batch["targets"])

    def read(self, trunk: Trunk, batch: Batch) -> Memory:
        """What the encoder makes of the source."""
        return trunk.backbone.encode(trunk.embed(batch["inputs"]))

    def teach(self, trunk: Trunk, memory: Memory, targets: Features) -> TokensOutput:
        """How likely each token of the target is, all before it being given as they should be."""
        tokens = trunk.embed_target({key: targets[key] for key in ("ids", "valid") if key in targets})
        hidden = trunk.backbone(tokens, memory=memory)
        return self.output(trunk, hidden, targets["following"], tokens.real)

    def logits(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places vocab"]:
        return self.output.logits(trunk, hidden)

    def predict(self, trunk: Trunk, batch: Batch) -> Written:
        written = self.write(trunk, self.source(batch["inputs"]), num_beams=1)
        rows = [torch.tensor(each.ids, dtype=torch.long) for each in written]
        pad = self.target_tokenizer.spec.specials["pad"]
        return Written(None, pad_sequence(rows, batch_first=True, padding_value=pad), None, 0, written=written)

    def write(
        self,
        trunk: Trunk,
        source: Features,
        *,
        num_beams: int,
        length_penalty: float = 1.0,
        room: int | None = None,
    ) -> list[Continuation]:
        """What the model writes for each sample, likeliest token by token or by beam search.

        Args:
            trunk: in evaluation mode.
            source: collated features.
            num_beams: followed at once; 1 for greedy decoding.
            length_penalty: as in `beam_search`.
            room: tokens at most; by default those of the longest target.
        """
        room = len(self.target_tokenizer.spec.grid) if room is None else room
        session = session_of(self, trunk, source=source, room=room)
        ids = self._begun(source)
        if num_beams == 1:
            return sample(session, ids, choice=Choice(), room=room, eos=self.eos)
        found = beam_search(
            session,
            ids,
            num_beams=num_beams,
            num_samples=1,
            length_penalty=length_penalty,
            early_stopping=False,
            room=room,
            eos=self.eos,
            choice=Choice(),
        )
        return [best for (best,) in found]

    def _begun(self, source: Features) -> Int[Tensor, "batch 1"]:
        like = next(iter(source.values()))
        return torch.full((len(like), 1), self.start, device=like.device)

    def texts(self, written: Sequence[Continuation]) -> list[str]:
        return [self.target_tokenizer.decode(torch.tensor(each.ids, dtype=torch.long)) for each in written]

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """The text and its log-probability in nats; with targets, how well they were predicted."""
        if not isinstance(output, Written):
            return summaries(output)
        texts = self.texts(output.written)
        return [{"text": text, "score": each.score} for text, each in zip(texts, output.written, strict=True)]

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        return sample_losses(output)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The text as it should be, and as it is written, the likeliest token each time."""
        room = min(SHOWN, len(self.target_tokenizer.spec.grid))
        written = self.write(trunk, self.source_of(batch), num_beams=1, room=room)
        texts = [
            text if each.ended == "eos" else f"{text}…" for text, each in zip(self.texts(written), written, strict=True)
        ]
        pairs = zip(self.references(batch), texts, strict=True)
        return joined([{"target": target, "prediction": text} for target, text in pairs], accuracies(output))

    def source_of(self, batch: Batch) -> Features:
        """Of a batch with targets, what a text is to be written for."""
        return batch["inputs"]

    def references(self, batch: Batch) -> list[str]:
        """Of a batch with targets, the texts that should be written."""
        return [text_of(self.target_tokenizer, ids) for ids in self._wanted(batch["targets"])]

    def _wanted(self, targets: Features) -> Iterator[Int[Tensor, "length"]]:
        for number, ids in enumerate(targets["following"].cpu()):
            yield ids if "valid" not in targets else ids[targets["valid"][number].cpu()]
