"""A run that begins from weights: what it takes of them, what it leaves, what it freezes, and what is refused."""

import csv
import json
import pickle
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.helpers import QUICK, quick_config
from transformers import BertConfig, BertModel

from plugformer.assemble import build_model, load_run, preview, read_checkpoint
from plugformer.budget import example_batch
from plugformer.cli.main import run as command
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, Grid
from plugformer.nn.depth import freeze, parameter_depths
from plugformer.nn.parameters import group_parameters
from plugformer.predict import predict
from plugformer.recorded import load_config
from plugformer.registry import build, offers
from plugformer.run_dir import RunDir
from plugformer.testing.comparing import noise
from plugformer.train.evaluate import evaluate
from plugformer.train.layer_rates import decay_by_layer
from plugformer.train.run import train
from plugformer.weights.beginning import Beginning
from plugformer.weights.find import find_weights
from plugformer.weights.summary import match_lines

TEXTS = [f"The {number % 7}th text says: {'so it is ' * (number % 3)}{number}." for number in range(60)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Texts of three kinds, as overrides."""
    path = tmp_path_factory.mktemp("data") / "table.csv"
    lines = ["text,kind,other", *(f"{text},{n % 3},{'yes' if n % 2 else 'no'}" for n, text in enumerate(TEXTS))]
    path.write_text("\n".join(lines))
    return ["data=csv", f"data.paths=[{path}]"]


@pytest.fixture(scope="module")
def composed(data):
    """A checked composition of a small BERT of these texts, or of another model of them."""

    def compose(*overrides, label=None, tokenizer="text_bpe"):
        learned = ["tokenizer.vocab_size=272"] if tokenizer == "text_bpe" else []
        overrides = [
            *(
                "backbone.num_layers=2",
                "position=rope",
                "task=mlm",
                f"tokenizer={tokenizer}",
                "tokenizer.max_length=32",
            ),
            *([] if any("tokenizer.vocab_size" in each for each in overrides) else learned),
            *([] if label is None else ["task=classification", f"data.label_column={label}"]),
            *overrides,
        ]
        return quick_config(*data, *overrides)

    return compose


@pytest.fixture(scope="module")
def bert(composed, tmp_path_factory):
    """A run whose weights others begin from."""
    path = tmp_path_factory.mktemp("runs") / "bert"
    train(composed(f"run_dir={path}", "seed=7"))
    return path


class Tuned(NamedTuple):
    """A run from the weights of another one that is gone.

    Attributes:
        run: its directory.
        first: that of the other one.
        fingerprint: of the other one's weights.
    """

    run: Path
    first: Path
    fingerprint: str


@pytest.fixture(scope="module")
def tuned(composed, bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    first = Path(shutil.copytree(bert, folder / "first"))
    train(composed(f"run_dir={folder / 'run'}", *taking(first), "trainer.freeze=1", label="kind"))
    fingerprint = find_weights(str(first)).fingerprint
    shutil.rmtree(first)
    return Tuned(folder / "run", first, fingerprint)


def taking(path):
    """Overrides that take the weights and the tokenizer of a run."""
    return [f"init_from={path}", f"tokenizer.from_run={path}", "tokenizer.vocab_size=null"]


def begin(config):
    """A new model with the weights it begins from, and the match."""
    source: DataSource = build("data", config["data"])
    tokenizer, sketch = preview(config, source=source)
    beginning = Beginning.of(config, source=source, tokenizer=tokenizer, model=sketch)
    model = build_model(config, tokenizer=tokenizer, data=source.spec)
    return model, beginning and beginning.fill(model)


def a_checkpoint(path, config, *, edit=lambda weights: None):
    """A checkpoint of a run that never was, without a step of training, with its tokenizer."""
    model, _ = begin(config)
    weights = model.state_dict()
    edit(weights)
    (path / "tokenizer").mkdir()
    preview(config, source=build("data", config["data"]))[0].save(path / "tokenizer")
    path = path / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    held = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": held, "plugformer": {"config": json.loads(json.dumps(config, default=str))}}, path)
    return path


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours, theirs, names):
    assert names
    for name in names:
        assert torch.equal(ours[name], theirs[name]), name


# ---------------------------------------------------------------------------------------------- what is taken


def test_without_a_step_a_run_from_the_same_composition_says_the_same(composed, bert):
    tokenizer, theirs = load_run(bert)
    ours, match = begin(composed(*taking(bert), "seed=1"))
    assert match.head == "taken"
    assert not match.new
    assert not match.left
    batch = example_batch(tokenizer, theirs.task.targets, 2)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(batch).predictions, theirs(batch).predictions)


def test_another_task_takes_the_trunk_and_draws_its_head_as_without(composed, bert):
    """Bit for bit, so that two runs that differ in `init_from` alone differ in what they begin from alone."""
    plain, _ = begin(composed(*taking(bert), "init_from=null", label="kind"))
    ours, match = begin(composed(*taking(bert), label="kind"))
    assert match.head == "new: theirs is of task=mlm"
    ours, plain, theirs = bits(ours), bits(plain), find_weights(str(bert)).tensors
    head = [name for name in ours if name.startswith("task.")]
    assert list(match.new) == head
    assert_equal(ours, plain, head)
    assert_equal(ours, theirs, [name for name in ours if name.startswith("trunk.")])
    assert any(not torch.equal(plain[name], theirs[name]) for name in match.taken)


@pytest.mark.parametrize(
    ("label", "head"), [("kind", "taken"), ("other", "new: theirs is for other labels"), (None, "new: theirs is of")]
)
def test_a_head_is_taken_for_the_same_labels(composed, tuned, label, head):
    assert begin(composed(*taking(tuned.run), label=label))[1].head.startswith(head)


def test_labels_are_nothing_to_a_task_without_them(composed, bert):
    assert begin(composed(*taking(bert), "data.label_column=kind"))[1].head == "taken"


@pytest.mark.parametrize(
    ("theirs", "ours", "drawn_by"),
    [
        (["attention=performer"], ["attention=performer"], "theirs"),
        (["attention=performer"], ["attention=performer", "attention.num_features=40"], "ours"),
        (["attention=full"], ["attention=random_feature"], "ours"),
    ],
)
@pytest.mark.filterwarnings("ignore:begins from")
def test_what_a_mechanism_draws_is_another_mechanisms_own(composed, tmp_path, theirs, ours, drawn_by):
    path = a_checkpoint(tmp_path, composed("seed=7", *theirs, tokenizer="text_bytes"))
    model, match = begin(composed(f"init_from={path}", *ours, tokenizer="text_bytes"))
    plain, _ = begin(composed(*ours, tokenizer="text_bytes"))
    model, plain, weights = bits(model), bits(plain), find_weights(str(path)).tensors
    of_mechanism = [name for name in model if ".mechanism." in name]
    assert_equal(model, weights if drawn_by == "theirs" else plain, of_mechanism)
    assert_equal(model, weights, [name for name in model if name.startswith("trunk.") and name not in of_mechanism])
    assert set(of_mechanism) <= set(match.taken if drawn_by == "theirs" else match.new)


def test_weights_come_in_the_precision_of_the_run(composed, tmp_path):
    """Those in float64 lose nothing on their way into a run in float64."""

    def widen(weights):
        for name, tensor in weights.items():
            weights[name] = tensor.double() + 1e-12

    path = a_checkpoint(tmp_path, composed(tokenizer="text_bytes"), edit=widen)
    still = ["trainer.precision=64-true", "optimizer.lr=1e-300"]
    train(composed(f"run_dir={tmp_path / 'run'}", f"init_from={path}", *still, tokenizer="text_bytes"))
    held, weights = (find_weights(str(each)).tensors for each in (tmp_path / "run", path))
    assert {tensor.dtype for tensor in held.values()} == {torch.float64}
    assert_equal(held, weights, list(weights))
    narrow, _ = begin(composed(f"init_from={path}", tokenizer="text_bytes"))
    assert {tensor.dtype for tensor in narrow.state_dict().values()} == {torch.float32}


def test_of_images_shapes_decide_and_statistics_of_pixels_come_along(tmp_path):
    def shift(weights):
        weights["trunk.embedding.mean"] += 0.25

    path = a_checkpoint(tmp_path, quick_config("seed=7"), edit=shift)
    shutil.rmtree(tmp_path / "tokenizer")
    model, match = begin(quick_config(f"init_from={path}"))
    assert match.head == "taken"
    assert_equal(bits(model), find_weights(str(path)).tensors, list(bits(model)))
    assert float(model.trunk.embedding.mean) == 0.25


def test_a_folder_of_hugging_faces_form_is_taken(composed, bert, tmp_path):
    theirs = BertModel(
        BertConfig(
            vocab_size=272, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32,
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert / "tokenizer" / name, tmp_path / "bert")
    with pytest.raises(UserError, match="Overrides that would make them fit") as caught:
        begin(composed(f"init_from={tmp_path / 'bert'}"))
    pasted = shlex.split(str(caught.value).splitlines()[-1])
    assert f"tokenizer.file={tmp_path / 'bert' / 'tokenizer.json'}" in pasted
    model, match = begin(composed(f"init_from={tmp_path / 'bert'}", *pasted))
    assert torch.equal(model.trunk.embedding.table, theirs.embeddings.word_embeddings.weight)
    assert match.fits


# ---------------------------------------------------------------------------------------------- continuous tokens


def of_images(path, *overrides, edit=lambda weights: None):
    """A checkpoint of a model of 8 × 8 pixels in patches of 2 × 2, and what begins a new model from it."""
    path.mkdir(exist_ok=True)
    checkpoint = a_checkpoint(path, quick_config("seed=7", *overrides), edit=edit)
    return checkpoint, lambda *own: quick_config(f"init_from={checkpoint}", *overrides, *own)


@pytest.mark.parametrize(
    ("order", "size", "grid"),
    [
        ("raster", "16", (8, 8)),
        ("raster", "[4,16]", (2, 8)),
        ("axes", "[4,16]", (2, 8)),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:begins from")
def test_positions_are_interpolated_to_another_grid(tmp_path, order, size, grid):
    """Though it may have as many places; all else is taken as it is."""
    path, beginning = of_images(tmp_path, f"position.order={order}")
    model, match = begin(beginning(f"tokenizer.image_size={size}"))
    theirs, position = find_weights(str(path)).tensors, model.trunk.backbone.position
    tables = [name for name in theirs if ".position." in name]
    brought = position.resized(
        {name.removeprefix("trunk.backbone.position."): theirs[name] for name in tables},
        (Grid(("row", "column"), (4, 4)),),
    )
    assert_equal(position.state_dict(), brought, list(brought))
    assert_equal(bits(model), theirs, [name for name in theirs if name not in tables])
    assert match.head == "taken"
    changed = [
        name
        for name in tables
        if not torch.equal(position.state_dict()[name[len("trunk.backbone.position.") :]], theirs[name])
    ]
    assert match.record()["interpolated"] == {"tensors": tuple(changed), "from": (4, 4), "to": grid}
    told = match_lines(model, find_weights(str(path)), match)
    assert f"  positions interpolated from 4 × 4 to {grid[0]} × {grid[1]}: backbone.position" in told


@pytest.mark.filterwarnings("ignore:begins from")
def test_nothing_is_interpolated_on_the_same_grid(tmp_path):
    """Larger images in larger patches would be; of positions without tables there is nothing to interpolate."""
    path, beginning = of_images(tmp_path)
    model, match = begin(beginning("tokenizer.image_size=[8,8]"))
    assert match.interpolated is None
    assert "interpolated" not in match.record()
    assert_equal(bits(model), find_weights(str(path)).tensors, list(bits(model)))
    for position in ("rope", "sinusoidal", "relative"):
        _, beginning = of_images(tmp_path / position, f"position={position}")
        assert begin(beginning("tokenizer.image_size=16"))[1].interpolated is None


def test_text_is_not_stretched(composed, tmp_path):
    path = a_checkpoint(tmp_path, composed("position=learned", tokenizer="text_bytes"))
    with pytest.raises(UserError, match="not of this run's model") as caught:
        begin(composed(f"init_from={path}", "position=learned", "tokenizer.max_length=64", tokenizer="text_bytes"))
    assert str(caught.value).splitlines()[-1].strip() == "tokenizer.max_length=32"


def colour_folder(path):
    """Colour images of 8 × 8 pixels, as overrides."""
    for number in range(40):
        name = path / f"kind {number % 2}" / f"{number}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise(8, 8, 3, seed=number).mul(60).add(128).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(name)
    return ["data=image_folder", f"data.root={path}"]


@pytest.mark.parametrize(
    ("theirs", "ours", "line"),
    [
        (["tokenizer.patch_size=4", "tokenizer.overlap=2"], [], "tokenizer.patch_size=4"),
        (["tokenizer.patch_size=4"], ["tokenizer.overlap=1"], "tokenizer.patch_size=4 tokenizer.overlap=0"),
        (["colour"], [], "tokenizer.channels=3"),
        (["colour", "tokenizer.patch_size=4"], [], "tokenizer.patch_size=4 tokenizer.channels=3"),
        (
            ["backbone.dim=32"],
            ["tokenizer.patch_size=4", "tokenizer.image_size=16"],
            "backbone.dim=32 tokenizer.patch_size=2",
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:begins from")
def test_the_line_that_is_told_makes_weights_of_images_fit(tmp_path, theirs, ours, line):
    """It says no more than it must: where only the grid differs, positions are interpolated."""
    colour = colour_folder(tmp_path / "images") if "colour" in theirs else []
    path = a_checkpoint(tmp_path, quick_config(*colour, *(each for each in theirs if each != "colour")))
    config = [f"init_from={path}", *ours]
    with pytest.raises(UserError) as caught:
        begin(quick_config(*config))
    *table, hint, told = str(caught.value).splitlines()
    assert hint == "  Overrides that would make them fit:"
    assert told.strip() == line
    (positions,) = [row for row in table if ".position." in row]
    assert positions.endswith("interpolated") == ("patch_size" in line and "dim" not in line)
    assert begin(quick_config(*config, *shlex.split(told)))[1].fits


def test_without_their_tokenizer_the_grid_must_be_theirs(tmp_path):
    path, beginning = of_images(tmp_path, "tokenizer.image_size=8")
    shutil.rmtree(tmp_path / "tokenizer")
    assert begin(beginning())[1].fits
    with pytest.raises(UserError) as caught:
        begin(quick_config(f"init_from={path}", "tokenizer.image_size=16"))
    *_, hint, told = str(caught.value).splitlines()
    assert (hint, told.strip()) == ("  Overrides that would make them fit:", "tokenizer.image_size=8")


def test_where_the_data_differs_no_override_is_made_up(tmp_path):
    path = a_checkpoint(tmp_path, quick_config(*colour_folder(tmp_path / "images"), "tokenizer.channels=3"))
    weights = read_checkpoint(path)
    weights["plugformer"]["config"]["tokenizer"]["channels"] = 1  # which is none of theirs
    torch.save(weights, path)
    with pytest.raises(UserError) as caught:
        begin(quick_config(f"init_from={path}", "tokenizer.channels=1"))
    assert str(caught.value).splitlines()[-1] == ("  Their composition is this run's, so it is the data that differs.")


def test_continuous_tokens_that_mean_something_else_are_told_in_a_warning(tmp_path):
    """Though their shapes are equal; how training samples vary is no part of it."""
    _, beginning = of_images(tmp_path, "tokenizer.image_size=8")
    begin(beginning("tokenizer.mixup=0.2", "tokenizer.augmentation={RandAugment: {}}"))
    with pytest.warns(UserWarning, match="begins from") as told:
        begin(beginning("tokenizer.resize=crop"))
    assert [str(each.message) for each in told] == [
        "begins from weights that were trained with tokenizer.resize=stretch; this run has tokenizer.resize=crop."
    ]


@pytest.mark.parametrize("task", ["mlm", "mae"])
def test_classification_begins_from_pre_training(tmp_path, task):
    """The trunk is taken whole and no more, the head is drawn as in any run."""
    path = a_checkpoint(tmp_path, quick_config("seed=7", f"task={task}"))
    own = ["seed=5", "trainer.layer_decay=0.5"]
    model, match = begin(quick_config(f"init_from={path}", *own))
    assert match.head == f"new: theirs is of task={task}"
    assert {name.partition(".")[0] for name in match.left} <= {"task"}
    model, plain, theirs = bits(model), bits(begin(quick_config(*own))[0]), find_weights(str(path)).tensors
    assert_equal(model, theirs, [name for name in model if name.startswith("trunk.")])
    assert_equal(model, plain, [name for name in model if name.startswith("task.")])


@pytest.mark.filterwarnings("ignore:begins from")
def test_a_run_and_check_tell_what_was_interpolated(tmp_path, capsys):
    first, run = tmp_path / "first", tmp_path / "run"
    first.mkdir()
    path = a_checkpoint(first, quick_config("seed=7", "task=mlm"))
    own = [f"init_from={path}", "tokenizer.image_size=16"]
    train(quick_config(f"run_dir={run}", *own))
    told = "positions interpolated from 4 × 4 to 8 × 8: backbone.position\n"
    assert told in capsys.readouterr().out
    table = "trunk.backbone.position.tables.0.0.weight"
    said = json.loads((run / "init_from.json").read_text())
    assert said["interpolated"] == {"tensors": [table], "from": [4, 4], "to": [8, 8]}
    assert table in said["taken"]
    command(["check", *QUICK[:3], *own])
    assert told in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what doesn't fit


@pytest.mark.parametrize(
    "other",
    [
        ["backbone.dim=32", "norm=rms", "feed_forward=glu", "feed_forward.expansion=2"],
        ["backbone.num_layers=5", "block=sandwich", "attention=reformer_lsh", "norm.eps=1e-3"],
        ["position=learned", "tokenizer.max_length=16", "backbone.num_registers=2", "backbone.bias=false"],
    ],
    ids=str,
)
def test_the_line_that_is_told_makes_weights_fit(composed, tmp_path, other):
    path = a_checkpoint(tmp_path, composed(*other, tokenizer="text_bytes"))
    with pytest.raises(UserError) as caught:
        begin(composed(f"init_from={path}", "position=alibi", tokenizer="text_bytes"))
    *table, hint, line = str(caught.value).splitlines()
    assert hint == "  Overrides that would make them fit:"
    assert table[0] == f"init_from={path}: these weights are not of this run's model."
    assert len(table) < 45
    config = composed(f"init_from={path}", *shlex.split(line), tokenizer="text_bytes")
    assert begin(config)[1].fits
    assert not differing(config, composed(*other, tokenizer="text_bytes"))


def test_an_option_that_an_experiment_sets_is_overridden_with_its_plugin(composed, tmp_path):
    """It stays when another plugin is chosen, though that one's default would fit."""
    path = a_checkpoint(tmp_path, composed("feed_forward=glu", tokenizer="text_bytes"))
    own = [f"init_from={path}", "feed_forward.expansion=2"]
    with pytest.raises(UserError) as caught:
        begin(composed(*own, tokenizer="text_bytes"))
    line = shlex.split(str(caught.value).splitlines()[-1])
    assert begin(composed(*own, *line, tokenizer="text_bytes"))[1].fits


def differing(one, other):
    kinds = ("backbone", "block", "attention", "position", "norm", "feed_forward")
    return {kind: (one[kind], other[kind]) for kind in kinds if one[kind] != other[kind]}


def test_the_table_names_what_differs(composed, bert):
    with pytest.raises(UserError) as caught:
        begin(composed(*taking(bert), "backbone.num_layers=3", "position=learned", "feed_forward.expansion=2"))
    lines = [re.split(r"  +", line.strip()) for line in str(caught.value).splitlines()]
    assert ["backbone.blocks.0-1.feed_forward.expand.weight", "[64, 16]", "[32, 16]"] in lines
    assert ["backbone.blocks.2.attention.query.weight", "none", "[16, 16]"] in lines
    assert ["backbone.position.tables.0.0.weight", "none", "[32, 16]"] in lines
    assert ["backbone.blocks.0-1.attention.query.weight", "[16, 16]", "[16, 16]", "fits"] in lines
    assert lines[-1] == ["backbone.num_layers=2 position=rope feed_forward.expansion=4.0"]


def test_what_only_means_something_else_is_told_in_one_warning(composed, bert):
    with pytest.warns(UserWarning, match="begins from") as told:
        begin(composed(*taking(bert), "attention=bigbird", "norm.eps=1e-3", "backbone.num_heads=4", "position=none"))
    assert [str(each.message) for each in told] == [
        "begins from weights that were trained with backbone.num_heads=2, attention=full, position=rope, "
        "norm.eps=1e-05; this run has backbone.num_heads=4, attention=bigbird, position=none, norm.eps=0.001."
    ]


def test_what_only_matters_in_training_is_no_difference(composed, bert):
    begin(composed(*taking(bert), "backbone.dropout=0.3", "block.drop_path=0.1", "backbone.init=xavier"))


def fitted(config):
    """A beginning, and the run's tokenizer as it learned from the data."""
    source: DataSource = build("data", config["data"])
    tokenizer, sketch = preview(config, source=source)
    tokenizer.fit(source.samples("train"))
    return Beginning.of(config, source=source, tokenizer=tokenizer, model=sketch), tokenizer


def test_another_tokenizer_of_as_many_tokens_is_refused(composed, bert, tmp_path):
    """The line that is told helps."""
    config = [f"run_dir={tmp_path / 'run'}", f"init_from={bert}", "tokenizer.lowercase=true"]
    with pytest.raises(UserError) as caught:
        train(composed(*config))
    message, _, line = str(caught.value).splitlines()
    assert message.startswith(f"init_from={bert}: a row of the embedding is of a token, and this run's tokenizer has")
    assert f"tokenizer.from_run={bert}" in line
    RunDir(tmp_path / "run").check_free()
    beginning, tokenizer = fitted(composed(*config, *shlex.split(line)))
    beginning.check_tokenizer(tokenizer)


def test_a_tokenizer_that_learned_the_same_is_the_same(composed, bert):
    beginning, tokenizer = fitted(composed(f"init_from={bert}"))
    beginning.check_tokenizer(tokenizer)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def bad(kind, folder, bert):
    """What is offered as weights, and what is said of it."""
    if kind == "nothing":
        return folder / "no" / "such" / "thing", "no such file or folder"
    if kind == "empty":
        return folder, "no weights. Expected a run directory (with checkpoints/best.ckpt), or a folder with config.json"
    if kind == "ended early":
        run = Path(shutil.copytree(bert, folder / "run"))
        shutil.rmtree(run / "checkpoints")
        (run / "checkpoints").mkdir()
        return run, "best.ckpt: no such checkpoint; there is none. The run may have ended before it saved one."
    if kind == "pickle":
        path = folder / "model.pt"
        path.write_bytes(pickle.dumps(Bomb(folder / "ran")))
        return path, "a pickle, which could run code as it is read, so it is refused."
    if kind == "pickle called checkpoint":
        path = folder / "model.ckpt"
        path.write_bytes(pickle.dumps(Bomb(folder / "ran")))
        return path, "can't be loaded as a checkpoint; it is truncated, foreign, or holds more than data."
    if kind == "folder of pickles":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 16}))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "ran")))
        return folder, ""
    if kind == "foreign checkpoint":
        torch.save({"state_dict": {}}, folder / "other.ckpt")
        return folder / "other.ckpt", "not a checkpoint of Plugformer; it doesn't say of which composition"
    if kind == "tensors alone":
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
        return (
            folder / "model.safetensors",
            f"tensors alone don't say of which model they are.\n  Give the folder: {folder}",
        )
    if kind == "text":
        (folder / "notes.txt").write_text("weights")
        return folder / "notes.txt", "no file of weights, so it is refused."
    run = Path(shutil.copytree(bert, folder / "run"))
    shutil.rmtree(run / "tokenizer")
    assert kind == "no tokenizer"
    return run, f"nobody can tell which token a row of the embedding is of.\n  Expected it in {run / 'tokenizer'}."


