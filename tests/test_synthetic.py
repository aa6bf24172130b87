"""Generated data: what it is, that it is always the same, and that it can be told from chance."""

import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.helpers import ROOT

from plugformer.assemble import preview
from plugformer.cli.compose import compose
from plugformer.data.cache import cached
from plugformer.errors import UserError
from plugformer.nn.parameters import count_parameters
from plugformer.registry import build
from plugformer_synthetic.distinct import distinct_splits
from plugformer_synthetic.listops import SYMBOLS, ListOps, Shape, trees
from plugformer_synthetic.pathfinder import (
    Pathfinder,
    _grow_curves,
    _grow_distractors,
    count_markers,
    pictures,
)
from plugformer_synthetic.recall import Recall
from plugformer_synthetic.snakes import draw
from plugformer_tasks.answers import Answers

SHORT = {"max_depth": 4, "max_args": 5, "min_length": 5, "max_length": 60}
FEW = {"train_size": 40, "val_size": 10, "test_size": 10}


def listops(folder: Path, **options) -> ListOps:
    return ListOps(**{**SHORT, **FEW, "cache": folder, **options})


def pathfinder(folder: Path, **options) -> Pathfinder:
    return Pathfinder(**{"contour_length": 6, **FEW, "cache": folder, **options})


def recall(folder: Path, **options) -> Recall:
    return Recall(**{"num_pairs": 3, "length": 16, "vocab_size": 32, **FEW, **options})


SOURCES = [listops, pathfinder, recall]

# ---------------------------------------------------------------------------------------------- what all have in common


@pytest.mark.parametrize("make", SOURCES)
def test_another_seed_is_other_data(tmp_path, make):
    assert make(tmp_path).fingerprint() == make(tmp_path).fingerprint()
    assert make(tmp_path, sample_seed=1).fingerprint() != make(tmp_path).fingerprint()


@pytest.mark.parametrize("make", SOURCES)
def test_more_training_samples_leave_the_others_as_they_are(tmp_path, make):
    def fingerprints(source):
        return [str(dict(sample)) for split in ("val", "test") for sample in source.samples(split)]

    few, more = make(tmp_path), make(tmp_path, train_size=60)
    assert fingerprints(few) == fingerprints(more)
    assert [sample["id"] for sample in few.samples("train")] == [s["id"] for s in more.samples("train")][:40]
    assert str(dict(few.samples("train")[39])) == str(dict(more.samples("train")[39]))


