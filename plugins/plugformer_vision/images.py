"""Reading image files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from plugformer.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: str | Path) -> Tensor:
    """An image as uint8 `[channels, height, width]`: one channel for grey ones, three for all others.

    Raises:
        UserError: no such file, not an image, or damaged.
    """
    with _opened(path) as image:
        if image.mode == "I;16":
            pixels = (np.array(image) >> 8).astype(np.uint8)  # Pillow would cut off at 255 instead of scaling
        elif _is_grey(image):
            pixels = np.array(image.convert("L"))
        else:  # by way of RGBA, because on the direct way Pillow warns about transparent colours of a palette
            pixels = np.array(image.convert("RGBA").convert("RGB"))
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """`(channels, height, width)` of an image file, from its header.

    Raises:
        UserError: as `read_image`.
    """
    with _opened(path) as image:
        return (1 if _is_grey(image) else 3, image.height, image.width)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "I;16")


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; use PNG or JPEG.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: an image that can't be decoded ({error}).") from None
