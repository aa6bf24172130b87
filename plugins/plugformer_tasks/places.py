"""Reading and writing at some places of each sequence; -1 is no place."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def taken(
    x: Float[Tensor, "batch length width"], places: Int[Tensor, "batch places"]
) -> Float[Tensor, "batch places width"]:
    """What stands at these places; anything for -1."""
    return x.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, x.shape[2]))


def placed(
    x: Float[Tensor, "batch length width"],
    places: Int[Tensor, "batch places"],
    values: Float[Tensor, "batch places width"],
) -> Float[Tensor, "batch length width"]:
    """`x` with these values at these places; those for -1 are left out."""
    length = x.shape[1]
    index = places.where(places >= 0, length)[..., None].expand(-1, -1, x.shape[2])
    return F.pad(x, (0, 0, 0, 1)).scatter(1, index, values)[:, :length]
