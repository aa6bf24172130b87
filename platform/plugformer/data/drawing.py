"""Drawing splits from rows that may carry labels and groups, so that nothing leaks from one into another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plugformer.data.splits import SPLITS, check_fractions, split_by_group, split_by_label
from plugformer.errors import UserError, unknown
from plugformer.interfaces import Split

_ALIASES: dict[str, Split] = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the splits are drawn that the data doesn't give.

    Attributes:
        val_fraction, test_fraction: their shares of the rows.
        seed: decides which rows.
    """

    val_fraction: float
    test_fraction: float
    seed: int

    def __post_init__(self) -> None:
        check_fractions(self.val_fraction, self.test_fraction)

    def draw(
        self, missing: Sequence[Split], *, groups: Sequence[str], labels: Sequence[int] | None
    ) -> dict[Split, list[int]]:
        """Indices of each split; only `missing` ones and train hold any.

        Args:
            missing: what to draw besides train.
            groups: of each row; none is divided.
            labels: of each row, if each split is to have the same share of them.
        """
        val = self.val_fraction if "val" in missing else 0.0
        test = self.test_fraction if "test" in missing else 0.0
        if labels is None:
            return split_by_group(groups, val_fraction=val, test_fraction=test, seed=self.seed)
        label_of = dict(zip(reversed(groups), reversed(labels), strict=True))  # of the first row of each
        drawn = split_by_label(list(label_of.values()), val_fraction=val, test_fraction=test, seed=self.seed)
        names = list(label_of)
        split_of = {names[index]: split for split, indices in drawn.items() for index in indices}
        splits: dict[Split, list[int]] = {split: [] for split in SPLITS}
        for index, group in enumerate(groups):
            splits[split_of[group]].append(index)
        return splits


def as_split(value: object) -> Split:
    """
    Raises:
        UserError: not the name of a split.
    """
    word = str(value).strip().lower()
    split = _ALIASES.get(word, word)
    if split not in SPLITS:
        raise unknown(f"{value!r} is no split", word, {*SPLITS, *_ALIASES})
    return split


def alike(text: str) -> str:
    """Equal for texts that differ in white space alone, which therefore stand in the same split."""
    return " ".join(text.split())


def sorted_labels(values: set[str]) -> tuple[str, ...]:
    """By their numbers if all are whole numbers, else by the alphabet."""
    return tuple(sorted(values, key=int if all(value.lstrip("-").isdecimal() for value in values) else None))


def check_trained(labels: Sequence[str], splits: Mapping[Split, Sequence[int]], where: str) -> None:
    """
    Args:
        labels: names of the classes.
        splits: indices into `labels`, of each row of each split.
        where: the option that says which column holds the labels.

    Raises:
        UserError: a class of which train has no row.
    """
    trained = set(splits["train"])
    untrained = [name for index, name in enumerate(labels) if index not in trained]
    if untrained:
        raise UserError(
            f"{where}: train has no row labelled {', '.join(untrained)}, so it can't be learned.\n"
            "  Leave such rows out, or draw others with data.split_seed."
        )
