"""Which spans of a sequence are taken out of it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class SpanNoise:
    """Spans of random lengths at random places (Raffel et al. 2020, section 3.3.4; `random_spans_noise_mask` of their
    code): a share of the tokens, in spans of a mean length. What is kept and what is taken out are each divided by
    chance, all ways being equally likely; a sequence begins with what is kept, and ends with what isn't.

    Attributes:
        density: the share of tokens that are taken out.
        mean_span: their number in a span.
        room: for those tokens, a mark before each span, and two behind all.
    """

    density: float
    mean_span: float
    room: int

    def count(self, length: int) -> tuple[int, int]:
        """How many tokens of a sequence are taken out, in how many spans; none of a sequence of one."""
        if length < 2:
            return 0, 0
        hidden = min(max(round(length * self.density), 1), length - 1, self.room - 3)
        spans = min(max(round(hidden / self.mean_span), 1), hidden, length - hidden, self.room - 2 - hidden)
        return hidden, spans

    def draw(self, length: int) -> Bool[Tensor, "length"]:
        """Which tokens are taken out, from torch's generator."""
        hidden, spans = self.count(length)
        if not spans:
            return torch.zeros(length, dtype=torch.bool)
        widths = torch.stack([_divide(length - hidden, spans), _divide(hidden, spans)], 1).flatten()
        return torch.tensor([False, True]).repeat(spans).repeat_interleave(widths)


class Corrupted(NamedTuple):
    """A sequence without some spans, and these.

    Attributes:
        source: int `[rest]`, with a sentinel where each span stood.
        target: int `[taken]`, the spans, each behind its sentinel, and behind all one more.
    """

    source: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, ids: Int[Tensor, "length"], hidden: Bool[Tensor, "length"], sentinels: Int[Tensor, "many"]
    ) -> "Corrupted":
        """
        Args:
            ids: the sequence.
            hidden: what is taken out.
            sentinels: at least one more than spans.
        """
        begins = hidden.clone()
        begins[1:] &= ~hidden[:-1]
        own = sentinels[(begins.cumsum(0) - 1).clamp(min=0)]  # of its span, or of the one before it
        target = torch.stack([own, ids], 1)[torch.stack([begins, hidden], 1)]
        source = ids.where(~begins, own)[begins | ~hidden]
        return cls(source, torch.cat([target, sentinels[begins.sum()][None]]))


def _divide(count: int, parts: int) -> Int[Tensor, "parts"]:
    """Lengths of so many parts, each at least 1; every division is equally likely."""
    cuts = 1 + torch.randperm(count - 1)[: parts - 1].sort().values
    return torch.cat([cuts, torch.tensor([count])]).diff(prepend=torch.zeros(1, dtype=torch.long))