@pytest.mark.parametrize(
    "kind",
    [
        *("nothing", "empty", "ended early", "pickle", "pickle called checkpoint", "folder of pickles"),
        *("foreign checkpoint", "tensors alone", "text", "no tokenizer"),
    ],
)
def test_what_can_not_be_begun_from_is_refused_before_data_is_read(composed, bert, tmp_path, monkeypatch, kind):
    config = composed(f"run_dir={tmp_path / 'new'}")
    path, says = bad(kind, tmp_path, bert)

    def read(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(type(build("data", config["data"])), "samples", read)
    with pytest.raises(UserError) as caught:
        train({**config, "init_from": str(path)})
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------------------- as a user would


def test_a_run_says_where_its_weights_are_from(tuned, bert):
    run, first, fingerprint = tuned
    said = json.loads((run / "init_from.json").read_text())
    origin = {"path": f"{first}/checkpoints/best.ckpt", "fingerprint": fingerprint}
    assert said | origin == said
    assert "trunk.embedding.lookup.weight" in said["taken"]
    assert said["head"] == "new: theirs is of task=mlm"
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["plugformer"]["init_from"] == origin
    assert find_weights(str(bert)).fingerprint == fingerprint
    assert find_weights(str(bert / "checkpoints" / "last.ckpt")).origin.endswith("last.ckpt")
    assert find_weights(str(run)).fingerprint != fingerprint


def test_a_run_works_though_the_one_it_began_from_is_gone(tuned):
    (found,) = predict(tuned.run, ["The 3th text says: so it is 3."])
    assert found["label"] in ("0", "1", "2")
    assert evaluate(tuned.run, load_config(tuned.run), split="test", checkpoint="best")["test/loss"] > 0


def test_check_tells_the_match_and_reads_no_data(data, bert, monkeypatch, capsys):
    def read(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(type(build("data", quick_config(*data)["data"])), "samples", read)
    command(
        [
            *("check", *data, "data.label_column=kind", "tokenizer=text_bpe", "tokenizer.max_length=32"),
            *("backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2", "position=rope"),
            *taking(bert)[:2],
        ]
    )
    said = capsys.readouterr().out
    assert f"begins from {bert}/checkpoints/best.ckpt\n  taken: " in said
    assert "numbers: embedding, backbone.blocks.0-1, backbone.norm\n" in said
    assert "\n  head: new: theirs is of task=mlm\n" in said


def test_the_report_counts_every_number_once(composed, bert):
    config = composed(*taking(bert), label="kind")
    model, match = begin(config)
    told = match_lines(model, find_weights(str(bert)), match)
    counts = {
        line.split(":")[0].strip(): int(re.search(r"([\d,]+) numbers", line)[1].replace(",", "")) for line in told[1:-1]
    }
    assert counts["taken"] == sum(tensor.numel() for tensor in model.trunk.state_dict().values())
    assert counts["new"] == sum(tensor.numel() for tensor in model.task.state_dict().values())


# ---------------------------------------------------------------------------------------------- freezing


FREEZES = {
    "embedding": ("trunk.embedding.", "trunk.backbone.position.", "trunk.backbone.registers."),
    "1": ("trunk.embedding.", "trunk.backbone.position.", "trunk.backbone.registers.", "trunk.backbone.blocks.0."),
    "trunk": ("trunk.",),
}


@pytest.mark.parametrize("what", FREEZES)
def test_what_is_frozen_stays_bit_for_bit_and_all_else_moves(composed, tmp_path, what):
    overrides = ["backbone.num_registers=2", "position=learned", f"trainer.freeze={what}", "schedule.warmup=0"]
    config = composed(
        f"run_dir={tmp_path}", *overrides, "attention=random_feature", tokenizer="text_bytes", label="kind"
    )
    before = bits(begin(config)[0])
    train(config)
    held = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    after = {name.removeprefix("model."): tensor for name, tensor in held["state_dict"].items()}
    still = {name for name in before if torch.equal(before[name], after[name])}
    drawn = {name for name in before if ".projection." in name}
    assert still - drawn == {name for name in before if name.startswith(FREEZES[what])} - drawn
    (optimizer,) = held["optimizer_states"]
    trained = sum(len(group["params"]) for group in optimizer["param_groups"])
    assert trained == sum(name not in still | drawn for name in before)


@pytest.mark.parametrize("block", ["pre_norm", "reversible"])
def test_gradients_of_what_is_trained_are_those_without_freezing(composed, block):
    gradients = []
    for what in ("none", 1):
        config = composed(f"block={block}", "position=learned", tokenizer="text_bytes")
        source = build("data", config["data"])
        tokenizer, _ = preview(config, source=source)
        model = build_model(config, tokenizer=tokenizer, data=source.spec)
        freeze(model.trunk, model.task, what)
        torch.manual_seed(0)
        model(example_batch(tokenizer, model.task.targets, 2)).loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    whole, part = gradients
    assert part.keys() == {name for name in whole if not name.startswith(FREEZES["1"])}
    assert_equal(whole, part, list(part))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["trainer.freeze=3"],
            "trainer.freeze=3: the backbone has only 2 blocks.\n  Set trainer.freeze to none, embed",
        ),
        (["trainer.freeze=trunk", "task=causal_lm", "backbone=decoder"], "trainer.freeze=trunk: nothing is left to"),
        (["trainer.freeze=0"], "trainer.freeze=0: a number of blocks is at least 1; or none, embedding, trunk."),
        (["trainer.freeze=trunck"], "trainer.freeze=trunck: expected an integer or one of none, embedding, trunk."),
        (["trainer.layer_decay=0"], "trainer.layer_decay=0.0: must be greater than 0 and at most 1."),
        (
            ["trainer.freeze=trunk", "trainer.layer_decay=0.5"],
            "trainer.layer_decay=0.5: has no effect, since all blocks are frozen.\n  Set trainer.layer_decay=1",
        ),
        (["trainer.freeze=2", "trainer.layer_decay=0.5"], "trainer.layer_decay=0.5: has no effect, since all blocks"),
        (["trainer.layer_decay=1.5"], "trainer.layer_decay=1.5: must be greater than 0 and at most 1."),
    ],
)
def test_what_can_not_be_frozen_or_decayed_is_refused_before_data_is_read(
    composed, tmp_path, monkeypatch, overrides, says
):
    def read(*_):
        raise AssertionError("data was read")

    monkeypatch.setattr(type(build("data", composed()["data"])), "samples", read)
    with pytest.raises(UserError) as caught:
        train(composed(f"run_dir={tmp_path / 'run'}", *overrides, tokenizer="text_bytes"))
    assert says in str(caught.value)


