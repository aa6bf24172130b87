"""Images: patches as tokens, and data of digits and of folders."""

import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.testing.comparing import draws_nothing
from plugformer.testing.tokenizer import TokenizerSuite
from plugformer_vision.digits import Digits
from plugformer_vision.image_folder import ImageFolder
from plugformer_vision.images import read_image
from plugformer_vision.vit_patch import VitPatch

AUGMENTATION = {"RandomRotation": {"degrees": 20}, "RandomHorizontalFlip": {"p": 0.5}}


def images(count=4, channels=3, height=10, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return [
        {"id": f"image {n}", "image": image}
        for n, image in enumerate(torch.randint(256, shape, generator=generator, dtype=torch.uint8))
    ]


def fitted(samples, **options):
    tokenizer = VitPatch(**options)
    tokenizer.fit(samples)
    return tokenizer


# ---------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(("patch_size", "overlap"), [(2, 0), (4, 2), (4, 1), (7, 4), (1, 0)])
def test_patches_are_a_convolution(patch_size, overlap):
    samples = images()
    tokenizer = fitted(samples, patch_size=patch_size, overlap=overlap)
    embedding = tokenizer.embedding(dim=8)
    batch = tokenizer.collate([tokenizer.encode(sample) for sample in samples])
    tokens = embedding(batch)
    mean, std = (torch.tensor(values)[:, None, None] for values in (tokenizer.mean, tokenizer.std))
    weight = embedding.projection.weight.view(8, 3, patch_size, patch_size)
    expected = F.conv2d((batch["image"] / 255 - mean) / std, weight, embedding.projection.bias, patch_size - overlap)
    assert tokenizer.spec.grid.shape == tuple(expected.shape[2:])
    assert tokenizer.spec.token_dim == 3 * patch_size**2
    torch.testing.assert_close(tokens.embeddings, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    rows, columns = tokens.layout.coordinates[0].unbind(-1)
    torch.testing.assert_close(tokens.embeddings, expected[:, :, rows, columns].transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_fitted_statistics_are_those_of_torch():
    tokenizer = fitted(images())
    pixels = torch.stack([sample["image"] for sample in images()]).double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor(tokenizer.mean).double(), pixels.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(tokenizer.std).double(), pixels.std(1, correction=0), atol=1e-6, rtol=0)


def test_a_constant_channel_stays_finite():
    dark = [{"image": torch.zeros(1, 4, 4, dtype=torch.uint8)}]
    tokenizer = fitted(dark)
    assert tokenizer.embedding(dim=4)(tokenizer.collate([tokenizer.encode(dark[0])])).embeddings.isfinite().all()


def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path):
    first, second = fitted(images(), patch_size=2), VitPatch(patch_size=2)
    first.save(tmp_path)
    second.load(tmp_path)
    assert (first.spec, first.mean, first.std) == (second.spec, second.mean, second.std)
    assert torch.equal(first.encode(images()[0])["image"], second.encode(images()[0])["image"])
    assert first.example()["image"].shape == second.example()["image"].shape == (3, 10, 16)


def test_assumed_shapes_are_the_fitted_ones():
    assumed = VitPatch(patch_size=2)
    assumed.assume(DataSpec(frozenset({"image"}), image=(3, 10, 16)))
    assert assumed.spec == fitted(images(), patch_size=2).spec


def test_augmentation_follows_torchs_seed_and_happens_on_demand():
    tokenizer, sample = fitted(images(), augmentation=AUGMENTATION), images()[0]

    def augmented(seed):
        torch.manual_seed(seed)
        return tokenizer.encode(sample, augment=True)["image"]

    assert torch.equal(augmented(0), augmented(0))
    assert not torch.equal(augmented(0), augmented(1))
    assert torch.equal(tokenizer.encode(sample)["image"], sample["image"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "AutoAugment", "AugMix", "RandomErasing"])
def test_augmentation_policies_go_with_any_channels(name, channels):
    tokenizer, sample = fitted(images(channels=channels), augmentation={name: {}}), images(channels=channels)[0]
    seen = []
    for seed in range(20):
        torch.manual_seed(seed)
        with draws_nothing(but="torch"):
            seen.append(tokenizer.encode(sample, augment=True)["image"])
        assert (seen[-1].shape, seen[-1].dtype) == (sample["image"].shape, torch.uint8)
    assert any(not torch.equal(image, sample["image"]) for image in seen)
    assert torch.equal(sample["image"], images(channels=channels)[0]["image"]), "the sample itself is changed"


# ---------------------------------------------------------------------------------------------- sizes

SHAPES = [(40, 40), (40, 30), (30, 41), (8, 100), (100, 7), (8, 12), (3, 5), (1, 1), (37, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [8, 32])
def test_cropping_is_torchvisions_evaluation(shape, side):
    """The short side brought to the size, then the middle."""
    [sample] = images(1, height=shape[0], width=shape[1])
    tokenizer = fitted([sample], image_size=side, resize="crop")
    expected = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(side)])(sample["image"])
    assert torch.equal(tokenizer.encode(sample)["image"], expected)