def test_another_process_makes_the_same(tmp_path):
    """From nothing: it has a cache of its own, and hashes strings in its own way."""
    code = f"""if True:
        from pathlib import Path
        from tests.test_synthetic import SOURCES
        print(*(make(Path({str(tmp_path / "other")!r})).fingerprint() for make in SOURCES))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [make(tmp_path).fingerprint() for make in SOURCES], done.stderr


@pytest.mark.parametrize("make", SOURCES)
def test_a_split_without_samples_is_refused(tmp_path, make):
    with pytest.raises(UserError, match=r"data\.val_size=0: must be at least 1\."):
        make(tmp_path, val_size=0)


def test_no_sample_is_in_two_splits_however_few_there_are():
    def stream(seed):
        draw = np.random.default_rng(seed)
        while True:
            yield int(draw.integers(12))

    sizes = {"train": 7, "val": 3, "test": 2}
    splits = distinct_splits(stream, sizes=sizes, seed=0, key=lambda number: number)
    assert list(splits) == ["train", "val", "test"]
    assert {split: len(kept) for split, kept in splits.items()} == sizes
    assert sorted(number for kept in splits.values() for number in kept) == list(range(12))
    message = r"data\.train_size=8: .* too few different samples; 12 were found for all splits\.\n  Set smaller sizes"
    with pytest.raises(UserError, match=message):
        distinct_splits(stream, sizes={**sizes, "train": 8}, seed=0, key=lambda number: number)


# ---------------------------------------------------------------------------------------------- the cache


def test_what_was_made_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(len(made))}

    for _ in range(3):
        assert cached(make, name="data", made_of={"version": 1}, folder=tmp_path / "new")["a"].tolist() == [0]
    assert len(made) == 1
    (file,) = (tmp_path / "new").iterdir()
    assert cached(make, name="data", made_of={"version": 2}, folder=tmp_path / "new")["a"].tolist() == [0, 1]
    file.write_bytes(file.read_bytes()[:50])
    with pytest.warns(UserWarning, match=rf"{file.name}: damaged \(.*\); it is made anew\."):
        assert len(cached(make, name="data", made_of={"version": 1}, folder=tmp_path / "new")["a"]) == 3
    assert len(cached(make, name="data", made_of={"version": 1}, folder=tmp_path / "new")["a"]) == 3


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"can't be written \(.*\), so it will be made again\."):
        assert cached(lambda: {"a": np.ones(1)}, name="data", made_of={}, folder=tmp_path / "file")["a"] == 1


def test_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached(lambda: {"a": np.ones(1)}, name="data", made_of={}, folder=None)
    assert [path.parent for path in tmp_path.rglob("*.npz")] == [tmp_path / "plugformer"]


# ---------------------------------------------------------------------------------------------- listops


def evaluate(text: str) -> int:
    """By a stack and numpy, which knows nothing of how trees were grown."""
    stack: list[list[int]] = [[]]
    operators = []
    for symbol in text.split():
        if symbol == "]":
            values, operator = stack.pop(), operators.pop()
            assert len(values) >= 2
            made = {"MIN": np.min, "MAX": np.max, "MED": np.median, "SM": lambda v: np.sum(v) % 10}[operator](values)
            stack[-1].append(int(made))
        elif symbol.startswith("["):
            operators.append(symbol[1:])
            stack.append([])
        else:
            stack[-1].append(int(symbol))
    ((value,),) = stack
    return value


def depth(text: str) -> int:
    """Nodes on the longest way down."""
    now = deepest = 1
    for symbol in text.split():
        now += symbol.startswith("[") - (symbol == "]")
        deepest = max(deepest, now)
    return deepest


@pytest.mark.parametrize(
    ("text", "value"),
    [("[MAX 4 [SM 7 8 ] 0 ]", 5), ("[MED 1 2 9 4 ]", 3), ("[MED 9 0 3 ]", 3), ("[MIN 5 [MED 8 9 ] ]", 5)],
)
def test_the_evaluator_is_right(text, value):
    assert evaluate(text) == value


def test_values_of_long_trees(tmp_path):
    source = ListOps(**FEW, cache=tmp_path)
    for split in ("train", "val", "test"):
        for sample in source.samples(split):
            assert evaluate(sample["text"]) == sample["label"]
            assert 500 < len(sample["text"].split()) < 2000
            assert depth(sample["text"]) <= 10


def test_lengths_are_not_negative(tmp_path):
    with pytest.raises(UserError, match=r"data\.min_length=-1: must be at least 0\."):
        listops(tmp_path, min_length=-1)


def test_expressions_that_the_tokenizer_cuts_are_told(tmp_path):
    texts = listops(tmp_path).samples("train")
    lengths = sorted(len(sample["text"].split()) for sample in texts)
    options = {"name": "text_symbols", "vocab_size": len(SYMBOLS) + 5, "min_frequency": 1}
    build("tokenizer", {**options, "max_length": lengths[-1] + 2}).fit(texts)
    build("tokenizer", {**options, "max_length": lengths[0] + 2, "truncation": "refuse"}).fit(texts)
    share = sum(length > lengths[30] for length in lengths) / 40
    assert share
    with pytest.warns(UserWarning, match=rf"=\d+: {share:.1%} of .* cut; the longest has {lengths[-1] + 2} tokens\.$"):
        build("tokenizer", {**options, "max_length": lengths[30] + 2}).fit(texts)


def test_short_trees_are_as_they_should_be(tmp_path):
    """Every symbol and every number of arguments comes, and nothing beyond the bounds."""
    source = listops(tmp_path, train_size=1000)
    texts = [sample["text"] for sample in source.samples("train")]
    assert all(evaluate(s["text"]) == s["label"] for s in source.samples("train"))
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) == 6 and 45 < max(lengths) < 60
    assert max(map(depth, texts)) == 4
    assert {symbol for text in texts for symbol in text.split()} == {
        *map(str, range(10)),
        "[MIN",
        "[MAX",
        "[MED",
        "[SM",
        "]",
    }
    assert len(set(texts)) == len(texts)


def shares(shape: Shape, count: int) -> tuple[float, float]:
    """The share of the most frequent value, and of the values that the root's operator makes most likely."""
    found = list(islice(trees(shape, 0), count))
    by_root: dict[int, Counter[int]] = defaultdict(Counter)
    for tree in found:
        by_root[tree.symbols[0]][tree.value] += 1
    majority = max(Counter(tree.value for tree in found).values()) / count
    return majority, sum(max(values.values()) for values in by_root.values()) / count


