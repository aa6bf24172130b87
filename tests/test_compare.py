"""Runs side by side: laws of `plugformer compare`, on run directories written by hand."""

import base64
import csv
import hashlib
import json
import math
import re
import shlex
import statistics
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plugformer.cli.main import main
from plugformer.compare.attachments import choose
from plugformer.compare.comparison import Column, compare
from plugformer.compare.configuration import differing, flatten, settled
from plugformer.compare.curves import group_curve, position, thinned
from plugformer.compare.finding import find_runs
from plugformer.compare.groups import Spread
from plugformer.compare.history import read_history
from plugformer.compare.markup import data_block, element
from plugformer.compare.numbers import written
from plugformer.compare.page import make_page
from plugformer.compare.report import report
from plugformer.compare.run import read_run
from plugformer.rerun import command_line
from plugformer.run_dir import RunDir, write_json
from plugformer.track.media import Media, MediaFile, media_folder, write_media

SUMMARY = {
    "train/loss": 0.5,
    "train/epochs": 2,
    "train/steps": 20,
    "train/seconds": 4.0,
    "model/parameters": 1000,
    "val/loss": 0.4,
    "val/accuracy": 0.75,
    "test/loss": 0.45,
    "test/accuracy": 0.7,
}
CONFIG = {
    "data": {"name": "digits", "val_fraction": 0.1},
    "tokenizer": {"name": "vit_patch"},
    "attention": {"name": "full", "dropout": 0.0},
    "task": {"name": "classification", "monitor": "accuracy"},
    "optimizer": {"name": "adamw", "lr": 0.001},
    "logger": {"csv": {"name": "csv"}},
    "trainer": {"max_epochs": 2, "progress": True},
    "loader": {"batch_size": 8},
    "seed": 0,
    "run_dir": "somewhere",
}
# Two epochs of 10 steps: the second validation is worse, the last row of val is the best checkpoint's evaluation.
ROWS = [
    {"step": 4, "train/loss": 2.0, "epoch": 0, "time/step": 0.1, "speed/tokens": 1000, "memory/peak": 2**20},
    {"step": 9, "train/loss": 1.0, "epoch": 0, "val/loss": 0.4, "val/accuracy": 0.75},
    {"step": 14, "train/loss": 0.7, "epoch": 1, "time/step": 0.2, "speed/tokens": 2000, "memory/peak": 2**21},
    {"step": 19, "train/loss": 0.5, "epoch": 1, "val/loss": 0.6, "val/accuracy": 0.5},
    {"step": 20, "epoch": 2, "val/loss": 0.4, "val/accuracy": 0.75},
    {"step": 20, "epoch": 2, "test/loss": 0.45, "test/accuracy": 0.7},
]
ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux",
    "command": ["/bin/plugformer", "experiment=digits", "run_dir=somewhere"],
    "git_revision": "a" * 40,
    "packages": {"torch": "2.14", "ruff": "0.17"},
}
DATA = {"labels": [], "samples": {"train": 80, "val": 10, "test": 10}, "fingerprint": "f00d"}


def changed(base, changes):
    """With dotted keys set; None takes one out."""
    result = json.loads(json.dumps(base))
    for key, value in changes.items():
        *parents, last = key.split(".") if "/" not in key else [key]
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return result


def write_rows(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def make_run(path, *, config=None, summary=SUMMARY, rows=ROWS, data=DATA, environment=ENVIRONMENT, diff="", **others):
    path.mkdir(parents=True)
    run = RunDir(path)
    run.write_config(changed(CONFIG, {"run_dir": str(path)} | (config or {})))
    for file, content in ((run.summary, summary), (run.data, data), (run.environment, environment)):
        if content is not None:
            write_json(file, content)
    for name, content in others.items():
        write_json(path / f"{name}.json", content)
    if diff:
        run.git_diff.write_text(diff)
    if rows is not None:
        write_rows(run.metrics, rows)
    return path


def compared(*paths, **options):
    return compare([read_run(path) for path in paths], **options)


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return left.value.code, out, err


# ---------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(
    "config",
    [
        {"seed": 1},
        {"trainer.progress": False},
        {"trainer.media": 0},
        {"trainer.log_every": 99},
        {"logger.wandb": {"name": "wandb"}},
        {"attention.dropout": None},  # an older run that hadn't the option: its default
        {"trainer.precision": "32-true"},
    ],
)
def test_what_makes_no_difference_makes_no_group(tmp_path, config):
    comparison = compared(make_run(tmp_path / "a"), make_run(tmp_path / "b", config=config))
    assert len(comparison.groups) == 1
    assert comparison.keys == []


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"optimizer.lr": 0.01}, ["optimizer.lr"]),
        ({"attention": {"name": "linear"}}, ["attention"]),  # not attention.dropout, which only one of them has
        ({"attention": {"name": "local", "dropout": 0.5}}, ["attention", "attention.dropout"]),
        ({"cross_attention": {"name": "full"}}, ["cross_attention"]),
        ({"trainer.max_epochs": 3, "seed": 1}, ["trainer.max_epochs"]),
        ({"loader.batch_size": 16, "logger": {}}, ["loader.batch_size"]),
    ],
)
def test_columns_are_the_keys_that_differ(tmp_path, config, keys):
    comparison = compared(make_run(tmp_path / "a"), make_run(tmp_path / "b", config=config))
    assert [len(group.runs) for group in comparison.groups] == [1, 1]
    assert comparison.keys == keys
    assert all(f"{keys[0]}=" in group.label for group in comparison.groups if keys[0] in group.differs)