def slopes(height, width):
    """From dark to light: downwards in the first channel, to the right in the others."""
    down = torch.linspace(0, 255, height).byte()[:, None].expand(height, width)
    right = torch.linspace(0, 255, width).byte().expand(height, width)
    return {"image": torch.stack([down, right, right])}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(8, 12), (12, 8), (9, 9)])
def test_cropping_keeps_proportions_and_stretching_all(shape, size):
    """Of a slope: what is seen of it, and how steep it is."""
    height, width = shape
    sample = slopes(height, width)
    cropped = fitted([sample], patch_size=1, image_size=size, resize="crop").encode(sample)["image"]
    stretched = fitted([sample], patch_size=1, image_size=size).encode(sample)["image"]
    assert cropped.shape == stretched.shape == (3, *size)
    expected = F.interpolate(sample["image"][None].float(), size, mode="bilinear", antialias=True)[0]
    assert (stretched.float() - expected).abs().max() <= 1
    shares = [min(1, size[0] / size[1] * width / height), min(1, size[1] / size[0] * height / width)]
    if min(shape) < 8:
        return  # too few steps to measure
    spans = [float(cropped[0, -1, 0]) - float(cropped[0, 0, 0]), float(cropped[1, 0, -1]) - float(cropped[1, 0, 0])]
    for span, share, side in zip(spans, shares, size, strict=True):
        assert span == pytest.approx(255 * share * (1 - 1 / side), rel=0.2, abs=8)


def test_images_of_the_right_size_stay_as_they_are():
    for resize in ("stretch", "crop"):
        tokenizer = fitted(images(), image_size=(10, 16), resize=resize)
        assert all(torch.equal(tokenizer.encode(sample)["image"], sample["image"]) for sample in images())


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_what_is_read_is_what_evaluation_sees(tmp_path, resize):
    for mode, size in [("RGB", (20, 33)), ("L", (33, 20)), ("RGBA", (9, 9))]:
        path = draw(tmp_path / f"{mode}.png", mode=mode, size=size)
        tokenizer = fitted(images(), image_size=8, channels=3, resize=resize, random_crop=(0.1, 0.2), **AUGMENTED)
        seen = tokenizer.encode({"id": "x", "image": read_image(path)})["image"]
        assert torch.equal(tokenizer.read(str(path))["image"], seen)
        assert torch.equal(tokenizer.encode(tokenizer.read(str(path)))["image"], seen)


AUGMENTED = {"augmentation": AUGMENTATION, "mixup": 0.2, "cutmix": 1.0}


def test_random_crops_are_torchvisions_of_the_original():
    tokenizer = fitted(images(height=40, width=50), image_size=8, random_crop=(0.08, 1.0))
    reference = v2.RandomResizedCrop(8, scale=(0.08, 1.0), antialias=True)
    for seed, sample in enumerate(images(10, height=40, width=50)):
        torch.manual_seed(seed)
        with draws_nothing(but="torch"):
            varied = tokenizer.encode(sample, augment=True)["image"]
        torch.manual_seed(seed)
        assert torch.equal(varied, reference(sample["image"]))


def test_random_crops_have_the_shares_that_are_set():
    tokenizer = fitted([slopes(128, 128)], image_size=32, random_crop=(0.2, 0.3))
    areas = []
    for seed in range(100):
        torch.manual_seed(seed)
        down, right, _ = tokenizer.encode(slopes(128, 128), augment=True)["image"].float() / 255
        areas.append(float((down[-1, 0] - down[0, 0]) * (right[0, -1] - right[0, 0])) / (1 - 1 / 32) ** 2)
    assert 0.18 < min(areas) < 0.22
    assert 0.28 < max(areas) < 0.32


def test_statistics_are_of_what_evaluation_sees():
    plain = {"image_size": 8, "resize": "crop"}
    first, second = fitted(images(), **plain), fitted(images(), **plain, random_crop=(0.1, 1.0), **AUGMENTED)
    assert (first.mean, first.std) == (second.mean, second.std)
    assert torch.equal(first.encode(images()[0])["image"], second.encode(images()[0])["image"])