@pytest.mark.parametrize(
    ("shape", "count", "majority", "root"),
    [(Shape(10, 10, 500, 2000), 500, 0.169, 0.371), (Shape(4, 5, 5, 60), 4000, 0.121, 0.234)],
)
def test_what_can_be_guessed_of_listops(shape, count, majority, root):
    """The figures measured on another implementation of Long Range Arena's generator; three standard errors."""
    found = shares(shape, count)
    assert found[0] == pytest.approx(majority, abs=3 * (majority / count) ** 0.5)
    assert found[1] == pytest.approx(root, abs=3 * (root / count) ** 0.5)


def test_listops_that_cannot_be_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("plugformer_synthetic.listops.PATIENCE", 1000)
    with pytest.raises(UserError, match=r"data\.max_depth=1: must be at least 2\."):
        listops(tmp_path, max_depth=1)
    with pytest.raises(UserError, match=r"data\.min_length=59, data\.max_length=60: no length lies between the two\."):
        listops(tmp_path, min_length=59)
    with pytest.raises(UserError, match=r"of 1,000 trees with data\.max_depth=2 and data\.max_args=2, none has such"):
        listops(tmp_path, max_depth=2, max_args=2, min_length=10).samples("val")


def test_listops_stays_what_it_is(tmp_path):
    """If this fails, the generator makes other samples: give it another VERSION, so that old caches aren't taken."""
    assert listops(tmp_path).fingerprint() == "ebbcedfa6d9e2f1a"


# ---------------------------------------------------------------------------------------------- recall


@pytest.mark.parametrize("filler", ["blank", "random"])
def test_answers_are_the_values_of_their_keys(tmp_path, filler):
    source = recall(tmp_path, num_pairs=4, length=32, filler=filler)
    for split in ("train", "val", "test"):
        for sample in source.samples(split):
            words = sample["text"].split()
            pairs = dict(zip(words[0:8:2], words[1:8:2], strict=True))
            assert len(words) == 32
            assert len(pairs) == len(set(pairs.values())) == 4
            assert all(key[0] == "k" and value[0] == "v" for key, value in pairs.items())
            assert len(sample["answers"]) == 4
            assert sorted(words[place - 1] for place in sample["answers"]) == sorted(pairs)
            assert all(words[place] == pairs[words[place - 1]] for place in sample["answers"])
            rest = [word for n, word in enumerate(words) if n > 7 and not {n, n + 1} & {*sample["answers"]}]
            assert (set(rest) == {"_"}) == (filler == "blank")


def test_keys_return_at_distances_of_a_power_law():
    """Of a single pair, where nothing else takes a place; as often as p(x) ∝ x^(a - 1)."""
    source = Recall(num_pairs=1, length=18, vocab_size=200, power=0.2, train_size=4000, val_size=1, test_size=1)
    places = Counter((sample["answers"][0] - 3) // 2 for sample in source.samples("train"))
    likelihood = np.arange(1, 9) ** (0.2 - 1)
    expected = likelihood / likelihood.sum()
    found = np.array([places[gap] / 4000 for gap in range(8)])
    assert np.abs(found - expected).max() < 3 * (0.25 / 4000) ** 0.5


def test_every_key_and_value_comes_equally_often():
    source = Recall(num_pairs=3, length=12, vocab_size=22, train_size=5000, val_size=1, test_size=1)
    words = Counter(word for sample in source.samples("train") for word in sample["text"].split()[:6])
    assert set(words) == {*(f"k{n}" for n in range(1, 11)), *(f"v{n}" for n in range(11, 22))}
    first = Counter(sample["text"].split()[0] for sample in source.samples("train"))
    for counts, choices, total in ((words, "k", 15_000), (words, "v", 15_000), (first, "k", 5000)):
        found = [count for word, count in counts.items() if word[0] == choices]
        expected = total / len(found)
        assert max(abs(count - expected) for count in found) < 5 * expected**0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_pairs": 0}, "data.num_pairs=0: must be at least 1."),
        ({"length": 10}, "data.length=10: must be even and at least 12, four for each of data.num_pairs=3."),
        ({"length": 13}, "data.length=13: must be even and at least 12"),
        ({"vocab_size": 7}, "data.vocab_size=7: must be at least 8, for a key and a value of each of data.num_pairs=3"),
        ({"power": 0.0}, "data.power=0.0: must be greater than 0."),
        ({"num_pairs": 1, "length": 4, "vocab_size": 4}, "data.test_size=10: with these options there are too few"),
    ],
)
def test_recall_that_cannot_be_is_refused(tmp_path, options, says):
    with pytest.raises(UserError) as caught:
        recall(tmp_path, **options).fingerprint()
    assert str(caught.value).startswith(says)