def test_an_option_that_varies_within_one_choice_is_a_column():
    flats = [{"a": "x", "a.p": 1}, {"a": "x", "a.p": 2}, {"a": "y"}]
    assert differing(flats) == ["a", "a.p"]
    assert differing([{"a": "x", "a.p": 1}, {"a": "y", "a.q": 2}, {"a": "y", "a.q": 2}]) == ["a"]
    assert differing([{"a": "x", "b": None}, {"a": "x"}]) == []


def test_flattening_loses_nothing_but_what_makes_no_difference():
    flat = flatten(CONFIG)
    assert flat["attention"] == "full" and flat["attention.dropout"] == 0.0 and flat["logger.csv"] == "csv"
    assert set(flat) - set(settled(flat)) == {"seed", "run_dir", "logger.csv", "trainer.progress"}
    assert "optimizer.lr" not in settled(flat, ["optimizer"]) and "optimizer" not in settled(flat, ["optimizer"])


def test_groups_are_the_same_whatever_the_order_of_the_runs(tmp_path):
    paths = [
        make_run(tmp_path / f"{name}{seed}", config={"attention.name": name, "attention.dropout": None, "seed": seed})
        for name in ("full", "linear")
        for seed in (0, 1, 2)
    ]
    expected = {(group.label, tuple(group.seeds)) for group in compared(*paths).groups}
    assert expected == {("attention=full", (0, 1, 2)), ("attention=linear", (0, 1, 2))}
    for turned in (paths[::-1], paths[::2] + paths[1::2]):
        assert {(group.label, tuple(group.seeds)) for group in compared(*turned).groups} == expected


def test_folds_are_one_row_if_asked_for(tmp_path):
    """And each fold's data are compared with the same fold of the others."""
    paths = [
        make_run(
            tmp_path / f"{name}{fold}",
            config={"attention": {"name": name}, "data": {"name": "digits", "fold": fold}},
            data=DATA | {"fingerprint": f"fold {fold}"},
        )
        for name in ("full", "linear")
        for fold in (0, 1)
    ]
    assert len(compared(*paths).groups) == 4
    together = compared(*paths, over=["data.fold"])
    assert [group.label for group in together.groups] == ["attention=full", "attention=linear"]
    assert together.marks == []
    assert [mark.kind for mark in compared(*paths[:3], over=["data.fold"]).marks] == ["seeds"]


# ---------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("values", [[0.5, 0.75], [1e9 + 1, 1e9 + 2, 1e9 + 4], [3, 3, 3], [-1.5, 2.25, 1e-9, 7]])
def test_spread_is_the_mean_and_the_sample_deviation(values):
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(statistics.fmean(values), rel=1e-15)
    assert spread.deviation == pytest.approx(statistics.stdev(values), rel=1e-12)


def test_spread_of_one_of_none_and_of_what_is_no_number():
    assert Spread.of([]) is None
    assert Spread.of([0.5]) == Spread((0.5,), 0.5, None)
    for broken in (math.nan, math.inf):
        assert math.isnan(Spread.of([0.5, broken]).mean)


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (None, "–"),
        (Spread.of([0.98321]), "0.9832"),
        (Spread.of([1234567]), "1,234,567"),
        (Spread.of([12.5, 12.5]), "12.50 ± 0"),
        (Spread((), 0.98321, 0.00123), "0.9832 ± 0.0012"),
        (Spread((), 98.321, 1.23), "98.3 ± 1.2"),
        (Spread((), 98321.4, 123.4), "98,321 ± 123"),
        (Spread.of([math.nan, 1.0]), "NaN"),
        (Spread.of([1.25e-7]), "1.250e-07"),
    ],
)
def test_figures_are_written_to_what_their_spread_allows(spread, text):
    assert written(spread) == text


def test_final_best_and_last(tmp_path):
    """Final metrics are summary.json's; the last validation is not the evaluation that follows it."""
    comparison = compared(make_run(tmp_path / "a"))
    (group,) = comparison.groups
    values = {column.title: comparison.spread(group, column).mean for column in comparison.columns}
    assert values == {
        "val/accuracy best": 0.75,
        "val/accuracy last": 0.5,
        "test/accuracy": 0.7,
        "test/loss": 0.45,
    }
    (run,) = group.runs
    assert run.best_step == 9 and run.steps == 20
    assert run.history["val/accuracy"] == [(9, 0.75), (19, 0.5)]
    costs = {name: cost.value(run) for name, cost in comparison.costs.items()}
    assert costs == {
        "model/parameters": 1000,
        "train/steps": 20,
        "train/seconds": 4.0,
        "speed/tokens": 1500,
        "speed/steps": 5.0,
        "memory/peak": 2**21,
    }


