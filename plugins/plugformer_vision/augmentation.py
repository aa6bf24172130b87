"""Training images varied at random by torchvision's transforms."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from plugformer.errors import UserError, unknown

ON_BATCHES = {"CutMix", "MixUp"}


def named_transforms(augmentation: dict[str, dict[str, Any]]) -> Callable[[Tensor], Tensor] | None:
    """
    Args:
        augmentation: arguments of transforms of torchvision.transforms.v2, by their names.

    Returns:
        One after the other; None without any.

    Raises:
        UserError: an unknown transform, one that takes other arguments, or one of batches.
    """
    known = {name for name, member in vars(v2).items() if _is_transform(member)} - ON_BATCHES
    chosen = []
    for name, arguments in augmentation.items():
        if name in ON_BATCHES:
            raise UserError(
                f"tokenizer.augmentation.{name}: mixes the images of a batch, not one image.\n"
                f"  Set tokenizer.{name.lower()}=ALPHA instead."
            )
        if name not in known:
            raise unknown(f"tokenizer.augmentation.{name}: no such transform of torchvision.transforms.v2", name, known)
        try:
            chosen.append(getattr(v2, name)(**arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"tokenizer.augmentation.{name}: {error}") from None
    return v2.Compose(chosen) if chosen else None


def random_crop(size: tuple[int, int], *, area: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """A random part of an image, resized (Szegedy et al. 2015, Going deeper with convolutions, section 6).

    Args:
        size: height and width of what comes out.
        area: the least and the greatest share of an image that a part may be; its sides are as 3 to 4 at the most.
    """
    return v2.RandomResizedCrop(size, scale=area, antialias=True)


def _is_transform(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, v2.Transform) and member is not v2.Transform
