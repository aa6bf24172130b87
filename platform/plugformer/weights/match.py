"""Which of the weights from elsewhere a model takes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from plugformer.config import Config
from plugformer.interfaces import Attention
from plugformer.model import Model
from plugformer.weights.differences import UNSAID
from plugformer.weights.positions import Interpolated
from plugformer.weights.source import Weights

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """
    Attributes:
        taken: names of the tensors that the model takes.
        new: those of its own that are drawn as in any run.
        left: those of the weights that it has no use for.
        missing: names in the trunk that only one of the two has, or in two shapes; empty if the weights fit.
        head: what becomes of the task's head, in a few words.
        interpolated: those of `taken` that were brought to another grid; None if none were.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    head: str
    interpolated: Interpolated | None = None

    @property
    def fits(self) -> bool:
        return not self.missing

    def record(self) -> dict[str, Any]:
        """As plain values."""
        found = {"head": self.head, "taken": self.taken, "new": self.new, "left": self.left}
        if self.interpolated is None:
            return found
        grids = {"from": self.interpolated.theirs.shape, "to": self.interpolated.ours.shape}
        return {**found, "interpolated": {"tensors": self.interpolated.names, **grids}}


def match(
    model: Model, weights: Weights, config: Config, labels: Sequence[str], interpolated: Interpolated | None = None
) -> Match:
    """What a model takes of weights.

    The trunk, embedding and backbone, fits as a whole or not at all, but for what belongs to a mechanism: another
    mechanism begins with parameters of its own, and what a mechanism has drawn at random, its buffers, is taken only if
    it is the same mechanism and all of them are of the same shapes. Other buffers, such as statistics of pixels, are
    what the weights were trained with, and are taken. The head is taken if it is the same task's, for the same labels
    and in the same shapes.

    Args:
        model: whose shapes alone matter.
        weights: from elsewhere.
        config: the composition of the model.
        labels: of the run's data.
        interpolated: what of the weights was brought to the model's grid.
    """
    ours, theirs = shapes_of(model.state_dict()), shapes_of(weights.tensors)
    others = set(_of_other_mechanisms(model, weights, config, {**ours, **theirs}))
    classes = labels if "label" in model.task.needs.keys else None
    head = _head(config, weights, classes, ours, theirs)
    taken, missing = [], []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        equal = ours.get(name) == theirs.get(name)
        if name.startswith("trunk."):
            if equal and name not in others:
                taken.append(name)
            elif name not in others:
                missing.append(name)
        elif head == "taken" and equal:
            taken.append(name)
    if interpolated is not None:
        names = tuple(name for name in interpolated.names if name in taken)
        interpolated = replace(interpolated, names=names) if names else None
    return Match(
        taken=tuple(taken),
        new=tuple(name for name in ours if name not in set(taken)),
        left=tuple(name for name in theirs if name not in set(taken)),
        missing=tuple(missing),
        head=head,
        interpolated=interpolated,
    )


def _of_other_mechanisms(model: Model, weights: Weights, config: Config, names: Iterable[str]) -> Iterator[str]:
    """What belongs to a mechanism that the weights have another of, or other draws of."""
    shapes = shapes_of(model.state_dict()), shapes_of(weights.tensors)
    crossing = model.trunk.backbone.mechanisms().get("cross", ())
    places = {f"{place}.": module for place, module in model.named_modules() if isinstance(module, Attention)}
    buffers = {name for name, _ in model.named_buffers()} & shapes[0].keys()
    for kind in ("attention", "cross_attention"):
        own = tuple(place for place, module in places.items() if (module in crossing) == (kind == "cross_attention"))
        same = _name(weights.composition, kind) == _name(config, kind)
        drawn = {name for name in buffers if name.startswith(own)}
        same_draws = same and all(shapes[0][name] == shapes[1].get(name) for name in drawn)
        yield from (name for name in names if name.startswith(own) and not (same_draws if name in drawn else same))


def _head(config: Config, weights: Weights, classes: Sequence[str] | None, ours: Shapes, theirs: Shapes) -> str:
    own, its = ({name: each[name] for name in each if name.startswith("task.")} for each in (ours, theirs))
    task = _name(weights.composition, "task")
    if not own:
        return "has no weights of its own"
    if not its:
        return "new: the weights have none"
    if task != _name(config, "task"):
        return f"new: theirs is of task={task}"
    if None not in (classes, weights.labels) and tuple(classes or ()) != weights.labels:
        return "new: theirs is for other labels"
    return "taken" if own == its else "new: theirs has other tensors"


def _name(composition: Mapping[str, Mapping[str, object]], kind: str) -> object:
    return composition.get(kind, UNSAID.get(kind, {})).get("name")


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def table(ours: Shapes, theirs: Shapes, match: Match) -> str:
    """What did and didn't match in the trunk, a line for all blocks that are alike; what didn't match first."""
    trunk = [name for name in {**theirs, **ours} if name.startswith("trunk.")]
    resized = () if match.interpolated is None else match.interpolated.names
    groups = {
        "": [name for name in trunk if name in match.missing],
        "  interpolated": [name for name in trunk if name in resized],
        "  fits": [name for name in trunk if name in match.taken and name not in resized],
    }
    lines = [("", "theirs", "this run's", "")]
    lines += [(*row, what) for what, names in groups.items() for row in _rows(names, ours, theirs)]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(
        f"  {name:{widths[0]}}  {first:{widths[1]}}  {second}{what}" for name, first, second, what in lines
    )


def _rows(names: Iterable[str], ours: Shapes, theirs: Shapes) -> list[tuple[str, str, str]]:
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in names:
        groups[_pattern(name), _shown(theirs.get(name)), _shown(ours.get(name))].append(name)
    return [(merged(held), first, second) for (_, first, second), held in groups.items()]


def merged(names: Sequence[str]) -> str:
    """Names that differ in the number of their block alone, as one, without `trunk.`."""
    numbers = [int(found[0]) for name in names if (found := _NUMBER.search(name))]
    return _NUMBER.sub(_ranges(numbers), names[0], count=1).removeprefix("trunk.")


_NUMBER = re.compile(r"\d+")


def _pattern(name: str) -> str:
    return _NUMBER.sub("*", name, count=1)


def _ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 as 0-2,5."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))