@pytest.mark.parametrize("rows", [ROWS, ROWS[:5], ROWS[:4]], ids=["tested", "validated again", "trained"])
def test_a_run_that_is_not_over_shows_what_it_has(tmp_path, rows):
    comparison = compared(make_run(tmp_path / "a", summary=None, rows=rows))
    (group,) = comparison.groups
    (run,) = group.runs
    assert run.history["val/accuracy"] == [(9, 0.75), (19, 0.5)]
    assert comparison.spread(group, Column("val/accuracy")).mean == 0.75
    assert comparison.spread(group, Column("val/accuracy", "last")).mean == 0.5
    assert (comparison.spread(group, Column("test/loss")) is not None) == (rows is ROWS)
    (mark,) = comparison.marks
    assert mark.kind == "unfinished" and mark.unfair
    assert f"{tmp_path / 'a'} isn't over: still running, killed or failed" in mark.text and "20 steps done" in mark.text


def test_a_run_that_is_not_over_is_never_averaged_with_others(tmp_path):
    paths = [make_run(tmp_path / f"{seed}", config={"seed": seed}) for seed in (0, 1)]
    comparison = compared(*paths, make_run(tmp_path / "2", config={"seed": 2}, summary=None, rows=ROWS[:2]))
    assert [(len(group.runs), group.finished) for group in comparison.groups] == [(2, True), (1, False)]
    assert len({group.label for group in comparison.groups}) == 2
    assert comparison.best(Column("test/accuracy")) is None


def test_the_best_is_told_by_what_the_metric_means_and_only_among_equals(tmp_path):
    worse = {"test/loss": 0.9, "test/accuracy": 0.1}
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", config={"optimizer.lr": 0.1}, summary=SUMMARY | worse)
    unlike = {"test/loss": 0.0, "test/accuracy": 1.0}
    c = make_run(
        tmp_path / "c",
        config={"optimizer.lr": 0.2},
        summary=SUMMARY | unlike,
        data=DATA | {"fingerprint": "beef"},
    )
    for comparison in (compared(a, b), compared(a, b, c)):
        assert comparison.best(Column("test/loss")) == comparison.best(Column("test/accuracy")) == 0
    assert compared(a, b).best(Column("train/lr")) is None


def test_a_metric_that_some_runs_of_a_group_lack_says_of_how_many_it_is(tmp_path):
    lacking = {name: value for name, value in SUMMARY.items() if name != "test/loss"}
    a = make_run(tmp_path / "a", rows=None)
    comparison = compared(a, make_run(tmp_path / "b", config={"seed": 1}, summary=lacking, rows=None))
    assert comparison.text(comparison.groups[0], Column("test/loss")) == "0.4500 (of 1)"


# ---------------------------------------------------------------------------------------------- marks


MARKS = {
    "data": ({"data": DATA | {"fingerprint": "beef"}}, r"saw other data: .* \(fingerprint beef\), not .*f00d"),
    "splits": (
        {"data": DATA | {"samples": {"train": 70, "val": 20, "test": 10}}},
        r"used other splits: 70 train / 20 val / 10 test .*, not 80 train",
    ),
    "no data": ({"data": None}, r"no data\.json"),
    "batches": (
        {"config": {"trainer.limit_batches": 3, "trainer.accumulate": 2}},
        r"used other parts of the same data: at most 3 × 4 samples to train, 3 × 256 to evaluate, not all",
    ),
    "one batch": ({"config": {"trainer.fast_dev_run": True}}, r"at most 1 × 8 samples to train"),
    "task": (
        {"config": {"task": {"name": "mlm"}}},
        r"task=mlm, not classification|chosen by val/loss, not val/accuracy",
    ),
    "monitor": ({"config": {"task.monitor": "loss"}}, r"best checkpoint chosen by val/loss, not val/accuracy"),
    "recorded monitor": (
        {"model": {"monitor": {"metric": "val/f1", "mode": "max"}}},
        r"best checkpoint chosen by val/f1, not val/accuracy",
    ),
    "code": ({"environment": ENVIRONMENT | {"git_revision": "b" * 40}}, r"other code: bbbbbbbbbbbb, not aaaaaaaaaaaa"),
    "diff": ({"diff": "- old\n+ new\n"}, r"other code: aaaaaaaaaaaa with changes [0-9a-f]{8}, not aaaaaaaaaaaa"),
    "package": (
        {"environment": ENVIRONMENT | {"packages": {"torch": "2.13", "ruff": "0.16"}}},
        r"other packages: torch 2\.13, not 2\.14; ruff 0\.16, not 0\.17",
    ),
    "python": ({"environment": ENVIRONMENT | {"python": "3.12.1"}}, r"python 3\.12\.1, not 3\.11\.7"),
    "machine": ({"environment": ENVIRONMENT | {"platform": "macOS"}}, r"on macOS, not Linux"),
    "nan": ({"summary": SUMMARY | {"test/loss": math.nan}}, r"NaN or infinite: test/loss$"),
    "nan noticed": ({"non_finite": {"train/grad_norm": 3}}, r"NaN or infinite: train/grad_norm, first at step 3$"),
    "nan on the way": (
        {"rows": [*ROWS[:2], ROWS[2] | {"train/loss": math.nan}, *ROWS[3:]]},
        r"NaN or infinite: train/loss, first at step 14$",
    ),
}


