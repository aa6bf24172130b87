"""Torchvision's named data sets, from files in their published layouts."""

import re
from itertools import chain
from pathlib import Path

import pytest
import torch
from tests.torchvision_files import WRITERS, aircraft, dtd, idx, imagenette, mnist, pixels
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor

from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer_vision.torchvision_data import Torchvision
from plugformer_vision.torchvision_sets import SETS

CHECKSUMS = ("cifar", "svhn", "stl10", "flowers102", "semeion")


@pytest.fixture(autouse=True)
def unknown_checksums(monkeypatch):
    """Files of ours can't have the published ones' checksums; all else is checked as ever."""
    for module in CHECKSUMS:
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5: Path(path).is_file())


def written(folder, name):
    WRITERS[name](folder)
    return Torchvision(dataset=name, root=folder)


def test_every_set_is_tried():
    assert WRITERS.keys() == SETS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_samples_are_torchvisions(tmp_path, name):
    source = written(tmp_path, name)
    source.verify()
    facts, spec, seen = SETS[name], source.spec, {}
    assert len(spec.labels) >= 2
    for split in SPLITS:
        samples = source.samples(split)
        assert len(samples) > 0
        for sample in samples:
            assert sample["id"] not in seen, "a sample is in two splits"
            seen[sample["id"]] = (sample["image"], spec.labels[sample["label"]])
            assert spec.image in (None, tuple(sample["image"].shape))
    theirs = []
    given = {facts.argument: next(iter(facts.variants.values()))} if facts.variants else {}
    if name == "SEMEION":  # else it would
        given = {"download": False}
    for arguments in facts.splits.values():
        part = getattr(datasets, name)(tmp_path, **arguments, **given)
        labels = spec.labels if isinstance(facts.labels, tuple) else getattr(part, "classes", None) or part.categories
        assert len(labels) == len(spec.labels)
        for image, label in part:
            title = labels[label] if isinstance(labels[label], str) else labels[label][0]
            theirs.append((pil_to_tensor(image), title))
    ours = sorted((image.tobytes(), title) for image, title in ((i.numpy(), t) for i, t in seen.values()))
    assert ours == sorted((image.numpy().tobytes(), title) for image, title in theirs)


@pytest.mark.parametrize("name", ["MNIST", "EuroSAT", "Imagenette", "Flowers102"])
def test_its_own_splits_stay_and_missing_ones_are_drawn_from_train(tmp_path, name):
    source = written(tmp_path, name)
    own = {split: len(source._parts[split]) for split in SETS[name].splits}
    sizes = {split: len(source.samples(split)) for split in SPLITS}
    for split, share in {"val": 0.1, "test": 0.2}.items():
        assert sizes[split] == own.get(split, share * own["train"])
    assert sizes["train"] == own["train"] - sum(sizes[split] for split in ("val", "test") if split not in own)
    for split in {"val", "test"} - own.keys():
        counts = torch.tensor([sample["label"] for sample in source.samples(split)]).bincount()
        assert counts.max() - counts.min() <= 1, "not drawn class by class"


def test_photos_of_one_sign_are_never_divided(tmp_path):
    source, of = written(tmp_path, "GTSRB"), {}
    for split in ("train", "val"):
        for sample in source.samples(split):
            assert of.setdefault(sample["id"].rpartition("_")[0], split) == split


def test_drawn_splits_are_the_split_seeds(tmp_path):
    mnist(tmp_path)
    sources = [Torchvision(dataset="MNIST", root=tmp_path, split_seed=seed) for seed in (0, 0, 1)]
    first, same, other = ([sample["id"] for sample in source.samples("val")] for source in sources)
    assert first == same != other
    assert sources[0].fingerprint() == sources[1].fingerprint() != sources[2].fingerprint()
    tests = [[sample["id"] for sample in source.samples("test")] for source in sources]
    assert tests[0] == tests[2]
    assert len(tests[0]) == 20, "the files of the test hold 20"


@pytest.mark.parametrize("name", ["MNIST", "EuroSAT"])
def test_fingerprint_is_of_the_contents(tmp_path, name):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = written(tmp_path / "a", name), written(tmp_path / "b", name)
    second.verify()  # which remembers what it read
    assert first.fingerprint() == second.fingerprint(), "wherever they lie"
    changed = next(path for path in sorted((tmp_path / "b").rglob("*")) if path.is_file())
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    assert Torchvision(dataset=name, root=tmp_path / "b").fingerprint() != first.fingerprint()


@pytest.mark.parametrize("name", [name for name, facts in SETS.items() if facts.labels is not None])
def test_what_is_known_is_known_without_files(tmp_path, name):
    before = Torchvision(dataset=name, root=tmp_path / "nowhere").spec
    assert written(tmp_path, name).spec == before