# ---------------------------------------------------------------------------------------------- layer-wise decay


@pytest.fixture(scope="module")
def deep(composed):
    """Makes a model with something at every depth, each with a gradient, and their depths by name."""
    config = composed(
        "backbone.num_registers=2", "position=learned", "backbone.embedding_norm=true", tokenizer="text_bytes"
    )
    source = build("data", config["data"])
    tokenizer, _ = preview(config, source=source)

    def make():
        model = build_model(config, tokenizer=tokenizer, data=source.spec)
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = noise(*parameter.shape, seed=number)
        return model, parameter_depths(model.trunk, model.task)

    return make


def test_depths_are_those_of_the_blocks(deep):
    model, depths = deep()
    expected = {
        "trunk.embedding": 0,
        "trunk.backbone.position": 0,
        "trunk.backbone.registers": 0,
        "trunk.backbone.embedding_norm": 0,
        "trunk.backbone.blocks.0": 1,
        "trunk.backbone.blocks.1": 2,
        "trunk.backbone.norm": 3,
        "task": 3,
    }
    seen = set()
    for name, parameter in model.named_parameters():
        (place,) = [place for place in expected if name.startswith(f"{place}.")]
        assert depths[parameter] == expected[place], name
        seen.add(place)
    assert seen == set(expected)