@pytest.mark.parametrize(("changes", "text"), MARKS.values(), ids=MARKS)
def test_whatever_is_not_alike_is_marked_where_it_is_and_nothing_else(tmp_path, changes, text):
    changes = dict(changes)
    config = {"seed": 0, "optimizer.lr": 0.01} | changes.pop("config", {})
    alike = [make_run(tmp_path / f"a{lr}", config={"optimizer.lr": lr}) for lr in (0.1, 0.2)]
    assert compared(*alike).marks == []
    comparison = compared(*alike, make_run(tmp_path / "odd", config=config, **changes))
    assert comparison.marks
    for mark in comparison.marks:
        assert mark.groups == (2,) and mark.runs == (str(tmp_path / "odd"),)
        assert re.search(text, mark.text), mark.text
    assert [comparison.signs(number) for number in range(2)] == ["", ""]
    assert len({mark.sign for mark in comparison.marks}) == len(comparison.marks)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"tokenizer.vocab_size": 300}, "tokenizer.vocab_size=300, not null"),
        ({"tokenizer": {"name": "text_bytes"}}, "tokenizer=text_bytes, not vit_patch"),
        ({"target_tokenizer": {"name": "text_bytes"}}, "target_tokenizer=text_bytes, not null"),
    ],
)
def test_means_over_other_tokens_are_never_the_best(tmp_path, config, text):
    """What doesn't count tokens may be, and so may all metrics of a task that predicts none."""
    for name, told, marked in (("tokens", {"test/perplexity": 2.0, "test/bleu": 10.0}, True), ("none", {}, False)):
        make_run(tmp_path / name / "a", summary=SUMMARY | told)
        better = {metric: value / 2 for metric, value in (SUMMARY | told).items()}
        make_run(tmp_path / name / "b", config=config, summary=SUMMARY | better)
        comparison = compared(tmp_path / name / "a", tmp_path / name / "b")
        assert [mark.kind for mark in comparison.marks] == ["tokens"] * marked
        assert comparison.best(Column("test/loss")) == (None if marked else 1)
        if marked:
            assert text in comparison.marks[0].text and not comparison.marks[0].unfair
            assert comparison.best(Column("test/perplexity")) is None
            assert comparison.best(Column("test/bleu")) == 0


def test_a_mark_of_some_runs_of_a_group_names_them(tmp_path):
    paths = [make_run(tmp_path / f"{seed}", config={"seed": seed}) for seed in range(3)]
    odd = make_run(tmp_path / "odd", config={"seed": 3}, data=DATA | {"fingerprint": "beef"})
    (mark,) = compared(*paths, odd).marks
    assert mark.text.endswith(f"({odd})") and mark.groups == (0,)


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((0,), "seed 0, where others have 0, 1, 2"), ((0, 1, 5), "seeds 0, 1, 5, where"), ((0, 1, 1), "seed 1 more than")],
)
def test_unequal_seeds_are_told(tmp_path, seeds, text):
    full = [make_run(tmp_path / f"a{seed}", config={"seed": seed}) for seed in range(3)]
    other = [make_run(tmp_path / f"b{k}", config={"seed": seed, "optimizer.lr": 9.0}) for k, seed in enumerate(seeds)]
    (mark,) = compared(*full, *other).marks
    assert mark.kind == "seeds" and mark.groups == (1,) and mark.text.startswith(text)
    assert not mark.unfair


# ---------------------------------------------------------------------------------------------- numbers for programs


def test_json_gives_back_the_numbers_of_every_summary(tmp_path, capsys):
    summaries = [SUMMARY | {"test/loss": 1 / 3 + seed, "val/accuracy": 0.1 * seed} for seed in range(3)]
    summaries[2]["test/accuracy"] = math.nan
    for seed, summary in enumerate(summaries):
        make_run(tmp_path / f"{seed}", config={"seed": seed}, summary=summary)
    code, out, _ = command(capsys, tmp_path, "--json")
    told = json.loads(out)
    assert code == 0
    for run in told["runs"]:
        assert run["summary"] == json.loads((Path(run["path"]) / "summary.json").read_text())
    (group,) = told["groups"]
    losses = [summary["test/loss"] for summary in summaries]
    assert group["metrics"]["test/loss"]["values"] == losses
    assert group["metrics"]["test/loss"]["mean"] == pytest.approx(statistics.fmean(losses))
    assert group["metrics"]["test/loss"]["deviation"] == pytest.approx(statistics.stdev(losses))
    assert group["metrics"]["test/accuracy"] == {"mean": None, "deviation": None, "n": 3, "values": [0.7, 0.7, None]}
    assert group["last"]["val/accuracy"]["mean"] == 0.5
    assert told["differences"]["seed"] == {str(tmp_path / f"{seed}"): seed for seed in range(3)}


