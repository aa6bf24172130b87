"""What is read from image files, whatever way they are written."""

import numpy as np
import pytest
from PIL import Image

from plugformer.errors import UserError
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
