"""Hidden tokens from those around them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
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
    joined,
    sample_losses,
    summaries,
)
from plugformer_tasks.other_kind import refuse_other_kind
from plugformer_tasks.shown_texts import filled, text_of
from plugformer_tasks.simmim import SimMIM


class MaskedLM(Task):
    """Predict tokens that were hidden, from all others.

    Of discrete tokens as BERT does (Devlin et al. 2019, section 3.1), of continuous ones as SimMIM does (Xie et al.
    2022). Which are hidden is drawn anew each time a sample is seen in training (Liu et al. 2019, RoBERTa), and is
    always the same in validation. Special tokens never are. In prediction, the mask tokens of the input are filled in;
    of continuous tokens as many are hidden as in validation.

    Args:
        share: of the tokens that are chosen to be predicted; at least one of each sequence is. Null for 0.15 of
            discrete tokens and 0.6 of continuous ones.
        mask_share: of the chosen discrete tokens, those replaced by the mask token.
        random_share: of the chosen discrete tokens, those replaced by any ordinary one; what is left stays as it is.
        whole_words: choose words instead of discrete tokens; needs a tokenizer that tells them.
        tied: of discrete tokens, whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        norm_eps: of discrete tokens, added to the variance in the norm before the output.
        label_smoothing: of discrete tokens, share of the target probability that is spread over the vocabulary while
            training.
        chunk: discrete tokens whose logits are held at once; fewer take less memory.
        masking: of continuous tokens, `random` hides squares, `blocks` rectangles of random size and shape (Bao et al.
            2022, BEiT).
        unit: of continuous tokens, side of the squares that are hidden at once, or of one of the size of the smallest
            block; null for 1 or 4.
        loss: of continuous tokens, `l1`, the mean absolute error, or `l2`, the mean squared one.
        normalise: whether each continuous token that is to be predicted is brought to mean 0 and deviation 1 first (He
            et al. 2022, section 4.1).

    Raises:
        UserError: an option out of range or of the other kind of tokens, or a tokenizer without what is needed.
    """

    needs = Needs(directions=frozenset({"bidirectional"}))
    monitor = Monitor("val/loss", "min")

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        share: float | None = None,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        whole_words: bool = False,
        tied: bool = True,
        norm_eps: float = 1e-12,
        label_smoothing: float = 0.0,
        chunk: int = 1024,
        masking: Literal["random", "blocks"] = "random",
        unit: int | None = None,
        loss: Literal["l1", "l2"] = "l1",
        normalise: bool = True,
    ) -> None:
        super().__init__()
        refuse_other_kind(
            MaskedLM,
            tokens,
            discrete={
                "mask_share": mask_share,
                "random_share": random_share,
                "whole_words": whole_words,
                "tied": tied,
                "norm_eps": norm_eps,
                "label_smoothing": label_smoothing,
                "chunk": chunk,
            },
            continuous={"masking": masking, "unit": unit, "loss": loss, "normalise": normalise},
        )
        self.simmim: SimMIM | None = None
        if tokens.token_kind == "continuous":
            share = 0.6 if share is None else share
            self.simmim = SimMIM(
                dim=dim, tokens=tokens, share=share, masking=masking, unit=unit, loss=loss, normalise=normalise
            )
            self.needs, self.targets = self.simmim.needs, self.simmim.targets
            return
        share = 0.15 if share is None else share
        if not 0 < share <= 1:
            raise UserError(f"task.share={share}: must be more than 0 and at most 1.")
        if min(mask_share, random_share) < 0 or mask_share + random_share > 1 + 1e-9:
            raise UserError(
                f"task.mask_share={mask_share}, task.random_share={random_share}: neither may be negative, and their "
                "sum must be at most 1."
            )
        _check(tokens, whole_words=whole_words)
        self.mask = tokens.specials.get("mask", 0)
        self.targets = Hidden(
            tokens=tokens, share=share, mask_share=mask_share, random_share=random_share, whole_words=whole_words
        )
        self.transform = Transform(dim=dim, eps=norm_eps)
        self.output = VocabularyOutput(
            dim=dim, tokens=tokens, tied=tied, bias=True, label_smoothing=label_smoothing, chunk=chunk
        )

    def forward(self, trunk: Trunk, batch: Batch) -> Output:
        if self.simmim is not None:
            return self.simmim(trunk, batch)
        targets = batch["targets"]
        if not targets:
            return self._fill(trunk, batch["inputs"])
        return self.output(trunk, self._chosen(trunk, batch), targets["original"], targets["counts"])

    def _chosen(self, trunk: Trunk, batch: Batch) -> Float[Tensor, "batch chosen dim"]:
        """The states that tokens are predicted from."""
        place = batch["targets"]["place"]
        hidden = trunk.backbone(trunk.embed({**batch["inputs"], "ids": self._masked(batch)}))
        return self.transform(hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[2])))

    def _masked(self, batch: Batch) -> Int[Tensor, "batch length"]:
        """What the model is given."""
        targets = batch["targets"]
        return batch["inputs"]["ids"].scatter(1, targets["place"], targets["replacement"])

    def _fill(self, trunk: Trunk, inputs: Features) -> TokensOutput:
        """What could stand anywhere; `predictions` are which places hold a mask token, bool `[batch, length]`."""
        hidden = self.transform(trunk.backbone(trunk.embed(inputs)))
        likely, probabilities = self.output.likeliest(trunk, hidden)
        asked = inputs["ids"] == self.mask
        if "valid" in inputs:
            asked = asked & inputs["valid"]
        return TokensOutput(None, asked, None, weight=0, likely=likely, probabilities=probabilities)

    def metrics(self) -> Mapping[str, Metric]:
        if self.simmim is not None:
            return self.simmim.metrics()
        return {"accuracy": Accuracy(), "perplexity": Perplexity()}

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """The likeliest tokens for each mask token; with targets, how well the chosen ones were predicted.

        Of continuous tokens always the latter.
        """
        if self.simmim is not None:
            return self.simmim.describe(output)
        assert isinstance(output, TokensOutput)
        if output.targets is not None:
            return summaries(output)
        return [
            {"fills": [{"position": p, "tokens": output.told(number, p)} for p in asked.nonzero()[:, 0].tolist()]}
            for number, asked in enumerate(output.predictions)
        ]

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        return sample_losses(output) if self.simmim is None else self.simmim.losses(output)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """What the model was given, what it should have filled in, and what it fills in; of continuous tokens pictures
        of the same."""
        if self.simmim is not None:
            return self.simmim.show(trunk, batch, output, tokenizer=tokenizer)
        likely, _ = self.output.likeliest(trunk, self._chosen(trunk, batch))
        targets = batch["targets"]
        given = [{"masked": text_of(tokenizer, ids)} for ids in self._masked(batch).cpu()]
        fills = filled(tokenizer, batch["inputs"], targets["place"], targets["counts"] > 0, likely[..., 0])
        return joined(given, fills, accuracies(output))


def _check(tokens: TokenSpec, *, whole_words: bool) -> None:
    if "mask" not in tokens.specials:
        known = ", ".join(tokens.specials) or "none"
        raise UserError(f"task=mlm: the tokenizer has no mask token; its special tokens are {known}.")
    if whole_words and not tokens.words:
        raise UserError(
            "task.whole_words=true: this tokenizer doesn't tell which word a token belongs to.\n"
            "  Set task.whole_words=false, or choose another tokenizer."
        )


class Transform(nn.Module):
    """One layer more before the output (Devlin et al. 2019, in their code)."""

    def __init__(self, *, dim: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.norm(F.gelu(self.dense(x)))


class Hidden(Targets):
    """Which tokens are to be predicted, and what stands in their place.

    Features, all int `[chosen]`, whose length depends on that of the sequence alone unless a single word is longer:
    `place`, the `original` token there, its `replacement`, and whether it `counts` (1) or just fills up (0).
    """

    def __init__(
        self, *, tokens: TokenSpec, share: float, mask_share: float, random_share: float, whole_words: bool
    ) -> None:
        self.specials = sorted({*tokens.specials.values(), *tokens.sentinels})
        self.mask = tokens.specials.get("mask", 0)
        self.num_ordinary = (tokens.vocab_size or 0) - len(self.specials)
        self.share = share
        self.mask_share = mask_share
        self.random_share = random_share
        self.whole_words = whole_words

    def encode(self, sample: Sample, inputs: Features) -> Features:
        ids = inputs["ids"]
        ordinary = torch.isin(ids, torch.tensor(self.specials), invert=True)
        place = self._choose(ordinary, inputs)
        original = ids[place]
        made = {"place": place, "original": original, "replacement": self._replace(original)}
        made["counts"] = torch.ones_like(place)
        if not len(place):  # a sequence of special tokens: its first fills up
            made = self.example({"ids": ids[:1]}) | {"original": ids[:1], "replacement": ids[:1]}
            made["counts"] = torch.zeros_like(made["place"])
        return _fill_up(made, self._number(len(ids)))

    def example(self, inputs: Features) -> Features:
        number = self._number(len(inputs["ids"]))
        nothing = torch.zeros(number, dtype=torch.long)
        return {"place": torch.arange(number), "original": nothing, "replacement": nothing, "counts": nothing + 1}

    def collate(self, features: Sequence[Features]) -> Features:
        number = max(len(each["place"]) for each in features)
        filled = [_fill_up(each, number) for each in features]
        return {key: torch.stack([each[key] for each in filled]) for key in filled[0]}

    def _number(self, length: int) -> int:
        return max(1, round(self.share * length))

    def _choose(self, ordinary: Bool[Tensor, "length"], inputs: Features) -> Tensor:
        """The places of the chosen tokens, in order."""
        candidates = ordinary.nonzero()[:, 0]
        number = self._number(len(candidates))
        if not self.whole_words:
            return candidates[torch.randperm(len(candidates))[:number]].sort().values
        words = candidates.tensor_split(self._borders(candidates, inputs).tolist())
        return _fitting([words[i] for i in torch.randperm(len(words)).tolist()], number).sort().values

    def _borders(self, candidates: Tensor, inputs: Features) -> Tensor:
        """Where among the candidates another word begins: its number changes, or its document, or it is none."""
        word = inputs["words"][candidates]
        other = (word[1:] != word[:-1]) | (word[1:] < 0) | (candidates[1:] - candidates[:-1] > 1)
        if "segments" in inputs:
            segment = inputs["segments"][candidates]
            other = other | (segment[1:] != segment[:-1])
        return other.nonzero()[:, 0] + 1

    def _replace(self, original: Tensor) -> Tensor:
        drawn = torch.rand(original.shape)
        ordinary = torch.randint(max(1, self.num_ordinary), original.shape)
        for special in self.specials:  # in order: the ordinary tokens are numbered past them
            ordinary += ordinary >= special
        replaced = original.where(drawn >= self.mask_share + self.random_share, ordinary)
        return replaced.masked_fill(drawn < self.mask_share, self.mask)


def _fitting(words: Sequence[Tensor], number: int) -> Tensor:
    """Words in this order, without those that would make more than so many tokens; the shortest if all would."""
    chosen, left = [], number
    for word in words:
        if len(word) <= left:
            chosen.append(word)
            left -= len(word)
    return torch.cat(chosen or [min(words, key=len)])


def _fill_up(features: Features, number: int) -> Features:
    """To so many tokens, with the last one again, which then doesn't count."""
    have = len(features["place"])
    index = torch.arange(max(number, have)).clamp(max=have - 1)
    filled = {key: value[index] for key, value in features.items()}
    filled["counts"] = filled["counts"] * (torch.arange(len(index)) < have)
    return filled
