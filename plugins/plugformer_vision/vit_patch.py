"""Square patches of an image as tokens (Dosovitskiy et al. 2021, ViT, section 3.1)."""

import json
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from plugformer.data.collate import stack
from plugformer.data.mixing import blend, check_mixing, draw_boxes, draw_mixing, paste
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Embedding, Features, Grid, Layout, Sample, Tokenizer, Tokens, TokenSpec
from plugformer.nn.patches import Patches
from plugformer_vision.augmentation import named_transforms, random_crop
from plugformer_vision.images import read_image
from plugformer_vision.resizing import crop, stretch


class VitPatch(Tokenizer):
    """Patches of pixels, flattened and linearly projected.

    Channel means and standard deviations are fitted on the training images; pixels are normalised on the device.

    Args:
        patch_size: side of a patch in pixels.
        overlap: pixels that neighbouring patches share, less than `patch_size`.
        image_size: height and width that images are resized to; by default the size they have, which must then be one.
        resize: how: `stretch` shows all of an image, out of its proportions; `crop` shows its middle in proportion.
        channels: 1 for grey, 3 for colour; by default what the images have.
        random_crop: in training, not the whole image but a random part of it is resized; the least and the greatest
            share of its area that this may be, as in [0.08, 1].
        augmentation: transforms of torchvision.transforms.v2 by name with their arguments, applied in this order to
            training images once they are resized, as in {RandAugment: {}, RandomErasing: {p: 0.25}}.
        mixup: in training, images are blended with others of their batch; shares are drawn from Beta(mixup, mixup)
            (Zhang et al. 2018). 0 for none.
        cutmix: in training, a rectangle of an image shows another of its batch; shares are drawn from Beta(cutmix,
            cutmix) (Yun et al. 2019). 0 for none. With `mixup` as well, a batch gets either with equal chance.

    Raises:
        UserError: sizes or shares that can't be, or an unknown transform.
    """

    modality: ClassVar[str] = "image"
    training_options = frozenset({"random_crop", "augmentation", "mixup", "cutmix"})

    def __init__(
        self,
        *,
        patch_size: int = 2,
        overlap: int = 0,
        image_size: int | tuple[int, int] | None = None,
        resize: Literal["stretch", "crop"] = "stretch",
        channels: Literal[1, 3] | None = None,
        random_crop: tuple[float, float] | None = None,
        augmentation: dict[str, dict[str, Any]] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        if patch_size < 1:
            raise UserError(f"tokenizer.patch_size={patch_size}: must be at least 1.")
        if not 0 <= overlap < patch_size:
            raise UserError(f"tokenizer.overlap={overlap}: must be at least 0 and less than patch_size={patch_size}.")
        if image_size is not None and min(_sides(image_size)) < 1:
            raise UserError(f"tokenizer.image_size={image_size}: must be at least 1.")
        if resize == "crop" and image_size is None:
            raise UserError("tokenizer.resize=crop: images keep their size unless tokenizer.image_size is set as well.")
        if random_crop is not None and not 0 < random_crop[0] <= random_crop[1] <= 1:
            raise UserError(
                f"tokenizer.random_crop={list(random_crop)}: must be two shares of the area, the smaller first, "
                "greater than 0 and at most 1."
            )
        check_mixing(mixup=mixup, cutmix=cutmix)
        self.patch_size = patch_size
        self.stride = patch_size - overlap
        self.patches = Patches((patch_size, patch_size), (self.stride, self.stride))
        self.size = None if image_size is None else _sides(image_size)
        self._may_resize, self._may_convert = image_size is not None, channels is not None
        self.channels: int | None = channels
        self.resize = {"stretch": stretch, "crop": crop}[resize]
        self.random_crop = random_crop
        self.augment = named_transforms(augmentation or {})
        self.mixup, self.cutmix = mixup, cutmix
        self.mean: list[float] = []
        self.std: list[float] = []

    @property
    def spec(self) -> TokenSpec:
        channels, height, width = self._shape()
        grid = Grid(("row", "column"), self.patches.grid(height, width))
        return TokenSpec(
            grid,
            token_dim=channels * self.patch_size**2,
            overlaps=self.patches.overlap,
            mixes=bool(self.mixup or self.cutmix),
        )

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
        return {"image": self._vary(sample) if augment else self._prepare(sample)}

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)

    def mix(self, batch: Features) -> Features:
        """By mixup or cutmix. With cutmix there is a `box`, int `[batch, 4]`, where each image shows its partner."""
        size, (_, height, width) = len(batch["image"]), self._shape()
        if self.cutmix and (not self.mixup or torch.rand(()) < 0.5):
            return {**batch, **draw_boxes(size, height=height, width=width, alpha=self.cutmix)}
        return {**batch, **draw_mixing(size, alpha=self.mixup)}

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
        return {"id": source, "image": self._conform(read_image(source))}

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
        """The sample's image in the one shape that all have."""
        return self._conform(self._checked(sample))

    def _vary(self, sample: Sample) -> UInt8[Tensor, "channels height width"]:
        """The same at random, as the options say."""
        image, size = self._checked(sample), self._shape()[1:]
        if self.random_crop is not None:
            image = random_crop(size, area=self.random_crop)(image)
        image = self._conform(image)
        if self.augment is None:
            return image
        varied = self.augment(image)
        if varied.shape != image.shape:
            raise UserError(
                f"tokenizer.augmentation changes the image size from {list(image.shape)} to {list(varied.shape)}."
            )
        return varied

    def _checked(self, sample: Sample) -> UInt8[Tensor, "_ _ _"]:
        """
        Raises:
            UserError: the image has another shape than the others, and the options don't say that it may.
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
        return image

    def _conform(self, image: UInt8[Tensor, "_ _ _"]) -> UInt8[Tensor, "channels height width"]:
        """Size and channels as all have them."""
        channels, height, width = self._shape()
        image = self.resize(image, (height, width))
        if image.shape[0] == channels:
            return image
        return functional.grayscale_to_rgb(image) if channels == 3 else functional.rgb_to_grayscale(image)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


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
        pixels = self._normalise(features["image"])
        raw = self.patches.cut(paste(pixels, features) if "box" in features else blend(pixels, features))
        layout = Layout(self.coordinates, torch.zeros_like(self.coordinates[..., 0]), (self.grid,))
        return Tokens(self.projection(raw), layout, raw=raw)

    def _normalise(
        self, image: Shaped[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std

    def picture(self, raw: Float[Tensor, "batch length token_dim"]) -> Float[Tensor, "batch channels height width"]:
        pixels = self.patches.join(raw, *self.grid.shape) * self.std + self.mean
        return pixels.clamp(0, 1)
