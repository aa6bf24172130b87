"""A vector for each token of a vocabulary."""

from typing import cast

import torch
from torch import Tensor, nn

from plugformer.interfaces import Embedding, Features, Grid, Layout, Tokens


class TextEmbedding(Embedding):
    """Looks tokens up in a table, and places each by its number in its document.

    Args:
        vocab_size: rows of the table.
        dim: of its vectors.
        grid: a line, as long as a sequence can be.
    """

    coordinates: Tensor

    def __init__(self, *, vocab_size: int, dim: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.lookup = nn.Embedding(vocab_size, dim)
        self.register_buffer("coordinates", grid.coordinates()[None], persistent=False)

    @property
    def table(self) -> nn.Parameter:  # type: ignore[override]  # not an attribute: the module would hold it twice
        return cast("nn.Parameter", self.lookup.weight)

    def forward(self, features: Features) -> Tokens:
        ids = features["ids"]  # [batch, length]
        coordinates = self.coordinates[:, : ids.shape[1]]
        if "positions" in features:
            coordinates = features["positions"][..., None]
        layout = Layout(coordinates, torch.zeros_like(coordinates[..., 0]), (self.grid,))
        return Tokens(self.lookup(ids), layout, valid=features.get("valid"), segments=features.get("segments"))
