"""Folds by group: every group is tested once, and stands in one split only."""

import json
from collections import Counter

import pytest

from plugformer.data.drawing import Drawing
from plugformer.data.splits import SPLITS, deal_groups
from plugformer.errors import UserError
from plugformer.registry import build

SIZES = {f"kit {number}": size for number, size in enumerate([95, 95, 86, 44, 36, 25, 24, 16, 14, 13, 11, 11])}
GROUPS = [group for group, size in SIZES.items() for _ in range(size)]
SHARES = {"val_fraction": 0.1, "test_fraction": 0.1}


def fold_of(number, folds, **options):
    options = {**SHARES, "seed": 0, **options}
    return Drawing(**options, folds=folds, fold=number).draw(["val", "test"], groups=GROUPS, labels=None)


@pytest.mark.parametrize("folds", [2, 3, 5, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_group_is_tested_once_over_all_folds_and_never_divided(folds, seed):
    tested = []
    for number in range(folds):
        splits = fold_of(number, folds, seed=seed)
        assert sorted(index for part in splits.values() for index in part) == list(range(len(GROUPS))), "none is lost"
        held = {split: {GROUPS[index] for index in part} for split, part in splits.items()}
        assert all(held.values())
        assert sum(map(len, held.values())) == len(SIZES), "a group is divided"
        tested += held["test"]
    assert sorted(tested) == sorted(SIZES)


def test_as_many_folds_as_groups_leave_one_group_out():
    assert [len({GROUPS[index] for index in fold_of(number, 12)["test"]}) for number in range(12)] == [1] * 12


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_parts_are_of_like_size(parts):
    groups = [number for number in range(60) for _ in range(1 + number % 7)]
    sizes = [len(part) for part in deal_groups(groups, parts=parts, seed=0)]
    assert sum(sizes) == len(groups)
    assert max(sizes) - min(sizes) <= 1, "there are groups of one to fill up with"


def test_the_seed_decides_which_groups_share_a_fold():
    assert fold_of(1, 5) == fold_of(1, 5)
    tests = {tuple(fold_of(1, 5, seed=seed)["test"]) for seed in range(5)}
    assert len(tests) > 1


def test_validation_gets_its_share_of_the_rest():
    splits = fold_of(0, 5, val_fraction=0.25)
    target = 0.25 * (len(splits["train"]) + len(splits["val"]))
    assert 0.5 * target < len(splits["val"]) < 1.5 * target, "as near as large groups let it"
    assert fold_of(0, 5, val_fraction=0.0)["val"] == []
    given = Drawing(**SHARES, seed=0, folds=5, fold=0).draw(["test"], groups=GROUPS, labels=None)
    assert given["val"] == [], "it is given elsewhere"
    assert given["test"] == splits["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 0}, r"data\.fold=0: one of how many\? Set data\.folds\."),
        ({"folds": 5}, r"data\.folds=5: which is the test\? One run for each: -m 'data\.fold=range\(5\)'"),
        ({"folds": 1, "fold": 0}, r"data\.folds=1: must be at least 2"),
        ({"folds": 5, "fold": 5}, r"data\.fold=5: must be from 0 to 4, as data\.folds=5"),
        ({"folds": 5, "fold": -1}, r"data\.fold=-1: must be from 0 to 4"),
        ({"folds": 5, "fold": 0, "test_fraction": 0.2}, r"data\.test_fraction=0\.2: has no effect with data\.folds=5"),
        ({"folds": 5, "fold": 0, "group_column": None}, r"folds are made of groups\.\n.*data\.group_column"),
        ({"folds": 21, "fold": 0}, r"data\.folds=21: there are only 20 groups to deal into them"),
        ({"folds": 5, "fold": 0, "split_column": "part"}, r"data\.folds=5: the data gives its test"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(tmp_path, options, message):
    rows = [{"text": f"Text {n}.", "by": n % 20, "part": ["train", "test"][n % 4 == 0]} for n in range(60)]
    (tmp_path / "t").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        build("data", {"name": "jsonl", "paths": [f"{tmp_path}/t"], "group_column": "by", **options}).verify()


def test_tables_take_folds(tmp_path):
    rows = [{"text": f"Text {n}.", "by": n % 20} for n in range(60)]
    (tmp_path / "t").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tested, prints = Counter(), set()
    for fold in range(4):
        options = {"paths": [f"{tmp_path}/t"], "group_column": "by", "folds": 4, "fold": fold}
        made = build("data", {"name": "jsonl", **options})
        assert sum(len(made.samples(split)) for split in SPLITS) == 60
        tested.update(sample["group"] for sample in made.samples("test"))
        prints.add(made.fingerprint())
    assert tested == {str(number): 3 for number in range(20)}
    assert len(prints) == 4
