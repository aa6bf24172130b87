"""Bands of a spectrogram hidden in training (Park et al. 2019, SpecAugment, section 2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer.errors import UserError


@dataclass(frozen=True)
class Bands:
    """
    Attributes:
        axis: what is hidden along it, as options call it: `freq` or `time`.
        count: how many bands.
        size: the most places that one hides; each hides from none to so many, all equally likely.
    """

    axis: str
    count: int
    size: int

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: one number without the other.
        """
        if min(self.count, self.size) < 0 or (self.count == 0) != (self.size == 0):
            raise UserError(
                f"tokenizer.{self.axis}_masks={self.count} and tokenizer.{self.axis}_mask_size={self.size}: both must "
                "be at least 1, or 0 to hide nothing."
            )

    def draw(self, places: int) -> Int[Tensor, "count 2"]:
        """First place of each band, and the one behind its last, along so many places; none are hidden of 0."""
        if not places:
            return torch.zeros(self.count, 2, dtype=torch.int64)
        size = torch.randint(min(self.size, places) + 1, (self.count,))
        start = (torch.rand(self.count) * (places - size + 1)).long()
        return torch.stack([start, start + size], 1)


def hide(
    picture: Float[Tensor, "batch bins frames"],
    freq: Int[Tensor, "batch freq_bands 2"] | None,
    time: Int[Tensor, "batch time_bands 2"] | None,
) -> Float[Tensor, "batch bins frames"]:
    """With 0, the mean of a normalised spectrogram, wherever a band lies."""
    if freq is not None:
        picture = picture.masked_fill(_inside(freq, picture.shape[1])[:, :, None], 0.0)
    if time is not None:
        picture = picture.masked_fill(_inside(time, picture.shape[2])[:, None, :], 0.0)
    return picture


def _inside(bands: Int[Tensor, "batch bands 2"], places: int) -> Bool[Tensor, "batch places"]:
    place = torch.arange(places, device=bands.device)
    first, behind = bands[..., None].unbind(2)
    return ((place >= first) & (place < behind)).any(1)