def test_images_of_several_kinds_are_brought_to_one_by_option_alone():
    mixed = [*images(2), *images(2, channels=1, height=12, width=12)]
    tokenizer = fitted(mixed, patch_size=4, image_size=8, channels=1)
    assert {tuple(tokenizer.encode(sample)["image"].shape) for sample in mixed} == {(1, 8, 8)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, r"tokenizer.patch_size=0: must be at least 1"),
        ({"image_size": 0}, r"tokenizer.image_size=0: must be at least 1"),
        ({"patch_size": 2, "overlap": 2}, r"tokenizer.overlap=2: must be at least 0 and less than patch_size=2"),
        ({"augmentation": {"RandomRotatoin": {}}}, r"augmentation.RandomRotatoin: no such .* mean RandomRotation\?"),
        ({"augmentation": {"CutMix": {}}}, r"augmentation.CutMix: mixes the images of a batch.*\n.*tokenizer.cutmix="),
        ({"mixup": -1.0}, r"tokenizer.mixup=-1.0: must be greater than 0"),
        ({"cutmix": -1.0}, r"tokenizer.cutmix=-1.0: must be greater than 0"),
        ({"random_crop": (0.0, 1.0)}, r"random_crop=\[0.0, 1.0\]: must be two shares of the area"),
        ({"random_crop": (0.9, 0.1)}, r"random_crop=\[0.9, 0.1\]: must be two shares of the area, the smaller first"),
        ({"random_crop": (0.5, 1.5)}, r"random_crop=\[0.5, 1.5\]: must be .* at most 1"),
        ({"resize": "crop"}, r"tokenizer.resize=crop: images keep their size unless tokenizer.image_size"),
        ({"augmentation": {"RandomRotation": {"angle": 3}}}, r"augmentation.RandomRotation: .*'angle'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VitPatch(**options)


@pytest.mark.parametrize(("patch_size", "overlap"), [(3, 0), (3, 1), (11, 0)])
def test_patches_that_do_not_divide_are_told_all_that_would(patch_size, overlap):
    with pytest.raises(UserError, match=r"doesn't divide an image height of 10 pixels") as caught:
        fitted(images(), patch_size=patch_size, overlap=overlap)
    told = [int(n) for n in re.search(r"would: ([\d, ]+)\.", str(caught.value))[1].split(", ")]
    possible = []
    for size in range(overlap + 1, 11):
        ends = range(size, 11, size - overlap)
        possible += [size] if ends[-1] == 10 else []
    assert told == possible


def test_images_that_differ_are_named():
    with pytest.raises(
        UserError, match=r"image 0 has 12 × 12 pixels, others 10 × 16.\n  Set tokenizer.image_size=SIZE"
    ):
        fitted([*images(2), *images(1, height=12, width=12)])
    with pytest.raises(UserError, match=r"image 0 has 1 channels, others 3.\n  Set tokenizer.channels=1 or"):
        fitted([*images(2), *images(1, channels=1)])
    with pytest.raises(UserError, match="no training images to fit on"):
        fitted([])
    crops = fitted(images(), augmentation={"RandomCrop": {"size": 6}})
    with pytest.raises(UserError, match=r"augmentation changes the image size from \[3, 10, 16\] to \[3, 6, 6\]"):
        crops.encode(images()[0], augment=True)


class TestPatchesOfVariedAndMixedImages(TokenizerSuite):
    name = "vit_patch"
    options: ClassVar = {"image_size": 10, "resize": "crop", "random_crop": (0.2, 0.9), "channels": 3, **AUGMENTED}


# ---------------------------------------------------------------------------------------------- digits


def ids(source):
    return {split: [sample["id"] for sample in source.samples(split)] for split in ("train", "val", "test")}


def test_digits_splits_are_disjoint_complete_and_stratified():
    digits = Digits(val_fraction=0.1, test_fraction=0.2)
    drawn = ids(digits)
    everything = [name for names in drawn.values() for name in names]
    assert len(everything) == len(set(everything)) == 1797
    everywhere = torch.tensor([sample["label"] for split in drawn for sample in digits.samples(split)]).bincount()
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        counts = torch.tensor([sample["label"] for sample in digits.samples(split)]).bincount(minlength=10)
        assert (counts - share * everywhere).abs().max() <= 1


def test_digits_splits_are_the_split_seeds():
    assert ids(Digits(split_seed=3)) == ids(Digits(split_seed=3)) != ids(Digits(split_seed=4))
    assert Digits(split_seed=3).fingerprint() == Digits(split_seed=3).fingerprint() != Digits().fingerprint()


def test_digits_are_what_they_are_said_to_be():
    digits = Digits()
    sample = digits.samples("train")[0]
    assert sample.keys() == digits.spec.keys
    assert (tuple(sample["image"].shape), sample["image"].dtype) == (digits.spec.image, torch.uint8)
    assert (torch.stack([s["image"] for s in digits.samples("val")]).max(), len(digits.spec.labels)) == (255, 10)


# ---------------------------------------------------------------------------------------------- folders


def draw(path, *, mode="RGB", size=(8, 8), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(256, (size[1], size[0], 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).convert(mode).save(path)
    return path


def folder(root, *, classes=("cat", "dog"), count=10, suffix="png"):
    for label, name in enumerate(classes):
        for number in range(count):
            draw(root / name / f"{number}.{suffix}", seed=100 * label + number)
    return root


def test_drawn_splits_are_disjoint_complete_and_labelled(tmp_path):
    source = ImageFolder(root=folder(tmp_path))
    source.verify()
    drawn = ids(source)
    assert {split: len(names) for split, names in drawn.items()} == {"train": 14, "val": 2, "test": 4}
    assert len({name for names in drawn.values() for name in names}) == 20
    for split in drawn:
        for sample in source.samples(split):
            assert source.spec.labels[sample["label"]] == sample["id"].partition("/")[0]


def test_given_splits_are_taken_and_a_missing_one_drawn_from_train(tmp_path):
    for split in ("train", "test"):
        folder(tmp_path / split)
    drawn = ids(ImageFolder(root=tmp_path))
    assert {name.partition("/")[0] for name in drawn["test"]} == {"test"}
    assert {name.partition("/")[0] for name in drawn["train"] + drawn["val"]} == {"train"}
    assert [len(names) for names in drawn.values()] == [18, 2, 20]
    assert not set(drawn["train"]) & set(drawn["val"])


def test_folders_that_hold_no_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        ImageFolder(root=tmp_path / "nowhere").samples("train")
    with pytest.raises(UserError, match=r"at least two classes, found none"):
        ImageFolder(root=tmp_path).samples("train")
    folder(tmp_path, classes=("cat",))
    with pytest.raises(UserError, match=r"at least two classes, found only cat"):
        ImageFolder(root=tmp_path).samples("train")
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match=r"no files in the class folders dog"):
        ImageFolder(root=tmp_path).samples("train")


def test_every_bad_file_is_named_or_left_out(tmp_path):
    folder(tmp_path, suffix="jpg")
    truncated = draw(tmp_path / "cat" / "truncated.jpg", size=(64, 64))
    truncated.write_bytes(truncated.read_bytes()[:-500])
    (tmp_path / "dog" / "text.png").write_text("not an image")
    (tmp_path / "dog" / "notes.txt").write_text("not an image either")
    bad = [r"truncated.jpg: an image that can't be decoded", r"notes.txt: not one of .png", r"text.png: not an image"]
    with pytest.raises(UserError, match="3 of 23 files can't be used") as caught:
        ImageFolder(root=tmp_path).verify()
    assert all(re.search(problem, str(caught.value)) for problem in bad)
    assert "data.bad_files=skip" in str(caught.value)

    source = ImageFolder(root=tmp_path, bad_files="skip")
    with pytest.warns(UserWarning, match="(?s)" + ".*".join(bad) + ".*They are left out"):
        source.verify()
    assert sum(len(names) for names in ids(source).values()) == 20


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("1", 1), ("L", 1), ("P", 3), ("RGB", 3)])
def test_any_mode_of_png_is_read_as_grey_or_colour(tmp_path, mode, channels):
    for name in ("cat", "dog"):
        draw(tmp_path / name / "0.png", mode=mode)
    source = ImageFolder(root=tmp_path, val_fraction=0.0, test_fraction=0.0)
    source.verify()
    image = source.samples("train")[0]["image"]
    assert (tuple(image.shape), image.dtype) == ((channels, 8, 8), torch.uint8)
    assert source.spec.image == tuple(image.shape)
    if channels == 1:
        with Image.open(tmp_path / "cat" / "0.png") as original:
            assert torch.equal(image[0], torch.from_numpy(np.array(original.convert("L"))))


def test_fingerprint_is_of_the_contents(tmp_path):
    first = ImageFolder(root=folder(tmp_path / "a")).fingerprint()
    assert ImageFolder(root=folder(tmp_path / "b")).fingerprint() == first, "wherever they lie"
    assert ImageFolder(root=tmp_path / "a", split_seed=1).fingerprint() != first
    draw(tmp_path / "b" / "cat" / "0.png", seed=999)
    assert ImageFolder(root=tmp_path / "b").fingerprint() != first
