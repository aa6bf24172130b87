"""What tasks are tried with: simple, and no plugin."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from plugformer.interfaces import (
    Backbone,
    DataSpec,
    DecodingState,
    Direction,
    Embedding,
    Features,
    Grid,
    Layout,
    Memory,
    Sample,
    Tokenizer,
    Tokens,
    TokenSpec,
)
from plugformer.testing.samples import WORDS

# ---------------------------------------------------------------------------------------------- tokens


class MadeUpWords(Tokenizer):
    """Each word is a token; several are the same where the vocabulary is small. Longer texts lose their ends.

    Args:
        spec: of its tokens; those before the first ordinary one are special.
    """

    modality: ClassVar[str] = "text"

    def __init__(self, spec: TokenSpec) -> None:
        self._spec = spec
        self.first = len(spec.specials)
        self.count = (spec.vocab_size or 0) - self.first - len(spec.sentinels)

    @property
    def spec(self) -> TokenSpec:
        return self._spec

    def assume(self, data: DataSpec) -> None:
        """Nothing depends on the data."""

    def fit(self, samples: Iterable[Sample]) -> None:
        """Nothing is learned."""

    def encode(self, sample: Sample, *, augment: bool = False) -> Features:
        front, end = ([self.spec.specials[role]] if role in self.spec.around else [] for role in ("bos", "eos"))
        words = [self.first + WORDS.index(word) % self.count for word in sample["text"].split()]
        room = len(self.spec.grid) - len(front) - len(end)
        ids = torch.tensor([*front, *words[:room], *end])
        ordinary = ids >= self.first
        return {"ids": ids, "words": torch.arange(len(ids)).where(ordinary, -1), "bytes": ordinary.long()}

    def collate(self, features: Sequence[Features]) -> Features:
        lengths = torch.tensor([len(each["ids"]) for each in features])
        ids = pad_sequence([each["ids"] for each in features], True, self.spec.specials["pad"])
        return {"ids": ids, "valid": torch.arange(ids.shape[1]) < lengths[:, None]}

    def example(self) -> Features:
        return self.encode({"text": " ".join(WORDS)})

    def embedding(self, *, dim: int) -> Embedding:
        return made_up_embedding(self.spec, dim=dim)

    def read(self, source: str) -> Sample:
        return {"id": source, "text": source}

    def decode(self, ids: Tensor) -> str:
        return " ".join(WORDS[token - self.first] for token in ids.tolist() if 0 <= token - self.first < self.count)

    def save(self, folder: Path) -> None:
        """Nothing was learned."""

    def load(self, folder: Path) -> None:
        """Nothing was learned."""


def made_up_embedding(tokens: TokenSpec, *, dim: int) -> Embedding:
    """Of tokens that are given as `ids` or as `values`, with `valid` and, if they are packed, `segments`."""
    if tokens.vocab_size is not None:
        return IdsEmbedding(grid=tokens.grid, vocab_size=tokens.vocab_size, dim=dim)
    return ValuesEmbedding(grid=tokens.grid, width=tokens.token_dim or 1, dim=dim)


class IdsEmbedding(Embedding):
    """A vector for each token, on a line."""

    def __init__(self, *, grid: Grid, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.vectors = nn.Embedding(vocab_size, dim)

    @property
    def table(self) -> nn.Parameter:  # type: ignore[override]
        return next(self.vectors.parameters())

    def forward(self, features: Features) -> Tokens:
        embeddings, everywhere = self.vectors(features["ids"]), Layout.of(self.grid)
        layout = everywhere.select(features.get("positions", torch.arange(embeddings.shape[1])[None]))
        return Tokens(embeddings, layout, valid=features.get("valid"), segments=features.get("segments"))


class ValuesEmbedding(Embedding):
    """Values projected."""

    def __init__(self, *, grid: Grid, width: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.projection = nn.Linear(width, dim)

    def forward(self, features: Features) -> Tokens:
        values = features["values"]
        return Tokens(self.projection(values), Layout.of(self.grid), valid=features.get("valid"), raw=values)


# ---------------------------------------------------------------------------------------------- backbones


class MeanOfVisible(Backbone):
    """Each token and the mean of those it sees."""

    num_layers = 1

    def __init__(self, *, dim: int, causal: bool) -> None:
        super().__init__()
        self.dim = dim
        self.direction: Direction = "causal" if causal else "bidirectional"  # type: ignore[misc]  # of this one
        self.causal = causal
        self.mix = nn.Linear(dim, dim)

    def forward(self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None) -> Tensor:
        x = seen = tokens.embeddings
        if state is None:
            mask = tokens.mask(causal=self.causal)
        else:
            mask = state.extend(tokens, causal=self.causal)
            seen = state.caches[0].extend(x[:, None], x[:, None])[0][:, 0]
        visible = mask.dense(x.shape[1], seen.shape[1], x.device)
        weights = torch.ones(x.shape[0], x.shape[1], seen.shape[1]) if visible is None else visible[:, 0].to(x.dtype)
        return x + self.mix(weights @ seen / weights.sum(-1, keepdim=True))


class MeanOfBoth(Backbone):
    """Each token, the mean of those it sees, and the mean of the other sequence, each of whose tokens sees all."""

    direction: ClassVar[Direction] = "encoder_decoder"
    num_layers = 1

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.encoder = MeanOfVisible(dim=dim, causal=False)
        self.decoder = MeanOfVisible(dim=dim, causal=True)
        self.cross = nn.Linear(dim, dim)

    def encode(self, tokens: Tokens) -> Memory:
        return Memory(self.encoder(tokens), tokens.mask(causal=False))

    def forward(self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None) -> Tensor:
        assert memory is not None, "nothing was read"
        read, valid = memory.hidden, memory.mask.valid
        weights = torch.ones(read.shape[:2]) if valid is None else valid.to(read.dtype)
        mean = (weights[..., None] * read).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
        return self.decoder(tokens, state=state) + self.cross(mean).repeat_interleave(memory.copies, 0)
