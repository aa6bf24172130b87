"""Where our tensors stand in another library's files, said once and used in both directions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Which part of a tensor of theirs is ours.

    Attributes:
        of: our tensor as a view of theirs, so that what is copied into it is written there.
        whole: the shape of theirs, by the shape of ours.
    """

    of: Callable[[Tensor], Tensor]
    whole: Callable[[Sequence[int]], Sequence[int]]


ALL = Part(of=lambda theirs: theirs, whole=lambda ours: ours)


def transposed(number: int = 0, parts: int = 1) -> Part:
    """One of equal parts along the last axis, which is our first; a matrix is transposed, a vector isn't."""
    return Part(
        of=lambda theirs: theirs.transpose(0, -1).chunk(parts)[number],
        whole=lambda ours: (*ours[1:], parts * ours[0]),
    )


def rows_from(first: int) -> Part:
    """All rows but so many at the front."""
    return Part(of=lambda theirs: theirs[first:], whole=lambda ours: (first + ours[0], *ours[1:]))


class Place(NamedTuple):
    """Where one of our tensors stands: the name of theirs, and the part of it."""

    theirs: str
    part: Part = ALL


Places = dict[str, Place]


def linked(
    names: Mapping[str, str | Place], *, ours: str = "", theirs: str = "", kinds: Iterable[str]
) -> Iterator[tuple[str, Place]]:
    """A table of modules as places of their tensors.

    Args:
        names: of modules, ours and theirs.
        ours, theirs: what stands before each name.
        kinds: of tensors that these modules have: `weight`, `bias`.
    """
    kinds = tuple(kinds)
    for mine, other in names.items():
        place = Place(other) if isinstance(other, str) else other
        for kind in kinds:
            yield f"{ours}{mine}.{kind}", Place(f"{theirs}{place.theirs}.{kind}", place.part)


def read_places(weights: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Their tensors as ours, in their own dtype."""
    return {ours: part.of(weights[theirs]).contiguous() for ours, (theirs, part) in places.items()}


def write_places(weights: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Our tensors as theirs, in their own dtype; zeros where theirs hold more than ours."""
    made: dict[str, Tensor] = {}
    for ours, (theirs, part) in places.items():
        tensor = weights[ours]
        if theirs not in made:
            made[theirs] = tensor.new_zeros(tuple(part.whole(tensor.shape)))
        with torch.no_grad():
            part.of(made[theirs]).copy_(tensor)
    return made