def test_csv_holds_the_same_figures(tmp_path, capsys):
    for seed, lr in ((0, 0.1), (1, 0.1), (0, 0.2)):
        make_run(
            tmp_path / f"{lr}-{seed}",
            config={"seed": seed, "optimizer.lr": lr},
            summary=SUMMARY | {"test/loss": lr * seed},
        )
    code, out, _ = command(capsys, tmp_path, "--csv", tmp_path / "new" / "table.csv")
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "new" / "table.csv")
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["optimizer.lr"], first["seeds"], first["marks"]) == ("0.1", "0 1", "")
    assert float(first["test/loss"]) == pytest.approx(0.05)
    assert float(first["test/loss deviation"]) == pytest.approx(statistics.stdev([0, 0.1]))
    assert first["test/loss n"] == "2"
    assert (second["test/loss n"], second["test/loss deviation"], second["marks"]) == ("1", "", "seeds")


# ---------------------------------------------------------------------------------------------- curves


def test_a_group_curve_is_the_mean_of_its_runs_at_equal_steps(tmp_path):
    shifted = [row | ({"train/loss": row["train/loss"] + 1} if "train/loss" in row else {}) for row in ROWS]
    comparison = compared(make_run(tmp_path / "a"), make_run(tmp_path / "b", config={"seed": 1}, rows=shifted))
    curve = group_curve(comparison.groups[0], "train/loss", "step")
    assert curve.x == [5, 10, 15, 20]
    assert curve.mean == [2.5, 1.5, 1.2, 1.0]
    assert curve.deviation == pytest.approx([math.sqrt(0.5)] * 4)
    assert group_curve(comparison.groups[0], "train/nothing", "step") is None


def test_axes(tmp_path):
    """What was spent is summed over steps at the rate that was logged for them, and goes on at the last."""
    run = read_run(make_run(tmp_path / "a"))
    seconds, tokens, epochs = (position(run, axis) for axis in ("seconds", "tokens", "epoch"))
    assert [seconds(step) for step in (4, 9, 14, 19)] == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert [tokens(step) for step in (4, 14)] == pytest.approx([500, 500 + 10 * 400])
    assert [epochs(step) for step in (9, 19)] == [1, 2]
    plain = [{key: value for key, value in row.items() if "/s" not in key and "speed" not in key} for row in ROWS]
    old = read_run(make_run(tmp_path / "b", rows=plain))
    assert position(old, "seconds")(19) == SUMMARY["train/seconds"]
    assert position(old, "tokens") is None
    unfinished = read_run(make_run(tmp_path / "c", rows=plain[:4], summary=None))
    assert position(unfinished, "epoch")(9) == 1
    assert position(unfinished, "seconds") is None


@pytest.mark.parametrize("count", [0, 1, 2, 299, 300, 301, 5000])
def test_thinning_keeps_both_ends_and_the_order(count):
    points = list(range(count))
    kept = thinned(points, 300)
    assert len(kept) == min(count, 300) and list(kept) == sorted(set(kept))
    assert list(kept[:1]) == points[:1] and list(kept[-1:]) == points[-1:]


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_plots(tmp_path, capsys, ending, start):
    """Also of names that mean something to the one who draws."""
    make_run(tmp_path / "a", config={"task.note": "$x^", "optimizer.lr": 1.0})
    make_run(tmp_path / "b", config={"task.note": "_$\\frac", "optimizer.lr": 1.0})
    code, out, err = command(capsys, tmp_path, "--plot", tmp_path / f"plot.{ending}", "--x", "epoch")
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / f"plot.{ending}")
    assert (tmp_path / f"plot.{ending}").read_bytes().startswith(start)


# ---------------------------------------------------------------------------------------------- the page


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--]]>\u2028\x00\ud800"