def test_variants(tmp_path):
    dtd(tmp_path, partition=3)
    aircraft(tmp_path, level="family", levels="families")
    imagenette(tmp_path, folder="imagenette2-160")
    mnist(tmp_path, name="EMNIST", prefix="emnist-letters-{}-", classes=26, first=1)
    for name, variant in [("DTD", "3"), ("FGVCAircraft", "family"), ("Imagenette", "160px"), ("EMNIST", "letters")]:
        source = Torchvision(dataset=name, root=tmp_path, variant=variant)
        source.verify()
        assert len(source.samples("test")) > 0
    assert source.spec.labels == tuple("abcdefghijklmnopqrstuvwxyz"), "letters are numbered from 1"
    assert {sample["label"] for sample in source.samples("train")} == set(range(26))
    with pytest.raises(UserError, match=r"DTD: files at .*dtd are missing or damaged .*train1.txt"):
        Torchvision(dataset="DTD", root=tmp_path).verify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar10"}, r"data.dataset=cifar10: no such data .* Did you mean CIFAR10\?"),
        ({"dataset": "MINST"}, r"Did you mean MNIST\?\n  Possible: CIFAR10, CIFAR100, "),
        ({"dataset": "CocoDetection"}, r"data.dataset=CocoDetection: no such data for the classification of images"),
        ({"dataset": "EMNIST", "variant": "leters"}, r"variant=leters: EMNIST has no such variant. .* mean letters\?"),
        ({"dataset": "MNIST", "variant": "letters"}, r"variant=letters: MNIST comes in one form only"),
        (
            {"dataset": "StanfordCars", "download": True},
            r"can't fetch StanfordCars; bring its files to .*stanford_cars",
        ),
        ({"dataset": "MNIST", "val_fraction": 1.5}, r"data.val_fraction=1.5: must be at least 0 and less than 1"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Torchvision(root=tmp_path, **options)


@pytest.mark.parametrize("name", SETS)
def test_missing_files_are_told_where_they_belong_and_nothing_is_made(tmp_path, name):
    source = Torchvision(dataset=name, root=tmp_path / "data")
    place = re.escape(str(tmp_path / "data" / SETS[name].place))
    fetch = "data.download=true" if SETS[name].downloads else "can't fetch them"
    with pytest.raises(UserError, match=rf"data.dataset={name}: no files at {place}.\n.*{fetch}"):
        source.verify()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_empty_is_missing_or_damaged(tmp_path, name):
    place = tmp_path / SETS[name].place.replace("*", "")
    place.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"(?s)data.dataset={name}.*"):
        Torchvision(dataset=name, root=tmp_path).verify()


def test_damaged_arrays_are_told(tmp_path):
    mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for damaged in (whole[:-7], whole[:3], b"", b"not what it should be", whole.replace(b"\x08", b"\x07", 1)):
        images.write_bytes(damaged)
        with pytest.raises(UserError, match=r"data.dataset=MNIST: files at .*raw are missing or damaged \("):
            Torchvision(dataset="MNIST", root=tmp_path).verify()
    images.write_bytes(whole)
    kept = labels.read_bytes()
    idx(labels, pixels(13) % 10)
    with pytest.raises(UserError, match=r"train has 100 images and 13 labels"):
        Torchvision(dataset="MNIST", root=tmp_path).verify()
    idx(labels, pixels(100) % 10 + 3)
    with pytest.raises(UserError, match=r"train has labels that stand for no class \(\d\).\n  10\n"):
        Torchvision(dataset="MNIST", root=tmp_path).verify()
    idx(labels, pixels(100) % 9)
    with pytest.raises(UserError, match=r"train has no row labelled 9, so it can't be learned"):
        Torchvision(dataset="MNIST", root=tmp_path).verify()
    labels.write_bytes(kept)
    Torchvision(dataset="MNIST", root=tmp_path).verify()


def test_damaged_files_are_named(tmp_path):
    source = written(tmp_path, "GTSRB")
    folder = tmp_path / "gtsrb" / "GTSRB" / "Training"
    (folder / "00001" / "00000_00000.ppm").write_bytes(b"")
    (folder / "00002" / "00000_00000.ppm").write_text("text")
    (folder.parent / "Final_Test" / "Images" / "3.ppm").unlink()
    with pytest.raises(
        UserError,
        match=r"train has files that can't be used \(2\).\n.*1/00000_00000.ppm: not an .*\n.*2/00000_00000.ppm",
    ):
        source.verify()
    for label in ("00001", "00002"):
        (folder / label / "00000_00000.ppm").unlink()
    with pytest.raises(UserError, match=r"test has files that can't be used \(1\).\n.*3.ppm: no such file"):
        Torchvision(dataset="GTSRB", root=tmp_path).verify()


def test_an_image_that_is_cut_off_is_named(tmp_path):
    source = written(tmp_path, "EuroSAT")
    samples = [source.samples(split) for split in SPLITS]
    cut = tmp_path / "eurosat" / "2750" / "River" / "8_3.jpg"
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(
        UserError, match=r"2750/River/8_3.jpg: an image that can't be decoded \(image file is truncated"
    ):
        source.verify()
    with pytest.raises(
        UserError, match=r"2750/River/8_3.jpg: an image that can't be decoded \(image file is truncated"
    ):
        list(chain(*samples))


def test_other_classes_are_told(tmp_path):
    source = written(tmp_path, "EuroSAT")
    (tmp_path / "eurosat" / "2750" / "River").rename(tmp_path / "eurosat" / "2750" / "Lake")
    with pytest.raises(UserError, match=r"other classes than EuroSAT: lacking River; unknown Lake"):
        source.verify()


def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: asked.append(self.root) or mnist(tmp_path))
    with pytest.raises(UserError, match="no files at"):
        Torchvision(dataset="MNIST", root=tmp_path).verify()
    assert not asked
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match="are missing or damaged"):
        Torchvision(dataset="MNIST", root=tmp_path).verify()
    assert not asked
    source = Torchvision(dataset="MNIST", root=tmp_path, download=True)
    assert source.spec.labels, "known without fetching"
    assert not asked
    source.verify()
    assert len(asked) == 2

    def fails(self):
        raise OSError("no way out")

    monkeypatch.setattr(datasets.MNIST, "download", fails)
    with pytest.raises(UserError, match=r"data.download=true: MNIST can't be fetched to .* \(OSError: no way out\)"):
        Torchvision(dataset="MNIST", root=tmp_path / "other", download=True).verify()
