"""Few labels: a share of the training samples, the same for all runs, and nothing else."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from tests.helpers import quick_config
from tests.prepared import PREPARED

from plugformer.assemble import load_run
from plugformer.data.share import take_share
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.settings import LoaderSettings
from plugformer.train import evaluate as evaluations
from plugformer.train import run as runs
from plugformer.train.run import train, used_samples

SHARES = (0.01, 0.05, 0.1, 0.5, 0.99)
LABELS = [0] * 100 + [1] * 40 + [2] * 3 + [3]
MANY = [{"id": str(n), "label": LABELS[n * 89 % len(LABELS)]} for n in range(len(LABELS))]  # in no order of labels


def take(share: float, *, seed: int = 0, labelled: bool = True) -> list[str]:
    return [sample["id"] for sample in take_share(MANY, share=share, seed=seed, labelled=labelled)]


# ---------------------------------------------------------------------------------------------- which samples


@pytest.mark.parametrize("labelled", [True, False])
def test_a_greater_share_holds_all_that_a_smaller_one_does(labelled):
    taken = [take(share, labelled=labelled) for share in (*SHARES, 1.0)]
    for smaller, greater in pairwise(taken):
        assert set(smaller) < set(greater)
    assert taken[-1] == [sample["id"] for sample in MANY]


@pytest.mark.parametrize("share", SHARES)
def test_each_class_keeps_its_share_and_at_least_one_sample(share):
    label = {sample["id"]: sample["label"] for sample in MANY}
    counts = Counter(label[name] for name in take(share))
    assert counts == {own: max(1, round(share * count)) for own, count in Counter(LABELS).items()}


def test_unlabelled_samples_are_not_read():
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

        def __iter__(self):
            raise AssertionError("was read")

    samples = Counted(MANY)
    assert len(take_share(samples, share=0.1, seed=0, labelled=False)) == 14
    assert samples.reads < 10  # which checking the annotations takes


@pytest.mark.parametrize("name", ["image_folder", "torchvision", "audio_folder", "audio_csv", "speech_commands", "hf"])
def test_files_are_not_read_for_their_labels(tmp_path, monkeypatch, name):
    source = build("data", {"name": name, **PREPARED["data", name](tmp_path)})
    source.verify()
    samples = source.samples("train")
    labels = [sample["label"] for sample in samples]
    reads, read = [], type(samples).__getitem__
    monkeypatch.setattr(type(samples), "__getitem__", lambda self, index: reads.append(index) or read(self, index))
    taken = take_share(samples, share=0.5, seed=0, labelled=True)
    assert len(reads) < len(samples)  # checking the annotations takes some
    assert {sample["label"] for sample in taken} == set(labels)
    assert len(taken) == sum(max(1, round(0.5 * count)) for count in Counter(labels).values())


def test_all_samples_stay_what_they_are():
    assert take_share(MANY, share=1.0, seed=0, labelled=True) is MANY


def test_the_seed_decides_and_the_order_stays():
    assert take(0.1) == take(0.1) != take(0.1, seed=1)
    assert take(0.1) == sorted(take(0.1), key=int)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    take(0.1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_share": 0.0}, "^loader.train_share=0.0: must be greater than 0 and at most 1.$"),
        ({"train_share": 1.5}, "^loader.train_share=1.5: must be greater than 0 and at most 1.$"),
        ({"train_share": float("nan")}, "^loader.train_share=nan: must be greater than 0 and at most 1.$"),
        (
            {"train_share_seed": 2},
            "^loader.train_share_seed=2: has no effect, because all training samples are used.\n"
            "  Set loader.train_share, as in loader.train_share=0.1.$",
        ),
    ],
)
def test_shares_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LoaderSettings(**options)


# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("share") / "run"
    config = quick_config(f"run_dir={path}", "loader.train_share=0.1")
    train(config)
    return path, config


def test_a_run_learns_from_its_share_alone(run):
    path, config = run
    tokenizer, _ = load_run(path, config, checkpoint="best")
    used = {split: used_samples(build("data", config["data"]), split, config) for split in SPLITS}
    pixels = torch.stack([sample["image"] for sample in used["train"]]).double() / 255
    assert tokenizer.mean == pytest.approx([pixels.mean().item()])
    assert tokenizer.std == pytest.approx([pixels.std(correction=0).item()])
    written = json.loads((path / "data.json").read_text())
    assert written["samples"] == {split: len(samples) for split, samples in used.items()}
    assert written["samples"] == {"train": 126, "val": 179, "test": 359}


def test_validation_and_test_stay_as_they_are(run):
    _, config = run
    source = build("data", config["data"])
    for split in ("val", "test"):
        whole, used = source.samples(split), used_samples(source, split, config)
        assert [sample["id"] for sample in whole] == [sample["id"] for sample in used]


def test_runs_of_other_seeds_and_models_share_their_samples(run):
    _, config = run
    source = build("data", config["data"])
    used = [sample["id"] for sample in used_samples(source, "train", config)]
    same = quick_config("loader.train_share=0.1", "seed=7", "backbone.num_layers=2", "run_dir=x")
    assert [sample["id"] for sample in used_samples(source, "train", same)] == used
    other = quick_config("loader.train_share=0.1", "loader.train_share_seed=7", "run_dir=x")
    assert [sample["id"] for sample in used_samples(source, "train", other)] != used


def test_the_fingerprint_tells_the_share(tmp_path, run):
    path, config = run
    source = build("data", config["data"])
    samples = {split: source.samples(split) for split in SPLITS}
    prints = {json.loads((path / "data.json").read_text())["fingerprint"]}
    for name, overrides in {
        "all": [],
        "more": ["loader.train_share=0.2"],
        "other": ["loader.train_share=0.1", "loader.train_share_seed=1"],
    }.items():
        other = quick_config(f"run_dir={tmp_path / name}", *overrides)
        prints.add(runs.describe_data(other, source, samples)["fingerprint"])
    assert len(prints) == 4
    assert source.fingerprint() in prints


def spied(monkeypatch, module, name, look):
    """Its function, which first shows what it is given."""
    function = getattr(module, name)

    def shows(*given, **options):
        look(*given, **options)
        return function(*given, **options)

    monkeypatch.setattr(module, name, shows)


def test_overfitting_learns_the_first_batches_of_the_share(tmp_path, monkeypatch, run):
    _, config = run
    seen = []
    spied(monkeypatch, runs, "describe_data", lambda config, source, samples: seen.append(samples))
    train(quick_config(f"run_dir={tmp_path / 'run'}", "loader.train_share=0.1", "trainer.overfit_batches=2"))
    used = used_samples(build("data", config["data"]), "train", config)
    first = [used[index]["id"] for index in range(32)]
    assert all([sample["id"] for sample in seen[0][split]] == first for split in SPLITS)


def test_evaluation_on_train_is_of_the_samples_that_were_learned_from(monkeypatch, run):
    path, config = run
    sizes = []
    spied(monkeypatch, evaluations, "make_loader", lambda samples, **_: sizes.append(len(samples)))
    for split in ("train", "val"):
        evaluations.evaluate(path, config, split=split, checkpoint="best")
    assert sizes == [126, 179]


def test_streamed_data_is_refused_as_ever(run):
    _, config = run

    class Streamed:
        spec = build("data", config["data"]).spec

        def samples(self, split):
            return iter(())

    with pytest.raises(UserError, match="streams its samples"):
        used_samples(Streamed(), "train", config)