OPTIMIZERS = sorted(offers("optimizer"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gets_each_layers_learning_rate(deep, name):
    model, depths = deep()
    names = {parameter: name for name, parameter in model.named_parameters()}

    def options(optimizer):
        groups = optimizer.param_groups
        return {
            names[p]: {key: value for key, value in group.items() if key != "params"}
            for group in groups
            for p in group["params"]
        }

    plain = options(build("optimizer", {"name": name}).build(group_parameters(model)))
    decayed = decay_by_layer(build("optimizer", {"name": name}).build(group_parameters(model)), depths, 0.5)
    assert sum(len(group["params"]) for group in decayed.param_groups) == len(names)
    for parameter, each in names.items():
        expected = plain[each] | {"lr": plain[each]["lr"] * 0.5 ** (3 - depths[parameter])}
        assert options(decayed)[each] == expected, each
    half = torch.optim.lr_scheduler.LambdaLR(decayed, lambda step: 0.1 if step else 1.0)
    before = {name: each["lr"] for name, each in options(decayed).items()}
    decayed.step()
    half.step()
    assert {name: each["lr"] for name, each in options(decayed).items()} == pytest.approx(
        {name: 0.1 * lr for name, lr in before.items()}
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_that_are_split_learn_as_those_that_are_not(deep, name):
    """And a state that is saved goes on."""
    results = []
    for how in ("whole", "split", "resumed"):
        model, depths = deep()
        make = build("optimizer", {"name": name})
        optimizer = make.build(group_parameters(model))
        if how != "whole":
            optimizer = decay_by_layer(optimizer, depths, 1.0)
        for step in range(3):
            if how == "resumed" and step == 2:
                state = optimizer.state_dict()
                optimizer = decay_by_layer(make.build(group_parameters(model)), depths, 1.0)
                optimizer.load_state_dict(state)
            optimizer.step()
        results.append(bits(model))
    whole, split, resumed = results
    assert_equal(split, whole, list(whole))
    assert_equal(resumed, whole, list(whole))


def test_lower_layers_move_less(deep):
    model, depths = deep()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    decay_by_layer(
        build("optimizer", {"name": "lion", "weight_decay": 0.0}).build(group_parameters(model)), depths, 0.5
    ).step()
    for name, parameter in model.named_parameters():
        moved = (parameter - before[name]).abs().max()
        torch.testing.assert_close(moved, torch.tensor(1e-4 * 0.5 ** (3 - depths[parameter])), rtol=1e-3, atol=1e-7)


def test_a_run_logs_the_highest_learning_rate_and_takes_freezing_along(composed, tmp_path):
    config = composed(
        f"run_dir={tmp_path}", "trainer.layer_decay=0.5", "trainer.freeze=1", "optimizer=muon", "optimizer.lr=0.5",
        "schedule=constant", "trainer.log_every=1", tokenizer="text_bytes", label="kind",
    )  # fmt: skip
    train(config)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rates = {row["train/lr"] for row in csv.DictReader(file) if row["train/lr"]}
    assert rates == {"0.5"}
    (optimizer,) = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["optimizer_states"]
    assert {group["lr"] for group in optimizer["param_groups"]} == {0.5, 0.25}


class Around(torch.optim.Optimizer):
    """Around another optimiser, whose groups it doesn't share."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([{"params": list(group["params"]), "lr": group["lr"]} for group in inner.param_groups], {})


def test_an_optimizer_that_hides_its_groups_is_refused(deep):
    model, depths = deep()
    optimizer = Around(build("optimizer", {"name": "adamw"}).build(group_parameters(model)))
    with pytest.raises(UserError, match="Around holds another optimiser, inner, whose groups are not its own"):
        decay_by_layer(optimizer, depths, 0.5)


def test_a_backbone_whose_layers_are_no_blocks_is_refused(deep):
    model, _ = deep()
    model.trunk.backbone.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
    with pytest.raises(UserError, match="Encoder has 2 layers and 0 blocks in them"):
        parameter_depths(model.trunk, model.task)
