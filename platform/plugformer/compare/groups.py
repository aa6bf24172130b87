"""Runs that are one experiment, repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from plugformer.compare.configuration import differing, flatten, identity, settled, told
from plugformer.compare.run import Run
from plugformer.track.secrets import redact

LONGEST = 60  # letters of a label that says how a group differs; a longer one is a path


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seed alone, or one run that isn't over.

    Attributes:
        runs: in the order of their seeds.
        differs: the keys that aren't the same in all groups, with its values, secrets hidden; without those it doesn't
            have.
        label: what tells it from the others.
    """

    runs: tuple[Run, ...]
    differs: dict[str, Any]
    label: str

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.runs)

    @property
    def seeds(self) -> list[Any]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Spread:
    """Of a metric over the runs of a group.

    Attributes:
        values: of each run that has it.
        mean: NaN if one of them isn't a number: leaving it out would flatter.
        deviation: of the sample, with n − 1; None of a single value.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not values:
            return None
        if not all(map(math.isfinite, values)):
            return cls(tuple(values), math.nan, math.nan if len(values) > 1 else None)
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(tuple(values), mean, None)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(tuple(values), mean, math.sqrt(squares / (len(values) - 1)))


def spread_over(group: Group, value: Callable[[Run], float | None]) -> Spread | None:
    """Over the runs that have such a value."""
    return Spread.of([found for run in group.runs if (found := value(run)) is not None])


def make_groups(runs: Iterable[Run], *, over: Sequence[str] = ()) -> list[Group]:
    """In the order of the first run of each.

    Args:
        runs: all of them.
        over: keys in which runs of a group may differ, besides the seed.
    """
    members: dict[str, list[Run]] = {}
    flats: dict[str, dict[str, Any]] = {}
    for run in runs:
        flat = settled(flatten(run.config), over)
        key = identity(flat) if run.finished else str(run.path)
        members.setdefault(key, []).append(run)
        flats[key] = flat
    keys = differing(list(flats.values()))
    groups = []
    for name, flat in flats.items():
        differs = redact({key: flat[key] for key in keys if key in flat})
        own = tuple(sorted(members[name], key=_by_seed))
        groups.append(Group(own, differs, _label(differs, own)))
    return _told_apart(groups)


def _by_seed(run: Run) -> int:
    """As they came, where a seed is no number."""
    return run.seed if isinstance(run.seed, int) else 0


def _label(differs: dict[str, Any], runs: Sequence[Run]) -> str:
    label = " ".join(f"{key}={told(value)}" for key, value in differs.items())
    if label and len(label) <= LONGEST:
        return label
    return f"{runs[0].path} and {len(runs) - 1} more" if len(runs) > 1 else str(runs[0].path)


def _told_apart(groups: list[Group]) -> list[Group]:
    """A run that isn't over may have a group's composition: its seed tells them apart, or else its path."""
    labels = [group.label for group in groups]
    named = []
    for group in groups:
        label = group.label
        if not group.finished and labels.count(label) > 1:
            label = f"{label} seed={group.runs[0].seed}"
        named.append(label)
    return [
        Group(group.runs, group.differs, label if named.count(label) == 1 else f"{label} ({group.runs[0].path})")
        for group, label in zip(groups, named, strict=True)
    ]
