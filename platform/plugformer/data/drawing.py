"""Drawing splits from rows that may carry labels and groups, so that nothing leaks from one into another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from plugformer.data.splits import SPLITS, check_fractions, deal_groups, place, split_by_group, split_by_label
from plugformer.errors import UserError, counted, unknown
from plugformer.interfaces import Split

_ALIASES: dict[str, Split] = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}
TEST_FRACTION = 0.1  # what options leave it at

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How the splits are drawn that the data doesn't give.

    Attributes:
        val_fraction, test_fraction: their shares of the rows.
        seed: decides which rows.
        folds: parts of like size that all groups are dealt into, one of which is the test; validation is then drawn
            from the rest, group by group, and gets its share of that.
        fold: which of them, from 0.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        check_fractions(self.val_fraction, self.test_fraction if self.folds is None else 0.0)
        if self.folds is not None:
            self._check_folds(self.folds)
        elif self.fold is not None:
            raise UserError(f"data.fold={self.fold}: one of how many? Set data.folds.")

    def _check_folds(self, folds: int) -> None:
        if folds < 2:
            raise UserError(f"data.folds={folds}: must be at least 2.")
        if self.fold is None:
            raise UserError(f"data.folds={folds}: which is the test? One run for each: -m 'data.fold=range({folds})'")
        if not 0 <= self.fold < folds:
            raise UserError(f"data.fold={self.fold}: must be from 0 to {folds - 1}, as data.folds={folds}.")
        if self.test_fraction != TEST_FRACTION:
            raise UserError(
                f"data.test_fraction={self.test_fraction}: has no effect with data.folds={folds}, where a fold is the "
                "test.\n  Leave one of them out."
            )

    def draw(
        self, missing: Sequence[Split], *, groups: Sequence[str], labels: Sequence[int] | None
    ) -> dict[Split, list[int]]:
        """Indices of each split; only `missing` ones and train hold any.

        Args:
            missing: what to draw besides train.
            groups: of each row; none is divided.
            labels: of each row, if each split is to have the same share of them; not with folds.

        Raises:
            UserError: fewer groups than splits or folds, or folds of data whose test is given.
        """
        if self.folds is not None:
            assert labels is None, "folds are dealt by group alone"
            return self._draw_fold(missing, groups)
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

    def divide(self, items: Sequence[Item], *, group: Callable[[Item], str]) -> dict[Split, list[Item]]:
        """The items of each split, where the data gives none; no group stands in two of them.

        Raises:
            UserError: fewer groups than splits.
        """
        return place(items, self.draw(SPLITS[1:], groups=[group(item) for item in items], labels=None))

    def _draw_fold(self, missing: Sequence[Split], groups: Sequence[str]) -> dict[Split, list[int]]:
        assert self.folds is not None
        assert self.fold is not None
        if "test" not in missing:
            raise UserError(
                f"data.folds={self.folds}: the data gives its test, so a fold can't be it.\n"
                "  Leave data.folds out, or what says which rows are the test."
            )
        num_groups = len(set(groups))
        if num_groups < self.folds:
            raise UserError(
                f"data.folds={self.folds}: there {'is' if num_groups == 1 else 'are'} only "
                f"{counted(num_groups, 'group')} to deal into them.\n"
                "  With as many folds as groups, each leaves one group out."
            )
        dealt = deal_groups(groups, parts=self.folds, seed=self.seed)
        rest = sorted(index for number, part in enumerate(dealt) if number != self.fold for index in part)
        val = self.val_fraction if "val" in missing else 0.0
        drawn = split_by_group([groups[i] for i in rest], val_fraction=val, test_fraction=0.0, seed=self.seed)
        return {**place(rest, drawn), "test": dealt[self.fold]}


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


def check_trained(
    labels: Sequence[str],
    splits: Mapping[Split, Sequence[int]],
    where: str,
    *,
    lacks: str = "train has no row labelled {}, so it can't be learned",
    advice: str = "Leave such rows out, or draw others with data.split_seed.",
) -> None:
    """
    Args:
        labels: names of the classes.
        splits: indices into `labels`, of each row of each split.
        where: the option that decides what train holds, such as the one that says which column holds the labels.
        lacks: what is wrong; `{}` stands for the names of the classes.
        advice: what to do next.

    Raises:
        UserError: a class of which train has no row.
    """
    trained = set(splits["train"])
    untrained = [name for index, name in enumerate(labels) if index not in trained]
    if untrained:
        raise UserError(f"{where}: {lacks.format(', '.join(untrained))}.\n  {advice}")
