"""Square patches of an image as tokens (Dosovitskiy et al. 2021, ViT, section 3.1)."""

import json
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torchvision.transforms import v2

from plugformer.data.collate import stack
from plugformer.errors import UserError, unknown
from plugformer.interfaces import DataSpec, Embedding, Features, Grid, Layout, Sample, Tokenizer, Tokens, TokenSpec
from plugformer.nn.patches import Patches
from plugformer_vision.images import read_image


class VitPatch(Tokenizer):
    """Patches of pixels, flattened and linearly projected.

    Channel means and standard deviations are fitted on the training images; pixels are normalised on the device.

    Args:
        patch_size: side of a patch in pixels.
        overlap: pixels that neighbouring patches share, less than `patch_size`.
        image_size: height and width that images are resized to; by default the size they have, which must then be one.
        channels: 1 for grey, 3 for colour; by default what the images have.
        augmentation: transforms of torchvision.transforms.v2 by name with their arguments, applied in this order to
            training images, as in {RandomRotation: {degrees: 10}}.

    Raises:
        UserError: sizes that can't be, or an unknown transform.
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        *,
        patch_size: int = 2,
        overlap: int = 0,
        image_size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        augmentation: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        if patch_size < 1:
            raise UserError(f"tokenizer.patch_size={patch_size}: must be at least 1.")
        if not 0 <= overlap < patch_size:
            raise UserError(f"tokenizer.overlap={overlap}: must be at least 0 and less than patch_size={patch_size}.")
        self.patch_size = patch_size
        self.stride = patch_size - overlap
        self.patches = Patches((patch_size, patch_size), (self.stride, self.stride))
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._may_resize, self._may_convert = image_size is not None, channels is not None
        self.channels: int | None = channels
        self.augment = _transforms(augmentation or {})
        self.mean: list[float] = []
        self.std: list[float] = []

    @property
    def spec(self) -> TokenSpec:
        channels, height, width = self._shape()
        grid = Grid(("row", "column"), self.patches.grid(height, width))
        return TokenSpec(grid, token_dim=channels * self.patch_size**2, overlaps=self.patches.overlap)

    def assume(self, data: DataSpec) -> None:
        if data.image is None and None in (self.size, self.channels):
            raise UserError("Set tokenizer.image_size and tokenizer.channels: this data has no images of one size.")
        self._settle(data.image or (0, 0, 0))
        self.mean, self.std = [0.0] * self._shape()[0], [1.0] * self._shape()[0]

    def fit(self, samples: Iterable[Sample]) -> None:
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for sample in samples:
            if not count:
                self._settle(tuple(sample["image"].shape))
            pixels = self._prepare(sample).double().flatten(1) / 255
            count += pixels.shape[1]
            total = total + pixels.sum(1)
            squares = squares + pixels.square().sum(1)
        if not count:
            raise UserError("tokenizer=vit_patch: there are no training images to fit on.")
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)  # a constant channel has none
        self.mean, self.std = mean.tolist(), std.tolist()

    def encode(self, sample: Sample, *, augment: bool = False) -> Features:
        image = self._prepare(sample)
        if augment and self.augment is not None:
            varied = self.augment(image)
            if varied.shape != image.shape:
                raise UserError(
                    f"tokenizer.augmentation changes the image size from {list(image.shape)} to {list(varied.shape)}."
                )
            image = varied
        return {"image": image}

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)

    def example(self) -> Features:
        return {"image": torch.zeros(self._shape(), dtype=torch.uint8)}

    def embedding(self, *, dim: int) -> "PatchEmbedding":
        return PatchEmbedding(
            dim=dim,
            patches=self.patches,
            grid=self.spec.grid,
            mean=self.mean,
            std=self.std,
        )

    def read(self, source: str) -> Sample:
        """An image file, brought to the size and channels of the training images."""
        return {"id": source, "image": self._convert(self._resize(read_image(source)))}

    def save(self, folder: Path) -> None:
        channels, height, width = self._shape()
        learned = {"image_size": [height, width], "channels": channels, "mean": self.mean, "std": self.std}
        (folder / "vit_patch.json").write_text(json.dumps(learned, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        learned = json.loads((folder / "vit_patch.json").read_text())
        self._settle((learned["channels"], *learned["image_size"]))
        self.mean, self.std = learned["mean"], learned["std"]

    def _shape(self) -> tuple[int, int, int]:
        assert self.size is not None and self.channels is not None, "neither fitted nor assumed"
        return (self.channels, *self.size)

    def _settle(self, shape: tuple[int, ...]) -> None:
        """Take what the options leave open from an image's shape, and check that patches cover it exactly."""
        self.channels = self.channels or shape[0]
        self.size = self.size or (shape[1], shape[2])
        for name, side in zip(("height", "width"), self.size, strict=True):
            if side < self.patch_size or (side - self.patch_size) % self.stride:
                overlap = self.patch_size - self.stride
                would = [p for p in range(overlap + 1, side + 1) if not (side - p) % (p - overlap)]
                raise UserError(
                    f"tokenizer.patch_size={self.patch_size} with overlap {overlap} doesn't divide an image {name} of "
                    f"{side} pixels.\n  Patch sizes that would: {', '.join(map(str, would))}. "
                    "Or resize the images with tokenizer.image_size=SIZE."
                )

    def _prepare(self, sample: Sample) -> UInt8[Tensor, "channels height width"]:
        """The sample's image in the one shape that all have; only what the options allow is changed for that.

        Raises:
            UserError: the image has another shape.
        """
        image, (channels, height, width) = sample["image"], self._shape()
        where = sample.get("id", "an image")
        if image.shape[0] != channels and not self._may_convert:
            raise UserError(
                f"{where} has {image.shape[0]} channels, others {channels}.\n"
                "  Set tokenizer.channels=1 or tokenizer.channels=3 to convert all images."
            )
        if image.shape[1:] != (height, width) and not self._may_resize:
            raise UserError(
                f"{where} has {image.shape[1]} × {image.shape[2]} pixels, others {height} × {width}.\n"
                "  Set tokenizer.image_size=SIZE to bring all images to one size."
            )
        return self._convert(self._resize(image))

    def _resize(self, image: Tensor) -> Tensor:
        size = list(self._shape()[1:])
        return image if list(image.shape[1:]) == size else v2.functional.resize(image, size, antialias=True)

    def _convert(self, image: Tensor) -> Tensor:
        if image.shape[0] == self.channels:
            return image
        return v2.functional.grayscale_to_rgb(image) if self.channels == 3 else v2.functional.rgb_to_grayscale(image)