def test_recall_stays_what_it_is(tmp_path):
    assert recall(tmp_path).fingerprint() == "570d019aaedf3a0d"


def test_only_answers_are_predicted(tmp_path):
    """From the token before each, which is its key."""
    source = recall(tmp_path, train_size=300)
    tokenizer = build("tokenizer", {"name": "text_symbols", "vocab_size": 37, "min_frequency": 1})
    tokenizer.fit(source.samples("train"))
    task = Answers(dim=8, tokens=tokenizer.spec)
    sample = source.samples("val")[0]
    inputs = tokenizer.encode(sample)
    targets = task.targets.encode(sample, inputs)
    words = sample["text"].split()
    asked = [tokenizer.decode(inputs["ids"][place + 1 : place + 2]) for place in targets["place"]]
    assert asked == [words[place] for place in sample["answers"]]
    assert [tokenizer.decode(inputs["ids"][place : place + 1]) for place in targets["place"]] == [
        words[place - 1] for place in sample["answers"]
    ]
    assert targets["counts"].tolist() == [1, 1, 1]


def test_answers_that_the_tokenizer_does_not_know_are_refused(tmp_path):
    """As one token for all of them, any would be right."""
    source = recall(tmp_path)
    tokenizer = build("tokenizer", {"name": "text_symbols", "vocab_size": 10, "min_frequency": 1})
    tokenizer.fit(source.samples("train"))
    targets = Answers(dim=8, tokens=tokenizer.spec).targets
    refused = 0
    for sample in source.samples("train"):
        inputs = tokenizer.encode(sample)
        unknown = {tokenizer.spec.specials["unk"]} & {int(inputs["ids"][1 + place]) for place in sample["answers"]}
        if not unknown:
            assert targets.encode(sample, inputs)["counts"].tolist() == [1, 1, 1]
            continue
        refused += 1
        with pytest.raises(
            UserError, match=rf"^{sample['id']}: the tokenizer doesn't know its answer at word \d+, and"
        ):
            targets.encode(sample, inputs)
    assert refused


# ---------------------------------------------------------------------------------------------- pathfinder


@pytest.mark.parametrize("contour_length", [6, 9, 14])
def test_two_markers_can_be_seen_in_every_picture(contour_length):
    """Counted by scipy, from pixels that a dash never fills together with its neighbours."""
    for picture in islice(pictures(Pathfinder(contour_length=contour_length).puzzle, 0), 20):
        bright = ndimage.uniform_filter(picture.image.astype(float), 3, mode="constant") > 127
        assert ndimage.label(bright, np.ones((3, 3)))[1] == 2
        assert picture.image.max() == 255


