"""Spectrograms as tokens, on the device."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.data.mixing import blend
from plugformer.interfaces import Embedding, Features, Grid, Layout, Tokens
from plugformer.nn.patches import Patches
from plugformer_audio.constants import Constants
from plugformer_audio.front_end import FrontEnd
from plugformer_audio.front_end_options import FrontEndOptions
from plugformer_audio.masking import hide

SHOWN = 3.0  # standard deviations on either side of the mean


class Standardise(Constants):
    """Every bin with mean 0 and deviation 1, by fitted statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.keep("mean", torch.tensor(mean, dtype=torch.float32)[:, None], learned=True)
        self.keep("std", torch.tensor(std, dtype=torch.float32)[:, None], learned=True)

    def forward(self, picture: Float[Tensor, "batch bins frames"]) -> Float[Tensor, "batch bins frames"]:
        return (picture.to(torch.promote_types(picture.dtype, torch.float32)) - self.mean) / self.std


class ConvStem(nn.Module):
    """Two convolutions along time, the second of which halves it (Radford et al. 2022, Whisper, section 2.2)."""

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(bins, dim, kernel_size=3, padding=1)
        self.second = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)

    def forward(self, picture: Float[Tensor, "batch bins frames"]) -> Float[Tensor, "batch length dim"]:
        return F.gelu(self.second(F.gelu(self.first(picture)))).transpose(1, 2)


class SpectrogramEmbedding(Embedding):
    """Spectrograms normalised bin by bin and cut into patches, which are projected (Gong et al. 2021, section 2.1).

    Args:
        dim: of an embedding.
        front_end: makes spectrograms of waveforms.
        patches: how they are cut; a flattened patch is ordered bin, frame.
        grid: of the patches.
        mean, std: of each bin.
        conv: whether neighbouring frames are convolved, instead of each patch projected.
    """

    picture_axes: ClassVar[tuple[str, str]] = ("frequency", "time")
    coordinates: Tensor

    def __init__(
        self,
        *,
        dim: int,
        front_end: FrontEndOptions,
        patches: Patches,
        grid: Grid,
        mean: Sequence[float],
        std: Sequence[float],
        conv: bool,
    ) -> None:
        super().__init__()
        self.patches = patches
        self.grid = grid
        self.front_end = FrontEnd(front_end)
        self.standardise = Standardise(mean, std)
        self.conv = conv
        self.stem = ConvStem(front_end.num_bins, dim) if conv else nn.Linear(prod(patches.size), dim)
        self.register_buffer("coordinates", grid.coordinates()[None], persistent=False)

    def forward(self, features: Features) -> Tokens:
        picture = self._picture(features)
        raw = self.patches.cut(picture[:, None])
        layout = Layout(self.coordinates, torch.zeros_like(self.coordinates[..., 0]), (self.grid,))
        return Tokens(self.stem(picture if self.conv else raw), layout, _united(features), raw=raw)

    def _picture(self, features: Features) -> Float[Tensor, "batch bins frames"]:
        """Normalised, with what is hidden in training, in the precision of the weights."""
        if "spectrogram" in features:
            picture = features["spectrogram"]
        else:
            picture = self.front_end(blend(features["waveform"], features))
        picture = hide(self.standardise(picture), features.get("freq_bands"), features.get("time_bands"))
        return picture.to(next(self.stem.parameters()).dtype)

    def picture(self, raw: Float[Tensor, "batch length token_dim"]) -> Float[Tensor, "batch 1 bins frames"]:
        """The lowest bin first; a bin's mean is a half."""
        shades = self.patches.join(raw.float(), *self.grid.shape) / (2 * SHOWN) + 0.5
        return shades.clamp(0, 1)


def _united(features: Features) -> Bool[Tensor, "batch length"] | None:
    """Which tokens are real: those of a sample, and of its partner."""
    valid = features.get("valid")
    if valid is None or "partner" not in features:
        return valid
    return valid | valid[features["partner"]]