class PatchEmbedding(Embedding):
    """Normalises pixels, cuts patches and projects them.

    As a convolution with kernel `patch_size` and stride `stride` would; a flattened patch is ordered channel, row,
    column.
    """

    mean: Tensor
    std: Tensor
    coordinates: Tensor

    def __init__(self, *, dim: int, patches: Patches, grid: Grid, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.patches = patches
        self.grid = grid
        self.projection = nn.Linear(len(mean) * prod(patches.size), dim)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.register_buffer("coordinates", grid.coordinates()[None], persistent=False)

    def forward(self, features: Features) -> Tokens:
        raw = self.patches.cut(self._normalise(features["image"]))
        layout = Layout(self.coordinates, torch.zeros_like(self.coordinates[..., 0]), (self.grid,))
        return Tokens(self.projection(raw), layout, raw=raw)

    def _normalise(
        self, image: Shaped[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def picture(self, raw: Float[Tensor, "batch length token_dim"]) -> Float[Tensor, "batch channels height width"]:
        pixels = self.patches.join(raw, *self.grid.shape) * self.std + self.mean
        return pixels.clamp(0, 1)


def _transforms(augmentation: dict[str, dict[str, Any]]) -> Callable[[Tensor], Tensor] | None:
    on_batches = {"CutMix", "MixUp"}
    known = {name for name, member in vars(v2).items() if _is_transform(member)} - on_batches
    chosen = []
    for name, arguments in augmentation.items():
        if name not in known:
            raise unknown(f"tokenizer.augmentation.{name}: no such transform of torchvision.transforms.v2", name, known)
        try:
            chosen.append(getattr(v2, name)(**arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"tokenizer.augmentation.{name}: {error}") from None
    return v2.Compose(chosen) if chosen else None


def _is_transform(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, v2.Transform) and member is not v2.Transform
