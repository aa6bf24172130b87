"""Which token comes next, of all that a model holds possible."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]


class Choice:
    """Greedy, or drawn from a distribution that was sharpened and cut. Options apply in the order they stand in here.

    Args:
        repetition_penalty: divides the logits of tokens that stood there if positive, multiplies them if negative
            (Keskar et al. 2019, CTRL, section 4.1).
        no_repeat_ngram: no run of this many tokens comes twice (Paulus et al. 2018, section 2.5); 0 to allow all.
        temperature: divides the logits; 0 takes the likeliest token, to which the options below mean nothing.
        top_k: tokens that may be drawn, the likeliest ones (Fan et al. 2018, section 5.1); those as likely as the last
            of them may be, too. None for all.
        top_p: only the likeliest tokens may be drawn whose probabilities together reach this (Holtzman et al. 2020,
            section 3.1).
        min_p: only tokens may be drawn whose probability is at least this share of the likeliest one's (Nguyen et al.
            2024, section 3).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int = 0,
    ) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.min_p = min_p
        self.repetition_penalty = repetition_penalty
        self.no_repeat_ngram = no_repeat_ngram

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def scores(
        self,
        logits: Float[Tensor, "batch vocab"],
        ids: Int[Tensor, "batch length"],
        valid: Bool[Tensor, "batch length"] | None,
    ) -> Float[Tensor, "batch vocab"]:
        """Logits as they are drawn from, -inf where a token is excluded.

        Args:
            logits: of the next token.
            ids: all tokens so far, prompts included.
            valid: which of them are real; None if all are. Padding never counts as a token that stood there.

        Raises:
            UserError: every token is excluded.
        """
        if self.repetition_penalty != 1:
            penalised = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
            logits = penalised.where(_marked(ids, valid, logits), logits)
        if self.no_repeat_ngram:
            logits = logits.masked_fill(self._repeating(logits, ids, valid), float("-inf"))
        if self.greedy:
            return logits
        logits = logits / self.temperature
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self.top_p < 1:
            logits = logits.masked_fill(_tail(logits, self.top_p), float("-inf"))
        if self.min_p > 0:
            probability = logits.softmax(-1)
            unlikely = probability < self.min_p * probability.amax(-1, keepdim=True)
            logits = logits.masked_fill(unlikely, float("-inf"))
        return logits

    def draw(self, scores: Float[Tensor, "batch vocab"], generator: Generators | None) -> Int[Tensor, "batch"]:
        """A token for each sequence.

        Args:
            scores: as `scores` makes them.
            generator: on the CPU; one for all, or one for each sequence, so that what it gets depends on nobody else.
                None if greedy.
        """
        if self.greedy:
            return scores.argmax(-1)
        assert generator is not None, "what is drawn is drawn from a generator"
        return sample_from(scores.softmax(-1, dtype=torch.float32), generator)

    def _repeating(self, logits: Tensor, ids: Tensor, valid: Tensor | None) -> Tensor:
        """bool `[batch, vocab]`, the tokens with which a run of tokens would come a second time."""
        size, length = self.no_repeat_ngram, ids.shape[1]
        if length < size:
            return torch.zeros_like(logits, dtype=torch.bool)
        runs = ids.unfold(1, size, 1)  # [batch, runs, size]
        again = (runs[..., :-1] == ids[:, None, length - size + 1 :]).all(-1)
        if valid is not None:
            again = again & valid.unfold(1, size, 1).all(-1)
        repeating = _marked(runs[..., -1], again, logits)
        if runs.shape[1] >= logits.shape[1] and repeating.all(-1).any():
            raise UserError(
                f"no_repeat_ngram={size}: no token is left that wouldn't repeat {size} tokens.\n"
                "  Set a greater no_repeat_ngram, or fewer max_new_tokens."
            )
        return repeating


def sample_from(probability: Float[Tensor, "batch vocab"], generator: Generators) -> Int[Tensor, "batch"]:
    """A token for each sequence, as likely as these say; they need not add up to 1.

    One number is drawn a token, and compared with the sums of probabilities up to each.
    """
    batch = probability.shape[0]
    if isinstance(generator, torch.Generator):
        drawn = torch.rand(batch, dtype=torch.float64, generator=generator)
    else:
        drawn = torch.cat([torch.rand(1, dtype=torch.float64, generator=each) for each in generator])
    exact = torch.float32 if probability.device.type == "mps" else torch.float64  # which mps doesn't have
    sums = probability.to(exact).cumsum(-1)
    mark = drawn.to(probability.device, exact)[:, None] * sums[:, -1:]
    return (sums > mark).int().argmax(-1)  # the first


def _marked(ids: Int[Tensor, "batch some"], counts: Bool[Tensor, "batch some"] | None, like: Tensor) -> Tensor:
    """bool `[batch, vocab]`, which tokens stand among `ids` where these count."""
    batch, vocab = like.shape
    marked = torch.zeros(batch, vocab + 1, dtype=torch.bool, device=like.device)
    places = ids if counts is None else ids.where(counts, vocab)
    return marked.scatter_(1, places, torch.ones_like(places, dtype=torch.bool))[:, :vocab]


def _tail(logits: Tensor, top_p: float) -> Tensor:
    """bool `[batch, vocab]`, the least likely tokens that `top_p` of the probability is reached without."""
    rising, order = logits.sort(-1)
    beyond = rising.softmax(-1).cumsum(-1) <= 1 - top_p
    beyond[:, -1] = False  # one is left
    return torch.zeros_like(beyond).scatter_(1, order, beyond)
