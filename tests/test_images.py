"""What is read from image files, whatever way they are written, and from folders of them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from plugformer.data import scan
from plugformer.errors import UserError
from plugformer_vision.image_files import IMAGE
from plugformer_vision.image_folder import ImageFolder
from plugformer_vision.images import image_shape, read_image

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY, OPACITY = COLOUR[..., 0], COLOUR[..., 1]


def written(folder, image, suffix="png", **options):
    path = folder / f"image.{suffix}"
    image.save(path, **options)
    return path


def palette():
    return Image.fromarray(COLOUR).quantize(8)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.fromarray(GREY), {}, GREY),
        (Image.fromarray(GREY > 99), {}, np.where(GREY > 99, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + OPACITY), {}, GREY),
        (Image.fromarray(np.dstack([GREY, OPACITY]), "LA"), {}, GREY),
        (Image.fromarray(COLOUR), {}, COLOUR),
        (Image.fromarray(np.dstack([COLOUR, OPACITY]), "RGBA"), {}, COLOUR),
        (palette(), {}, np.array(palette().convert("RGB"))),
        (palette(), {"transparency": bytes([0, 255, 128])}, np.array(palette().convert("RGB"))),
    ],
    ids=["grey", "1-bit", "16-bit", "grey-alpha", "colour", "colour-alpha", "palette", "palette-alpha"],
)
def test_every_kind_of_png_keeps_its_pixels(tmp_path, image, options, expected):
    path = written(tmp_path, image, **options)
    found = read_image(path)
    expected = expected.reshape(6, 8, -1).transpose(2, 0, 1)
    assert (found.dtype.itemsize, tuple(found.shape)) == (1, expected.shape)
    assert np.array_equal(found.numpy(), expected)
    assert image_shape(path) == expected.shape


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpegs_are_grey_or_colour(tmp_path, mode, suffix):
    path = written(tmp_path, Image.fromarray(COLOUR).convert(mode), suffix)
    assert image_shape(path) == tuple(read_image(path).shape) == (1 if mode == "L" else 3, 6, 8)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, suffix):
    path = written(tmp_path, Image.fromarray(COLOUR.repeat(8, 0).repeat(8, 1)), suffix)
    whole = path.read_bytes()
    for share in (0.0, 0.02, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            UserError, match=rf"image\.{suffix}: (not an image that can be read|an image that can't be)"
        ):
            read_image(path)
    path.unlink()
    with pytest.raises(UserError, match=rf"image\.{suffix}: no such file\."):
        read_image(path)


# ---------------------------------------------------------------------------------------------- in folders


def fill(folder, *, count=4, suffix="png", labels=("cat", "dog")):
    for number in range(count * len(labels)):
        path = folder / labels[number % len(labels)] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(COLOUR, number)).save(path)
    return folder


def test_suffixes_may_be_in_capitals(tmp_path):
    for suffix in ("PNG", "JPG", "Jpeg"):
        fill(tmp_path, suffix=suffix)
    source = ImageFolder(root=tmp_path)
    source.verify()
    assert sum(len(source.samples(split)) for split in ("train", "val", "test")) == 24


def test_a_bad_file_says_nothing_of_the_others_even_if_it_is_the_first(tmp_path):
    (fill(tmp_path) / "cat" / "0.png").write_text("not an image")
    source = ImageFolder(root=tmp_path, bad_files="skip", val_fraction=0.25, test_fraction=0.25)
    assert source.spec.image == (3, 6, 8)
    with pytest.warns(UserWarning, match="1 of 8 files can't be used"):
        source.verify()
    ids = {sample["id"] for split in ("train", "val", "test") for sample in source.samples(split)}
    assert len(ids) == 7
    assert "cat/0.png" not in ids


def test_a_folder_that_was_verified_is_not_decoded_again(tmp_path, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} is decoded")

    monkeypatch.setattr(scan, "LONG", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fill(tmp_path / "images")
    ImageFolder(root=tmp_path / "images").verify()
    monkeypatch.setattr(ImageFolder, "medium", replace(IMAGE, inspect=refuse))
    ImageFolder(root=tmp_path / "images").verify()
    (tmp_path / "images" / "cat" / "0.png").touch()
    with pytest.raises(AssertionError, match=r"cat.0\.png is decoded"):
        ImageFolder(root=tmp_path / "images").verify()


def test_a_class_seen_in_the_test_alone_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", labels=("cat", "dog", "owl"))
    with pytest.raises(UserError, match="the folder train has no file of owl that can be used, so it can't be learned"):
        ImageFolder(root=tmp_path, val_fraction=0.25).samples("train")


def test_all_files_bad_is_told_as_such(tmp_path):
    for path in fill(tmp_path).rglob("*.png"):
        path.write_text("not an image")
    with pytest.raises(UserError, match=r"cat.0\.png: not an image that can be read"):
        _ = ImageFolder(root=tmp_path).spec


def test_without_training_files_nothing_is_drawn_from_the_given_test(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split)
    for path in (tmp_path / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="the folder train holds no file that can be used"):
        ImageFolder(root=tmp_path).samples("train")


def test_fingerprint_of_a_folder_is_of_contents_names_and_splits(tmp_path):
    def fingerprint(**options):
        return ImageFolder(root=tmp_path, val_fraction=0.25, test_fraction=0.25, **options).fingerprint()

    fill(tmp_path)
    first = fingerprint()
    (tmp_path / "cat" / "0.png").touch()
    (tmp_path / ".hidden").write_text("")
    assert fingerprint() == first
    assert fingerprint(split_seed=1) != first
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "00.png")
    assert fingerprint() != first
    (tmp_path / "cat" / "00.png").rename(tmp_path / "cat" / "0.png")
    assert fingerprint() == first
    Image.fromarray(COLOUR // 2).save(tmp_path / "cat" / "0.png")
    assert fingerprint() != first


def photographed(root):
    """Four pictures of each of ten animals of both classes."""
    for label in ("cat", "dog"):
        (root / label).mkdir()
        for number in range(40):
            Image.fromarray(GREY).save(root / label / f"{label}{number // 4}_{number}.png")
    return root


def test_a_group_stands_in_one_split_alone(tmp_path):
    source = ImageFolder(root=photographed(tmp_path), group="[^/]*(?=_)")
    ids = {split: [sample["id"] for sample in source.samples(split)] for split in ("train", "val", "test")}
    animals = {split: {each.split("_")[0] for each in names} for split, names in ids.items()}
    assert sum(map(len, ids.values())) == 80
    assert sum(map(len, animals.values())) == len(set.union(*animals.values())) == 20
    by_class = ImageFolder(root=tmp_path)
    drawn = [{sample["id"].split("_")[0] for sample in by_class.samples(split)} for split in ("train", "test")]
    assert drawn[0] & drawn[1]


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("[", r"data\.group=\[: not a regular expression"),
        ("bird", r"data\.group=bird: finds nothing in cat/cat0_0\.png, so the file has no group"),
        ("^[^/]*", r"2 groups can't be split into train, val, test"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path, group, says):
    with pytest.raises(UserError, match=says):
        ImageFolder(root=photographed(tmp_path), group=group).samples("train")


def test_a_class_must_be_trained_on(tmp_path):
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(GREY).save(path)
    told = set()
    for seed in range(8):
        try:
            trained = ImageFolder(root=tmp_path, group="[^/]*$", split_seed=seed).samples("train")
        except UserError as error:
            told.add(str(error).splitlines()[0])
        else:
            assert {sample["label"] for sample in trained} == {0, 1}
    assert told == {"data.group=[^/]*$: all groups of dog are held out."}
