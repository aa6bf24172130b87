"""Rectangular patches of pictures and of spectrograms."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, ones_like
from torch.nn import functional as F


@dataclass(frozen=True)
class Patches:
    """How a picture is cut.

    Attributes:
        size: height and width of a patch.
        stride: from one patch to the next, at most `size`.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    @property
    def overlap(self) -> bool:
        return self.stride != self.size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of whole patches; what is left over at the end is cut off."""
        rows, columns = (
            (side - size) // stride + 1
            for side, size, stride in zip((height, width), self.size, self.stride, strict=True)
        )
        return rows, columns

    def cut(self, picture: Shaped[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch length token_dim"]:
        """Flattened patches in raster order; within a patch by channel, row, column."""
        return F.unfold(picture, self.size, stride=self.stride).transpose(1, 2)

    def join(
        self, patches: Float[Tensor, "batch length token_dim"], rows: int, columns: int
    ) -> Float[Tensor, "batch channels height width"]:
        """The picture that `cut` cut, without what it cut off; where patches overlap, their mean."""
        height, width = (
            (count - 1) * stride + size
            for count, stride, size in zip((rows, columns), self.stride, self.size, strict=True)
        )
        flat = rearrange(patches, "batch length token_dim -> batch token_dim length")
        total = F.fold(flat, (height, width), self.size, stride=self.stride)
        return total / F.fold(ones_like(flat), (height, width), self.size, stride=self.stride)
