"""Images brought to one size."""

from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional


def stretch(image: UInt8[Tensor, "channels _ _"], size: tuple[int, int]) -> UInt8[Tensor, "channels _ _"]:
    """All of the image, whatever becomes of its proportions."""
    return image if image.shape[1:] == size else functional.resize(image, list(size), antialias=True)


def crop(image: UInt8[Tensor, "channels _ _"], size: tuple[int, int]) -> UInt8[Tensor, "channels _ _"]:
    """The middle of the image, as much of it as there is room for in its own proportions."""
    (old_height, old_width), (height, width) = image.shape[1:], size
    if old_height * width >= old_width * height:  # too high, so that its width decides
        cover = (width * old_height // old_width, width)
    else:
        cover = (height, height * old_width // old_height)
    return functional.center_crop(stretch(image, cover), list(size))
