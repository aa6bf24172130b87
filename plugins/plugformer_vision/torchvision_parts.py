"""What torchvision's data sets hold, whichever way each keeps it."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor

from plugformer.errors import UserError


class Part:
    """One of the splits that a data set comes in, whichever way torchvision keeps it.

    Args:
        source: torchvision's.
        title: of the split, where its images have no files to be named by.
        root: what files are named below.
    """

    def __init__(self, source: Any, title: str, root: Path) -> None:
        self.source = source
        self.title = title
        self.root = root
        files, labels = image_files(source), label_numbers(source)
        # some are listed as the file system has them
        self.order = sorted(range(len(files)), key=files.__getitem__) if files else list(range(len(source)))
        self.files = [files[index] for index in self.order] if files else []
        self.labels = [labels[index] for index in self.order] if len(labels) == len(self.order) else labels

    def __len__(self) -> int:
        return len(self.order)

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix() if self.files else f"{self.title}/{index}"

    def pixels(self, index: int) -> bytes:
        """Of an image that is kept in memory."""
        return np.asarray(self.source.data[index]).tobytes()

    def image(self, index: int) -> Tensor:
        """
        Raises:
            UserError: it can't be decoded.
        """
        try:
            image, _ = self.source[self.order[index]]
            return pil_to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{self.root / self.name(index)}: an image that can't be decoded ({error}).") from None


def label_numbers(source: Any) -> list[int]:
    """Labels, without decoding images."""
    for name in ("targets", "labels", "_labels", "y"):
        if hasattr(source, name):
            return [int(label) for label in getattr(source, name)]
    return [int(label) for _, label in source._samples]


def image_files(source: Any) -> list[Path]:
    """One an image; empty where images are kept in memory."""
    if hasattr(source, "data"):
        return []
    if isinstance(source, datasets.Caltech101 | datasets.Caltech256):
        return [_caltech(source, index) for index in range(len(source))]
    for name in ("_image_files", "_images"):
        if hasattr(source, name):
            return [Path(path) for path in getattr(source, name)]
    pairs = source.samples if hasattr(source, "samples") else source._samples
    return [Path(path) for path, _ in pairs]


def _caltech(source: Any, index: int) -> Path:
    label, number = source.y[index], source.index[index]
    old = isinstance(source, datasets.Caltech101)
    folder = Path(source.root, "101_ObjectCategories" if old else "256_ObjectCategories", source.categories[label])
    return folder / (f"image_{number:04d}.jpg" if old else f"{label + 1:03d}_{number:04d}.jpg")


def class_names(source: Any) -> tuple[str, ...]:
    """In the order of their numbers, where files told them."""
    names = vars(source).get("classes") or vars(source).get("categories") or ()
    return tuple(name if isinstance(name, str) else name[0] for name in names)