class Reader(HTMLParser):
    """The elements of a page, what they point to, and what scripts and styles it has."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.raw = [], [], {"script": [], "style": []}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)


def png(width=2, height=2):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\x00" + bytes(width) for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def add_media(path, *, step=10, name="val/samples", text="a text", size=2):
    run = RunDir(path)
    folder = media_folder(run, name, step)
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(png(size, size))
    (folder / "0.wav").write_bytes(b"RIFF$\x00\x00\x00WAVE")
    cells = [text, 0.123456, MediaFile("image", folder / "0.png", text), MediaFile("audio", folder / "0.wav", text)]
    write_media(run, Media(name, step, ["text", "loss", "image", text[:50] or "x"], [cells]))
    return path


def page_of(folder, text):
    """Of two groups, one of two runs, with `text` wherever a run directory may hold one."""
    folder.mkdir()
    metric = f"val/{text}".replace("\ud800", "").replace("\x00", "")
    told = text.replace("\ud800", "").replace("\x00", "")
    rows = [row | {metric: 0.5 + row["step"]} for row in ROWS]
    shared = {
        "summary": SUMMARY | {metric: 0.5},
        "rows": rows,
        "data": DATA | {"fingerprint": told},
        "environment": ENVIRONMENT | {"command": ["plugformer", told], "platform": told, "packages": {told: told}},
        "plugins": {told: {"name": told, "entry_point": told, "package": told, "version": told}},
    }
    for number, config in enumerate(({"seed": 0}, {"seed": told}, {"attention": {"name": told}})):
        add_media(make_run(folder / f"{number}", config=config | {"task.monitor": metric[4:]}, **shared), text=told)
    (folder / "1" / "summary.json").unlink()
    return make_page(compared(*(folder / f"{number}" for number in range(3)), metrics=[metric]))


def test_no_text_of_a_run_changes_what_elements_a_page_has(tmp_path):
    hostile, harmless = (Reader(page_of(tmp_path / name, text)) for name, text in (("a", HOSTILE), ("b", "harmless")))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    keys = [[sorted(attributes) for _, attributes in page.elements] for page in (hostile, harmless)]
    assert keys[0] == keys[1]
    assert [tag for tag, _ in hostile.elements].count("script") == 2
    assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]


def test_a_page_points_to_nothing_outside_itself(tmp_path):
    page = page_of(tmp_path / "a", "harmless")
    reader = Reader(page)
    pointers = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href"}
    pointed = [value for _, attributes in reader.elements for name, value in attributes.items() if name in pointers]
    assert pointed and all(value.startswith(("data:image/png;base64,", "data:audio/wav;base64,")) for value in pointed)
    assert not {tag for tag, _ in reader.elements} & {"link", "iframe", "object", "embed", "base", "form"}
    (style,) = reader.raw["style"]
    assert not re.search(r"url\(|@import|@font-face|expression", style)
    data, script = reader.raw["script"]
    json.loads(data)
    assert not re.search(
        r"fetch|XMLHttp|import\s|eval|Function\(|innerHTML|outerHTML|insertAdjacent|document\.write", script
    )
    (policy,) = [attrs["content"] for _, attrs in reader.elements if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_a_page_holds_what_the_report_holds(tmp_path):
    paths = [make_run(tmp_path / f"{lr}", config={"optimizer.lr": lr}) for lr in (0.1, 0.2)]
    comparison = compared(*paths)
    page = make_page(comparison)
    (data, _) = Reader(page).raw["script"]
    told = json.loads(data)
    assert [group["label"] for group in told["groups"]] == [group.label for group in comparison.groups]
    (chart,) = [chart for chart in told["charts"] if chart["metric"] == "val/accuracy"]
    assert [curve["mean"] for curve in chart["curves"]] == [[0.75, 0.5]] * 2
    assert told["places"][chart["curves"][0]["at"]]["step"] == [10, 20]
    assert "plugformer train experiment=digits" in page
    for number in (group["metrics"]["test/accuracy"]["mean"] for group in report(comparison)["groups"]):
        assert f'data-value="{number!r}"' in page


def test_data_in_a_script_come_back_as_they_were():
    value = {"a": HOSTILE.replace("\ud800", ""), "b": [1, None, 0.5]}
    block = data_block("data", value)
    assert block.count("<") == 2 and block.count(">") == 2
    assert json.loads(block.partition(">")[2].rpartition("<")[0]) == value


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "<b>", element("b", "x"), class_='"') == '<p class="&quot;">&lt;b&gt;<b>x</b></p>'
    assert element("p", "\x00\ud800") == "<p>��</p>"


def test_media_are_the_newest_of_each_name_and_first_of_every_group(tmp_path):
    paths = [make_run(tmp_path / f"{k}", config={"seed": k % 2, "optimizer.lr": 1.0 + k // 2}) for k in range(4)]
    for path in paths:
        for step in (10, 20):
            add_media(path, step=step)
            add_media(path, step=step, name="val/hard")
    groups = compared(*paths).groups
    shown, left_out = choose(groups, limit=10**9)
    assert left_out == []
    assert len(shown) == 8 and {each.media.step for each in shown} == {20}
    size = sum(len(uri) for uri in shown[0].files.values()) + len("a text")
    few, left_out = choose(groups, limit=4 * size)
    assert {(each.group, each.run.seed) for each in few} == {(0, 0), (1, 0)}
    assert len(few) == 4 and len(left_out) == 4
    none, left_out = choose(groups, limit=0)
    assert none == [] and len(left_out) == 8 and "val/hard of" in left_out[1] and "step 20" in left_out[1]


def test_media_outside_of_a_run_or_of_another_kind_are_not_shown(tmp_path):
    """An index that was written elsewhere may name any file of whoever makes the page."""
    run = make_run(tmp_path / "a")
    (tmp_path / "secret.png").write_bytes(png())
    (run / "media").mkdir()
    (run / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    (run / "media" / "key.png").write_text("a key")
    names = ["../secret.png", str(tmp_path / "secret.png"), "media/link.png", "media/key.png", "media/missing.png"]
    rows = [[{"image": name, "caption": ""}] for name in names]
    record = {"name": "val/samples", "step": 1, "columns": ["image"], "rows": rows}
    (run / "media" / "index.jsonl").write_text(json.dumps(record) + "\n")
    ((shown,), _) = choose(compared(run).groups, limit=10**9)
    reasons = list(shown.files.values())
    assert not [reason for reason in reasons if reason.startswith("data:")]
    assert [reason.split()[0] for reason in reasons] == ["stands", "stands", "stands", "is", "can't"]
    assert "data:" not in "".join(attrs.get("src", "") for _, attrs in Reader(make_page(compared(run))).elements)


def test_secrets_do_not_go_into_a_page(tmp_path):
    command_of = ["plugformer", "logger.wandb.api_key=0123456789abcdef", "seed=0"]
    run = make_run(
        tmp_path / "a", environment=ENVIRONMENT | {"command": command_of}, config={"task.api_key": "0123abcd"}
    )
    other = make_run(tmp_path / "b", config={"task.api_key": "4567abcd"})
    page = make_page(compared(run, other))
    assert "0123" not in page and "4567" not in page and "seed=0" in page


# ---------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    "overrides",
    [
        ["attention=full", "seed=1"],
        ["data.paths=[a.txt,b=c.txt]", "+tokenizer.augmentation={RandAugment: {n: 2,m=3}}", "seed=1"],
        ["task.note='x,seed=2'", "data.root=a b"],
        ["trainer.max_epochs=3"],
    ],
)
def test_a_job_of_a_sweep_is_run_again_by_itself(tmp_path, overrides):
    name = ",".join([*overrides, "run_dir=sweep"])
    run = read_run(make_run(tmp_path / "0", job={"group": "sweep", "number": 0, "name": name}))
    assert shlex.split(command_line(run.environment, run.job)) == ["plugformer", "train", *overrides]


@pytest.mark.parametrize("flag", [["--config-dir", "my conf"], ["--config-dir=my conf"], ["-cd", "my conf"]])
def test_a_job_is_run_again_with_the_same_folder_of_configuration(flag):
    environment = {"command": ["/bin/plugformer", "train", "-m", *flag, "experiment=mine", "seed=0,1"]}
    told = command_line(environment, {"group": "sweep", "number": 1, "name": "experiment=mine,seed=1"})
    assert shlex.split(told) == ["plugformer", "train", *flag, "experiment=mine", "seed=1"]


# ---------------------------------------------------------------------------------------------- finding


def test_folders_patterns_and_runs_are_found_once_each_and_in_order(tmp_path):
    for number in (0, 1, 2, 10):
        make_run(tmp_path / "sweep" / f"{number}")
    make_run(tmp_path / "sweep" / "nested" / "a" / "b")
    make_run(tmp_path / "sweep" / "0" / "checkpoints" / "inside")  # of a run, nothing is searched
    make_run(tmp_path / "sweep" / ".hidden" / "run")
    paths, notes = find_runs([str(tmp_path / "sweep")])
    assert [path.relative_to(tmp_path / "sweep").as_posix() for path in paths] == ["0", "1", "2", "10", "nested/a/b"]
    assert notes == []
    assert find_runs([str(tmp_path / "s*" / "[0-9]*")])[0] == paths[:4]
    assert find_runs([str(tmp_path / "*")])[0] == paths
    again, notes = find_runs([str(tmp_path / "sweep"), str(tmp_path / "sweep" / "1"), f"{tmp_path}/sweep/../sweep/2"])
    assert again == paths
    assert len(notes) == 2 and all("counted once" in note for note in notes)
    _, notes = find_runs([str(paths[0]), str(paths[0])])
    assert notes == [f"{paths[0]}: given twice; counted once"]


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path):
    run = make_run(tmp_path / "lr=[0.1]")
    assert find_runs([str(run)])[0] == [run]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("sweap", r"sweap: no such folder\. Did you mean .*sweep\?"),
        ("sweep/0/config.yaml", r"config\.yaml: a file\. Expected a run directory"),
        ("empty", r"empty: neither a run directory nor one with runs inside"),
        ("nothing*", r"nothing\*: nothing matches this pattern"),
        ("emp*", r"emp\*: no run directory matches this pattern"),
    ],
)
def test_what_is_no_run_is_told(tmp_path, capsys, place, text):
    make_run(tmp_path / "sweep" / "0")
    (tmp_path / "empty").mkdir()
    code, out, err = command(capsys, tmp_path / place)
    assert code == 2 and out == "" and re.search(text, err), err


# ---------------------------------------------------------------------------------------------- damage


DAMAGED = {
    "summary.json": ["{", "[]", '{"val/loss": "high"}', '{"val/loss": true}'],
    "metrics.csv": [
        "step,val/loss\r\n1,low\r\n",
        "step,val/loss\r\n1\r\n",
        "step,val/loss\r\nx,1\r\n",
        "val/loss\r\n1\r\n",
        'step,val/loss\r\n1,"2"3\r\n',
        "step,v\xff\r\n",
    ],
    "data.json": ["{", "3"],
    "config.yaml": ["a: [", "- 1\n"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts])
def test_a_damaged_file_is_named_and_can_be_skipped(tmp_path, capsys, name, text):
    make_run(tmp_path / "sweep" / "a", config={"seed": 1})
    (make_run(tmp_path / "sweep" / "b") / name).write_bytes(text.encode("latin-1"))
    code, out, err = command(capsys, tmp_path / "sweep")
    assert code == 2 and out == ""
    assert f"{tmp_path}/sweep/b/{name}" in err and "--skip-damaged" in err
    code, out, _ = command(capsys, tmp_path / "sweep", "--skip-damaged", "--json")
    told = json.loads(out)
    assert code == 0 and len(told["runs"]) == 1
    assert f"{tmp_path}/sweep/b/{name}" in told["notes"][0] and told["notes"][0].startswith("left out: ")
    code, _, err = command(capsys, tmp_path / "sweep" / "b", "--skip-damaged")
    assert code == 2 and "No run is left" in err


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"name": "a", "step": 1, "columns": ["b"], "rows": [[{}]]}'])
def test_a_damaged_index_of_media_is_told_by_its_line(tmp_path, capsys, line):
    add_media(make_run(tmp_path / "a"))
    with RunDir(tmp_path / "a").media_index.open("a") as file:
        file.write(f"{line}\n")
    code, _, err = command(capsys, tmp_path / "a", "--html", tmp_path / "x.html")
    assert code == 2 and f"{tmp_path}/a/media/index.jsonl:2: damaged" in err
    assert not (tmp_path / "x.html").exists()


def test_a_last_line_that_is_half_is_left_out_at_whatever_letter(tmp_path):
    write_rows(tmp_path / "whole.csv", ROWS)
    whole = (tmp_path / "whole.csv").read_bytes()
    lines = whole.split(b"\n")[:-1]
    complete = read_history(tmp_path / "whole.csv")
    before = len(whole) - len(lines[-1]) - 1
    (tmp_path / "cut.csv").write_bytes(whole[:before])
    without = read_history(tmp_path / "cut.csv")
    assert without != complete and "test/loss" not in without
    for end in range(before, len(whole)):
        (tmp_path / "cut.csv").write_bytes(whole[:end])
        assert read_history(tmp_path / "cut.csv") == without
    for end in range(len(lines[0])):
        (tmp_path / "cut.csv").write_bytes(whole[:end])
        assert read_history(tmp_path / "cut.csv") == {}


def test_a_run_of_which_there_is_nothing_but_its_composition(tmp_path, capsys):
    """As one that was killed at its beginning."""
    make_run(tmp_path / "a", summary=None, rows=None, data=None, environment=None)
    code, out, _ = command(capsys, tmp_path / "a", "--html", tmp_path / "a.html")
    assert code == 0 and "isn't over" in out and "nothing was logged" in out
    Reader((tmp_path / "a.html").read_text())


# ---------------------------------------------------------------------------------------------- the command


def test_the_table_says_what_is_known(tmp_path, capsys):
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            make_run(tmp_path / f"{lr}-{seed}", config={"optimizer.lr": lr, "seed": seed})
    make_run(tmp_path / "other", config={"optimizer.lr": 0.3}, data=DATA | {"fingerprint": "beef"})
    code, out, _ = command(capsys, tmp_path)
    assert code == 0
    assert "optimizer.lr" in out and "attention" not in out
    assert re.search(r"0\.1 +2 +0\.7500 ± 0 ", out)
    assert re.search(r"^a b +0\.3 +1 +0\.7500 ", out, re.MULTILINE)
    assert "Not a fair comparison as it stands: see a." in out
    assert "a  saw other data" in out and "b  seed 0, where others have 0, 1" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--metric", "test/acuracy"],
            r"metric=test/acuracy: no such metric in .*Did you mean test/accuracy\?.*Its metrics",
        ),
        (["--metric", "test/loss,,"], r"expected NAME or NAME,NAME"),
        (["--over", "data.fld"], r"over=data\.fld: no such key"),
        (["--plot", "x.gif"], r"--plot x\.gif: no format is named \.gif.*pdf, png, svg"),
        (
            ["--plot", "x.png", "--metric", "model/parameters"],
            r"nothing to draw.*Choose with --metric among: .*train/loss",
        ),
        (["--plot", "a/config.yaml/x.png"], r"--plot a/config\.yaml/x\.png: can't be written"),
        (["--html", "a/config.yaml/x.html"], r"--html a/config\.yaml/x\.html: can't be written"),
        (["--csv", "a/config.yaml/x.csv"], r"--csv a/config\.yaml/x\.csv: can't be written"),
        (["--media", "nan"], r"--media nan: expected MiB"),
        (["--media", "1"], r"--media 1: has no effect without a page\. Add --html FILE"),
        (["--x", "epoch"], r"--x epoch: has no effect without curves\. Add --plot FILE or --html FILE"),
    ],
)
def test_mistakes(tmp_path, capsys, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    code, _, err = command(capsys, "a", *arguments)
    assert code == 2 and re.search(text, err, re.DOTALL), err


def test_an_axis_that_a_run_does_not_tell(tmp_path, capsys):
    make_run(tmp_path / "a", rows=[{"step": 1, "train/loss": 1.0}])
    for option in (["--plot", tmp_path / "x.png"], ["--html", tmp_path / "x.html"]):
        code, _, err = command(capsys, tmp_path / "a", *option, "--x", "tokens")
        assert code == 2
        assert f"--x tokens: {tmp_path / 'a'} doesn't tell" in err and "Possible: step, epoch, seconds" in err


def test_runs_without_a_common_metric(tmp_path, capsys):
    make_run(tmp_path / "a", rows=None)
    make_run(tmp_path / "b", rows=None, summary={"test/bleu": 20.0}, config={"task": {"name": "seq2seq"}})
    code, out, _ = command(capsys, tmp_path)
    assert code == 0 and "no metric is common to all runs" in out and "test/bleu" in out and "–" in out
