"""What was taken out of a text: T5's objective."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from plugformer.errors import UserError
from plugformer.interfaces import Batch, Features, Memory, Needs, Output, Sample, Tokenizer, TokenSpec, Trunk
from plugformer_tasks.language_model import Accuracy, Perplexity, joined
from plugformer_tasks.shown_texts import text_of
from plugformer_tasks.span_noise import Corrupted, SpanNoise
from plugformer_tasks.target_texts import TaughtTokens
from plugformer_tasks.writing import Writer

SOURCE = {"ids": "source", "valid": "source_valid"}  # of a collated source, its names among the targets


class Denoise(Writer):
    """Write what was taken out of a text: span corruption (Raffel et al. 2020, T5, sections 3.1.4 and 3.3.4).

    A share of the tokens is taken out in spans, drawn anew each time, with a sentinel in the place of each. The target
    are the spans, each behind its sentinel, then one sentinel more and what ends a text. In prediction a sentinel takes
    the place of each mask in the text.

    Args:
        noise_density: share of the tokens that are taken out.
        mean_span: tokens of a span in the mean.
        tied: whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        z_loss: factor of the squared log of the softmax's normaliser while training; T5 takes 1e-4.
        chunk: tokens whose logits are held at once; fewer take less memory.

    Raises:
        UserError: an option out of range, or a tokenizer with too few sentinels.
    """

    needs = Needs(directions=frozenset({"encoder_decoder"}), token_kinds=frozenset({"discrete"}))

    def __init__(
        self,
        *,
        dim: int,
        tokenizer: Tokenizer,
        noise_density: float = 0.15,
        mean_span: float = 3.0,
        tied: bool = True,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        chunk: int = 1024,
    ) -> None:
        if not 0 < noise_density < 1:
            raise UserError(f"task.noise_density={noise_density}: must be greater than 0 and less than 1.")
        if mean_span < 1:
            raise UserError(f"task.mean_span={mean_span}: must be at least 1.")
        spec = tokenizer.spec
        noise = SpanNoise(density=noise_density, mean_span=mean_span, room=len(spec.grid))
        check_tokens(spec, noise)
        super().__init__(
            dim=dim,
            tokenizer=tokenizer,
            start="pad",
            tied=tied,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            chunk=chunk,
        )
        self.targets = Spans(tokenizer, start=self.start, noise=noise)
        self.mask = spec.specials.get("mask")
        self.sentinels = spec.sentinels

    def read(self, trunk: Trunk, batch: Batch) -> Memory:
        """The text without what was taken out of it."""
        return trunk.backbone.encode(trunk.embed(self.source_of(batch)))

    def source_of(self, batch: Batch) -> Features:
        return {key: batch["targets"][name] for key, name in SOURCE.items() if name in batch["targets"]}

    def source(self, inputs: Features) -> Features:
        """
        Raises:
            UserError: more masks in one text than there are sentinels.
        """
        if self.mask is None:
            return inputs
        ids = inputs["ids"]
        masked = ids == self.mask
        number = masked.cumsum(1) - 1
        if int(number.max()) >= len(self.sentinels):
            raise UserError(
                f"{int(number.max()) + 1} masks in one text: this model fills at most {len(self.sentinels)}, one for "
                "each of its tokenizer's sentinels."
            )
        sentinels = torch.tensor(self.sentinels, device=ids.device)[number.clamp(min=0)]
        return {**inputs, "ids": ids.where(~masked, sentinels)}

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(), "perplexity": Perplexity()}

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The text without what was taken out of it, besides what should be written for it and what is."""
        sources = [{"source": text_of(tokenizer, ids)} for ids in self.source_of(batch)["ids"].cpu()]
        return joined(sources, super().show(trunk, batch, output, tokenizer=tokenizer))


class Spans(TaughtTokens):
    """Besides those of `TaughtTokens` the feature `source`, int `[rest]`; both of new spans each time."""

    def __init__(self, tokenizer: Tokenizer, *, start: int, noise: SpanNoise) -> None:
        super().__init__(tokenizer, start=start)
        self.noise = noise
        self.sentinels = torch.tensor(tokenizer.spec.sentinels)

    def encode(self, sample: Sample, inputs: Features) -> Features:
        front, text, end = self._parts(inputs["ids"])
        made = Corrupted.of(text, self.noise.draw(len(text)), self.sentinels)
        target = torch.cat([made.target, text.new_tensor([self.tokenizer.spec.specials["eos"]])])
        return {"source": torch.cat([front, made.source, end]), **self.taught(target)}

    def _parts(self, ids: Int[Tensor, "length"]) -> tuple[Tensor, Tensor, Tensor]:
        """What begins the sequence, and what ends it, stays."""
        specials = self.tokenizer.spec.specials
        begin = int(len(ids) > 0 and int(ids[0]) == specials.get("bos"))
        end = len(ids) - int(len(ids) > begin and int(ids[-1]) == specials["eos"])
        return ids[:begin], ids[begin:end], ids[end:]

    def collate(self, features: Sequence[Features]) -> Features:
        source = self.tokenizer.collate([{"ids": each["source"]} for each in features])
        return super().collate(features) | {name: source[key] for key, name in SOURCE.items() if key in source}


def check_tokens(spec: TokenSpec, noise: SpanNoise) -> None:
    """
    Raises:
        UserError: nothing can be taken out of such tokens so.
    """
    if spec.token_kind != "discrete":
        raise UserError("task=denoise needs discrete tokens; those of this tokenizer are continuous.")
    if spec.segments:
        raise UserError(
            "task=denoise: with this tokenizer.packing documents of one sequence must not see each other, and spans of "
            "several can't be told apart.\n  Set tokenizer.packing=stream or tokenizer.packing=none."
        )
    length = len(spec.grid)
    if length < 4:
        raise UserError(
            f"task=denoise: sequences of {length} tokens have no room for a span. Set a greater max_length."
        )
    needed = noise.count(length)[1] + 1
    if len(spec.sentinels) < needed:
        raise UserError(
            f"task=denoise: {needed} sentinels are needed, for the spans of a text of {length} tokens and the end; the "
            f"tokenizer has {len(spec.sentinels)}.\n"
            f"  Set tokenizer.sentinels={needed}, a greater task.mean_span, or a smaller task.noise_density."
        )
