"""What `plugformer predict` draws: the numbers themselves, nothing cut off, one file an input, or a refusal."""

import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import quick_config

from plugformer import pictures as drawing
from plugformer.assemble import load_run
from plugformer.cli.main import run as command
from plugformer.data.collate import Collate
from plugformer.errors import UserError
from plugformer.pictures import draw_pictures, file_names
from plugformer.predict import predict
from plugformer.testing.comparing import noise
from plugformer.train.run import train

AXES = ("frequency", "time")


def shades(*shape, seed=0):
    """From 0 to 1."""
    return noise(*shape, seed=seed).sigmoid()


def pixels(path, mode):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode)).astype(int)


def panels(path, count, height, width, *, axes=None):
    """The pixels inside each panel of a PNG, and the whole; RGB in 0 … 255."""
    whole = pixels(path, "RGB")
    tall, wide = drawing._panel_size(height, width, chart=axes is not None)
    edge = drawing.MARGIN + (drawing.LINE if axes else 0)
    column = max(wide, drawing.NARROWEST)
    bottom = len(whole) - edge
    starts = [edge + number * (column + drawing.MARGIN) + (column - wide) // 2 for number in range(count)]
    return [whole[bottom - tall : bottom, start : start + wide] for start in starts], whole


def cells(panel, height, width):
    """What stands in the middle of each number of a picture, `[height, width, 3]`."""
    tall, wide = len(panel) // height, len(panel[0]) // width
    return panel[tall // 2 :: tall, wide // 2 :: wide]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "drawn.png"


# ---------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("shape", [(8, 8), (5, 16), (96, 64), (32, 4), (1, 7)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_drawn_number_by_number(path, shape, channels):
    """In equal squares, the first row on top."""
    images = {caption: shades(channels, *shape, seed=seed) for seed, caption in enumerate("abc")}
    draw_pictures(images, path, axes=None)
    found, _ = panels(path, 3, *shape)
    for panel, image in zip(found, images.values(), strict=True):
        assert len(panel) * shape[1] == len(panel[0]) * shape[0]
        expected = image.expand(3, *shape).permute(1, 2, 0).numpy() * 255
        assert abs(cells(panel, *shape) - expected).max() <= 2


def test_a_chart_begins_at_the_bottom_left_in_colours_of_even_steps(path):
    chart = shades(1, 20, 31)
    draw_pictures({"original": chart}, path, axes=AXES)
    ((panel,), _) = panels(path, 1, 20, 31, axes=AXES)
    expected = mpl.colormaps["viridis"](chart[0].flip(0).numpy())[..., :3] * 255
    assert abs(cells(panel, 20, 31) - expected).max() <= 2


@pytest.mark.parametrize(("channels", "axes"), [(1, None), (3, None), (1, AXES)], ids=str)
def test_nothing_looks_like_no_number(path, channels, axes):
    """Where nothing is shown there is a pattern, in tones that no neighbour has; the rest is as it would be."""
    whole = shades(channels, 8, 8)
    part = whole.clone()
    part[:, 2:6, 4:] = math.nan
    draw_pictures({"original": whole, "masked": part}, path, axes=axes)
    (original, masked), _ = panels(path, 2, 8, 8, axes=axes)
    side = len(masked) // 8
    hidden = np.zeros(masked.shape[:2], dtype=bool)
    hidden[2 * side : 6 * side, 4 * side :] = True
    inside = np.zeros_like(hidden)
    inside[2 * side + 2 : 6 * side - 2, 4 * side + 2 : -2] = True
    assert np.array_equal(masked[~hidden][2:], original[~hidden][2:])
    tones = np.unique(masked[inside], axis=0)
    assert len(tones) > 1, "a plain area could be a number's"
    if axes is None and channels == 1:
        assert (tones.max(1) > tones.min(1)).all(), "a grey could be a number's"
    if axes is not None:
        colours = np.array(mpl.colormaps["viridis"].colors)[None] * 255
        assert abs(tones[:, None] - colours).max(2).min() > 40


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((8, 8), None), ((32, 4), None), ((3, 90), None), ((80, 101), AXES), ((4, 900), AXES), ((1300, 500), None)],
    ids=str,
)
def test_nothing_is_cut_off(path, shape, axes):
    """Around everything there is white, and between captions, however long; and the file is of a sensible size."""
    captions = ["original", "masked", "what a model that was trained for long enough makes of the others"]
    draw_pictures({caption: torch.zeros(1, *shape) for caption in captions}, path, axes=axes)
    found, whole = panels(path, 3, *shape, axes=axes)
    assert max(whole.shape) < 4000
    for edge in (whole[:4], whole[-4:], whole[:, :4], whole[:, -4:]):
        assert (edge == 255).all()
    column = max(len(found[0][0]), drawing.NARROWEST)
    start = drawing.MARGIN + (drawing.LINE if axes else 0)
    for number in (1, 2):
        gap = start + number * (column + drawing.MARGIN) - drawing.MARGIN
        assert (whole[:, gap + 6 : gap + drawing.MARGIN - 6] == 255).all()
    above = len(whole) - start - len(found[0])
    for number in range(3):
        here = whole[: above - 4, start + number * (column + drawing.MARGIN) :][:, :column]
        assert (here < 128).any(), "no caption"


def test_a_picture_is_written_in_one_step(path, monkeypatch):
    """Where writing fails, what stood there stays, and nothing else is left."""
    path.write_bytes(b"before")

    def fail(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing.Figure, "savefig", fail)
    album = drawing.Album(path.parent, ["drawn.wav"])
    with pytest.raises(UserError) as caught:
        album.add({"original": torch.zeros(1, 4, 4)}, axes=None)
    assert str(caught.value) == (
        f"pictures={path.parent}: drawn.png can't be written (No space left on device).\n  Choose another folder."
    )
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------- names

