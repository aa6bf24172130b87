"""Images and their captions: each its own, no caption and no image on two sides of a split, and what is refused."""

import json
import shutil

import pytest
import torch
from PIL import Image

from plugformer.data.phrases import letters
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.comparing import noise
from plugformer_vision.digits import WORDS
from plugformer_vision.images import read_image


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)


def picture(path, number, *, width=8):
    pixels = noise(8, width, 3, seed=number).mul(60).add(128).clamp(0, 255).byte()
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture
def rows(tmp_path):
    """Twenty images of four captions each, two of which they share with their neighbours."""
    for number in range(20):
        picture(tmp_path / f"images/{number}.png", number)
    return [
        {"path": f"images/{number}.png", "text": text, "by": f"p{number % 5}"}
        for number in range(20)
        for text in (f"A noise {number}.", f"Number {number}", f"Pair {number // 2}", f"pair {number // 2}!")
    ]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return [path.name]


def source(**options):
    return build("data", {"name": "image_text", **options})


def everything(made):
    made.verify()
    return [sample for split in SPLITS for sample in made.samples(split)]


def test_a_sample_is_what_its_row_says(tmp_path, rows):
    made = source(paths=write(tmp_path / "t.jsonl", [row for row in rows if "!" not in row["text"]]))
    assert made.spec.keys == {"id", "image", "target_text", "group"}
    assert made.spec.image == (3, 8, 8)
    samples = {sample["id"]: sample for sample in everything(made)}
    assert len(samples) == 60
    for number, row in enumerate([row for row in rows if "!" not in row["text"]]):
        sample = samples[f"t.jsonl:{number + 1}"]
        assert sample["target_text"] == row["text"]
        assert torch.equal(sample["image"], read_image(tmp_path / row["path"]))


def test_captions_beside_images_are_found_by_their_names(tmp_path, rows):
    for number in range(20):
        lines = [f"A noise {number}.", f"es.utf8=Un ruido {number}."]
        (tmp_path / f"images/{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    for line, caption in {1: "A noise {}.", "es.utf8={text}": "Un ruido {}."}.items():
        made = source(root="images", file="{name}.png", text_line=line)
        found = {sample["id"]: sample["target_text"] for sample in everything(made)}
        assert found == {f"{number}.png": caption.format(number) for number in range(20)}


def test_no_caption_and_no_image_stands_in_two_splits(tmp_path, rows):
    copies = [{"path": f"copy {number}.png", "text": f"A copy {number}."} for number in (3, 8)]
    for number, copy in zip((3, 8), copies, strict=True):
        shutil.copy(tmp_path / f"images/{number}.png", tmp_path / copy["path"])
    shares = {"val_fraction": 0.3, "test_fraction": 0.3}
    for seed in range(6):
        made = source(paths=write(tmp_path / "t.jsonl", [*rows, *copies]), split_seed=seed, **shares)
        with pytest.warns(UserWarning, match=r"20 image files are copies of others, and count once\.$"):
            samples = everything(made)
        assert len(samples) == 62, "`pair 3!` says nothing new of an image that is `Pair 3`"
        for key in (lambda s: letters(s["target_text"]), lambda s: s["image"].numpy().tobytes()):
            held = [set(map(key, made.samples(split))) for split in SPLITS]
            assert all(held)
            assert sum(map(len, held)) == len(set.union(*held))


def test_a_column_may_group_them_instead(tmp_path, rows):
    made = source(paths=write(tmp_path / "t.jsonl", rows[::4]), group_column="by")
    held = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
    assert sum(map(len, held)) == len(set.union(*held)) == 5


def test_the_fingerprint_is_of_images_captions_and_splits(tmp_path, rows):
    first = source(paths=write(tmp_path / "t.jsonl", rows)).fingerprint()
    assert source(paths=["t.jsonl"]).fingerprint() == first
    assert source(paths=["t.jsonl"], split_seed=1).fingerprint() != first
    rows[5]["text"] = "Another."
    second = source(paths=write(tmp_path / "t.jsonl", rows)).fingerprint()
    assert second != first
    picture(tmp_path / "images/7.png", 99)
    assert source(paths=["t.jsonl"]).fingerprint() not in (first, second)


def test_bad_images_are_named_by_their_lines_and_may_be_left_out(tmp_path, rows):
    (tmp_path / "images/0.png").write_bytes(b"no image")
    (tmp_path / "images/1.png").write_bytes((tmp_path / "images/2.png").read_bytes()[:100])
    paths = write(tmp_path / "t.jsonl", rows[::4])
    with pytest.raises(
        UserError, match=r"2 of 20 files can't be used\.\n  .*t\.jsonl:1: .*0\.png: not an image.*\n.*:2: "
    ):
        source(paths=paths).verify()
    made = source(paths=paths, bad_files="skip")
    assert made.spec.image == (3, 8, 8)
    with pytest.warns(UserWarning, match=r"2 of 20 files"):
        assert len(everything(made)) == 18
    (tmp_path / "images/3.png").unlink()
    with pytest.raises(
        UserError, match=r"image files that aren't there \(1\)\.\n  .*t\.jsonl:4: .*images/3\.png\n.*data\.root"
    ):
        source(paths=paths).verify()


def test_images_may_have_several_sizes(tmp_path, rows):
    picture(tmp_path / "images/5.png", 5, width=12)
    made = source(paths=write(tmp_path / "t.jsonl", rows[::4]))
    assert {tuple(sample["image"].shape) for sample in everything(made)} == {(3, 8, 8), (3, 8, 12)}


def test_a_digit_is_written_as_its_word():
    digits = build("data", {"name": "digits"})
    assert "target_text" in digits.spec.keys
    seen = {(sample["label"], sample["target_text"]) for split in SPLITS for sample in digits.samples(split)}
    assert seen == set(enumerate(WORDS))
