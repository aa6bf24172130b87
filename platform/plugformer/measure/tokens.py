"""How many tokens a model is given, and how many of them are padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plugformer.interfaces import Embedding, Tokens


@dataclass
class TokenCount:
    """Of sequences of tokens; whatever only the device knows stays there until it is asked for.

    Attributes:
        sequences: how many.
        places: tokens, padding among them.
        real: tokens without it.
        longest: of the sequences, in real tokens.
    """

    sequences: int = 0
    places: int = 0
    real: int | Tensor = 0
    longest: int | Tensor = 0

    def add(self, tokens: Tokens) -> None:
        batch, length = tokens.embeddings.shape[:2]
        self.sequences += batch
        self.places += batch * length
        if tokens.valid is None:
            self.real = self.real + batch * length
            self.longest = _larger(self.longest, length)
        else:
            lengths = tokens.valid.sum(1)
            self.real = self.real + lengths.sum()
            self.longest = _larger(self.longest, lengths.max())

    @property
    def padding(self) -> float:
        """The share of places without a token."""
        return 1 - float(self.real) / self.places


class EmbeddedTokens:
    """Counts the tokens that embeddings make: what is read, and where something is written, that as well.

    Args:
        embeddings: of a model; hooks stay on them until `close`.

    Attributes:
        counting: whether what is embedded now counts.
    """

    def __init__(self, embeddings: Iterable[Embedding]) -> None:
        self.counting = False
        self._count = TokenCount()
        self._hooks = [embedding.register_forward_hook(self._add) for embedding in embeddings]

    def take(self) -> TokenCount:
        """What was counted since it was last asked for."""
        taken, self._count = self._count, TokenCount()
        return taken

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch._disable_dynamo  # to count is no part of a compiled graph
    @torch.no_grad()
    def _add(self, _module: Embedding, _inputs: Any, tokens: Tokens) -> None:
        if self.counting:
            self._count.add(tokens)


def _larger(one: int | Tensor, other: int | Tensor) -> int | Tensor:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        device = next(each.device for each in (one, other) if isinstance(each, Tensor))
        return torch.maximum(*(torch.as_tensor(each, device=device) for each in (one, other)))
    return max(one, other)