ODD = [
    *("a.png", "b/a.png", "A.jpg", "a-2.png", "c d%/é ü.wav", "...", "", "/", "日本" * 200, "x" * 500, "x" * 400),
    *("../up.png", "-rf.png", "a\nb\0c.png", "v1.2.flac", "\udcff.png", "con\\aux.png", "~", "a.png"),
]


def test_every_input_has_a_name_of_its_own(tmp_path):
    names = file_names(ODD)
    assert len({name.casefold() for name in names}) == len(ODD)
    assert names[:5] == ["a.png", "a-2.png", "A-3.png", "a-2-2.png", "é_ü.png"]
    assert names[14] == "v1.2.png"
    for name in names:
        assert len(name.encode()) < 200
        (tmp_path / name).touch()
        assert (tmp_path / name).parent == tmp_path
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)


def test_names_do_not_depend_on_inputs_that_follow():
    for count in range(len(ODD)):
        assert file_names(ODD[:count]) == file_names(ODD)[:count]


# ---------------------------------------------------------------------------------------------- as a user would


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A run whose task has something to show."""
    folder = tmp_path_factory.mktemp("runs") / "masked"
    train(quick_config(f"run_dir={folder}", "task=mlm"))
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classes"
    train(quick_config(f"run_dir={folder}"))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two of one name, and one of an odd one."""
    folder = tmp_path_factory.mktemp("images")
    files = [folder / "one.png", folder / "other" / "one.png", folder / "a b?.png"]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.fromarray((shades(8, 8, seed=number) * 255).byte().numpy()).save(file)
    return [str(file) for file in files]


def test_each_input_gets_a_picture_of_what_the_task_shows(masked, images, tmp_path):
    """Each its own, whatever the size of a batch; by default in the run directory."""
    tokenizer, model = load_run(masked)
    found = list(predict(masked, images, batch_size=2))
    paths = [masked / "pictures" / name for name in ("one.png", "one-2.png", "a_b.png")]
    assert [each["picture"] for each in found] == [str(path) for path in paths]
    assert [each["input"] for each in found] == images
    assert sorted(paths) == sorted((masked / "pictures").iterdir())
    for number, (source, path) in enumerate(zip(images, paths, strict=True)):
        item = {"inputs": tokenizer.encode(tokenizer.read(source)), "targets": {}, "index": number, "seed": 0}
        with torch.inference_mode():
            output = model(Collate(tokenizer=tokenizer, targets=None)([item]))
            shown = {caption: model.trunk.embedding.picture(raw)[0] for caption, raw in output.pictures.items()}
        assert len(shown) > 1
        height, width = next(iter(shown.values())).shape[1:]
        drawn, _ = panels(path, len(shown), height, width)
        assert abs(cells(drawn[0], height, width)[..., 0] - pixels(source, "L")).max() <= 2
        for panel, picture in zip(drawn, shown.values(), strict=True):
            numbers = (picture[0] * 255).numpy()
            seen = ~np.isnan(numbers)
            assert seen.any()
            assert abs(cells(panel, height, width)[..., 0] - numbers)[seen].max() <= 2


def test_pictures_come_as_they_are_asked_for(masked, images, tmp_path):
    folder = tmp_path / "a" / "b"
    found = predict(masked, images, batch_size=1, pictures=folder)
    assert not folder.exists()
    assert next(found)["picture"] == str(folder / "one.png")
    assert [path.name for path in folder.iterdir()] == ["one.png"]


def test_a_picture_is_replaced_by_that_of_the_same_name(masked, images, tmp_path):
    (first,) = predict(masked, images[:1], pictures=tmp_path)
    before = Path(first["picture"]).read_bytes()
    (second,) = predict(masked, images[1:2], pictures=tmp_path)
    assert first["picture"] == second["picture"]
    assert Path(first["picture"]).read_bytes() != before
    list(predict(masked, images[:1], pictures=tmp_path))
    assert Path(first["picture"]).read_bytes() == before


def test_the_command_line_says_where_they_are(masked, images, tmp_path, capsys):
    assert command(["predict", str(masked), *images, "--pictures", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["picture"] for line in lines] == [str(tmp_path / n) for n in ("one.png", "one-2.png", "a_b.png")]
    assert all(Path(line["picture"]).read_bytes().startswith(b"\x89PNG") for line in lines)


def test_where_nothing_is_to_be_seen_a_folder_is_refused(classes, images, tmp_path, capsys):
    """And not made; nor is one without being asked."""
    with pytest.raises(UserError) as caught:
        command(["predict", str(classes), images[0], "--pictures", str(tmp_path / "p")])
    assert not capsys.readouterr().out
    assert str(caught.value) == (
        f"pictures={tmp_path / 'p'}: task=classification with tokenizer=vit_patch has nothing to show.\n  Leave it out."
    )
    assert not (tmp_path / "p").exists()
    assert all("picture" not in each for each in predict(classes, images))
    assert not (classes / "pictures").exists()


def test_tokens_that_show_nothing_are_predicted_all_the_same(masked, images, tmp_path, monkeypatch):
    _, model = load_run(masked)

    def nothing(self, raw):
        raise NotImplementedError("nothing to show")

    monkeypatch.setattr(type(model.trunk.embedding), "picture", nothing)
    assert all("picture" not in each for each in predict(masked, images))
    with pytest.raises(UserError, match="has nothing to show"):
        next(predict(masked, images, pictures=tmp_path))


def test_a_folder_that_can_not_be_is_refused_by_name(masked, images, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UserError) as caught:
            next(predict(masked, images, pictures=folder))
        assert str(caught.value).startswith(f"pictures={folder}: one.png can't be written (")