def test_markers_that_cannot_be_seen_are_noticed():
    picture = next(pictures(Pathfinder(contour_length=6).puzzle, 0)).image
    assert count_markers(picture, 1.5) == 2
    assert count_markers(np.minimum(picture, 100), 1.5) == 0
    y, x = np.unravel_index(np.argmax(ndimage.uniform_filter(picture.astype(float), 3)), picture.shape)
    hidden = picture.copy()
    hidden[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 0
    assert count_markers(hidden, 1.5) == 1
    assert count_markers(np.zeros_like(picture), 1.5) == 0


def test_labels_are_those_of_the_curves(monkeypatch):
    """The markers lie where the curves that were grown begin and end."""
    puzzle = Pathfinder(contour_length=9).puzzle
    module = sys.modules["plugformer_synthetic.pathfinder"]
    grow, drawn, curves = module._grow_curves, [], []
    monkeypatch.setattr(module, "_grow_curves", lambda *args: curves.append(grow(*args)) or curves[-1])
    monkeypatch.setattr(module, "draw", lambda lines, *args: drawn.append(lines) or draw(lines, *args))
    for picture in islice(pictures(puzzle, 0), 20):
        markers = {tuple(line[0]) for line in drawn[-1]}
        ends = [{snake.origin, snake.tip} for snake in curves[-1]]
        assert len(markers) == 2
        assert any(markers == each for each in ends) == picture.connected
        assert markers <= ends[0] | ends[1]


def test_curves_keep_their_distance_and_their_dashes():
    """Other than a dash and the next, no two are nearer than the margins, up to the fineness of the ground."""
    puzzle = Pathfinder(contour_length=9).puzzle
    random = Random(0).random
    grown = [curves for _ in range(10) if (curves := _grow_curves(puzzle, random)) is not None]
    assert grown
    for curves in grown:
        distractors = _grow_distractors(puzzle, random, curves[0].ground)
        snakes = [*curves, *distractors]
        assert {len(snake.dashes) for snake in curves} == {9}
        assert {len(snake.dashes) for snake in distractors} <= {3}
        dashes = [
            (number, place, np.array(dash)) for number, s in enumerate(snakes) for place, dash in enumerate(s.dashes)
        ]
        for index, (number, place, dash) in enumerate(dashes):
            assert np.linalg.norm(dash[-1] - dash[0]) == pytest.approx(2)
            assert ((dash >= 1) & (dash <= 31)).all()
            for its_number, its_place, other in dashes[:index]:
                if number != its_number or place - its_place > 1:
                    assert np.linalg.norm(dash[:, None] - other, axis=-1).min() > 2 - 0.5


def test_half_of_the_pictures_are_connected_and_brightness_tells_nothing():
    found = list(islice(pictures(Pathfinder(contour_length=6).puzzle, 1), 300))
    connected = np.array([picture.connected for picture in found])
    assert abs(connected.mean() - 0.5) < 3 * 0.5 / 300**0.5
    brightness = np.array([picture.image.mean() for picture in found])
    difference = brightness[connected].mean() - brightness[~connected].mean()
    assert abs(difference) < 3.5 * brightness.std() * 2 / 300**0.5


def test_a_line_covers_what_it_covers():
    """A horizontal bar two pixels long and half a pixel thick, in the middle of a row of pixels."""
    picture = draw(np.array([[[1.5, 2.0], [1.5, 4.0]]]), 0.5, 6)
    assert picture[1].tolist() == pytest.approx([0, 0.125, 0.5, 0.5, 0.125, 0], abs=0.07)
    assert not picture[[0, 2, 3, 4, 5]].any()
    disc = draw(np.full((1, 2, 2), 3.0), 3.0, 6)
    assert disc.sum() == pytest.approx(np.pi * 1.5**2, rel=0.05)
    assert torch.equal(torch.from_numpy(disc.copy()), torch.from_numpy(disc.T.copy()))
    cut = draw(np.zeros((1, 2, 2)), 3.0, 6)  # at the corner of the picture
    assert cut.sum() == pytest.approx(np.pi * 1.5**2 / 4, rel=0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"contour_length": 1}, "data.contour_length=1: must be at least 2."),
        ({"num_distractors": -1}, "data.num_distractors=-1: must be at least 0."),
        ({"contour_length": 100}, "data.contour_length=100: in 20 pictures of data.image_size=32 there was no room"),
        ({"contrast": 0.0}, "data.contrast=0.0: must be greater than 0."),
        ({"image_size": 8}, "data.contour_length=6: in 20 pictures of data.image_size=8 there was no room"),
    ],
)
def test_pathfinder_that_cannot_be_is_refused(tmp_path, options, says, monkeypatch):
    monkeypatch.setattr("plugformer_synthetic.pathfinder.PATIENCE", 20)
    with pytest.raises(UserError) as caught:
        pathfinder(tmp_path, **options).fingerprint()
    assert str(caught.value).startswith(says)


# ---------------------------------------------------------------------------------------------- experiments

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment" / "long_range").glob("*.yaml"))
MECHANISMS = ("full", "local", "bigbird", "reformer_lsh", "performer", "linear")
# Keys that are the queries need no projection; the feed-forward layers get what that saves.
WIDER = {"listops": ["feed_forward.expansion=2.5"]}


def count(*overrides: str) -> int:
    config = compose(list(overrides))
    return count_parameters(preview(config, source=build("data", config["data"]))[1])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("attention", MECHANISMS[1:])
def test_mechanisms_are_compared_at_matched_parameters(experiment, attention):
    """Within a tenth, as Long Range Arena asks (Tay et al. 2021, section 2.1), by the headers' commands."""
    wider = WIDER.get(experiment, []) if attention == "reformer_lsh" else []
    chosen = f"experiment=long_range/{experiment}"
    found, full = count(chosen, f"attention={attention}", *wider), count(chosen)
    assert found == pytest.approx(full, rel=0.1)
    header = (ROOT / "conf" / "experiment" / "long_range" / f"{experiment}.yaml").read_text()
    assert all(override in header for override in wider)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_vocabulary_is_the_datas(experiment):
    """Symbols, the unknown one, and four special tokens."""
    config = compose([f"experiment=long_range/{experiment}"])
    symbols = {"listops": len(SYMBOLS), "recall": config["data"].get("vocab_size")}.get(config["data"]["name"])
    assert symbols is None or config["tokenizer"]["vocab_size"] == symbols + 5
