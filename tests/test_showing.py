"""What there is to see of validations and tests: what it shows is so, and showing it changes nothing."""

import math
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger
from tests.helpers import quick_config
from torchmetrics.classification import MulticlassConfusionMatrix

from plugformer.assemble import build_model, load_run
from plugformer.data.loaders import make_loader
from plugformer.interfaces import Audio, Confusion, Mask
from plugformer.nn.full_attention import Full
from plugformer.nn.implied_attention import implied_attention
from plugformer.registry import build, register
from plugformer.run_dir import RunDir
from plugformer.testing.comparing import noise
from plugformer.track.logger import Logger, Tracker
from plugformer.track.media import Media, MediaFile, media_folder, read_media
from plugformer.train.listening import listening
from plugformer.train.run import train
from plugformer.train.showing import callback as callbacks
from plugformer.train.showing.attention import attention_rows, some_layers
from plugformer.train.showing.callback import Showing
from plugformer.train.showing.confusion import MOST, counts_of, draw_confusion, most_confused
from plugformer.train.showing.panels import LONGEST, picture
from plugformer.train.showing.raw import CHARACTERS, SECONDS, raw_cells
from plugformer.train.showing.view import hardest
from plugformer_tasks.confused_pairs import ConfusedPairs
from plugformer_tasks.shown_texts import BEGINNING, continued, marked

TOLD: list[Media] = []
SHOWN = 3  # samples


class Listening(DummyLogger, Tracker):
    def log_media(self, media):
        TOLD.append(media)


class Listens(Logger):
    def open(self, run, config):
        return Listening()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of three epochs, shown at each validation; every tracker is told."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = quick_config(f"run_dir={path}", "trainer.max_epochs=3", f"trainer.media={SHOWN}", "attention.dropout=0.1")
    config["logger"] = {"listens": {"name": "listens"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugformer.registry._registered", {})
        patch.setattr(callbacks, "SHARE", math.inf)
        register("logger", "listens")(Listens)
        TOLD.clear()
        train(config)
    return RunDir(path)


def shown(run, name):
    return [media for media in read_media(run) if media.name == name]


def columns(media, *names):
    return [[row[media.columns.index(name)] for name in names] for row in media.rows]


# ---------------------------------------------------------------------------------------------- a run's media


def test_trackers_are_told_what_the_index_says(run):
    assert list(read_media(run)) == [
        Media(each.name, each.step, list(each.columns), [list(row) for row in each.rows]) for each in TOLD
    ]
    what = ("samples", "hardest", "confusion", "attention")
    steps = {f"{split}/{each}": [2, 4, 6] if split == "val" else [6] for split in ("val", "test") for each in what}
    assert {name: [media.step for media in shown(run, name)] for name in steps} == steps
    assert {media.name for media in TOLD} == steps.keys()


def test_files_are_there_and_can_be_read(run):
    """Those of a step in its folder, those of raw samples once for all steps, and no others."""
    cells = [(media, cell) for media in read_media(run) for row in media.rows for cell in row]
    files = [(media, cell.path) for media, cell in cells if isinstance(cell, MediaFile)]
    for media, path in files:
        with Image.open(path) as image:
            image.load()
        raw = run.media / "raw" / media.name.partition("/")[0]
        assert path.parent in (raw, media_folder(run, media.name, media.step))
    there = {path for path in run.media.rglob("*") if path.is_file()}
    assert there == {run.media_index, *(path for _, path in files)}


@pytest.mark.parametrize("split", ["val", "test"])
def test_samples_are_the_first_ones_at_each_step(run, split):
    config = run.read_config()
    source = build("data", config["data"])
    first = [source.samples(split)[number] for number in range(SHOWN)]
    for media in shown(run, f"{split}/samples"):
        assert columns(media, "sample", "target") == [[each["id"], str(each["label"])] for each in first]
        for sample, (cell,) in zip(first, columns(media, "image"), strict=True):
            with Image.open(cell.path) as image:
                pixels = np.asarray(image.convert("L"))
            scale = len(pixels) // 8
            assert np.array_equal(pixels[scale // 2 :: scale, scale // 2 :: scale], sample["image"][0].numpy())


def test_losses_and_the_hardest_are_what_the_model_finds(run):
    """The test's are of the best checkpoint."""
    config = run.read_config()
    tokenizer, model = load_run(run.path, config)
    samples = build("data", config["data"]).samples("test")
    loader = make_loader(samples, tokenizer=tokenizer, targets=model.task.targets, batch_size=512)
    (batch,) = loader
    with torch.no_grad():
        logits = model(batch).predictions
    losses = torch.nn.functional.cross_entropy(logits, batch["targets"]["label"], reduction="none")
    (first,), (hard,) = shown(run, "test/samples"), shown(run, "test/hardest")
    found = [loss for (loss,) in columns(first, "loss")]
    assert np.allclose(found, losses[:SHOWN], atol=1e-5)
    likely = [probability for (probability,) in columns(first, "probability of the target")]
    assert np.allclose(np.exp(-np.array(found)), likely, atol=1e-5)
    worst, places = losses.topk(SHOWN)
    assert [name for (name,) in columns(hard, "sample")] == [samples[place]["id"] for place in places.tolist()]
    assert np.allclose([loss for (loss,) in columns(hard, "loss")], worst, atol=1e-5)


def test_showing_changes_no_bit(run, tmp_path):
    """Of weights and optimiser, though dropout draws from the generator after each validation."""
    config = run.read_config() | {"run_dir": str(tmp_path / "unseen"), "logger": {}}
    config["trainer"] = config["trainer"] | {"media": 0}
    train(config)
    unseen = RunDir(tmp_path / "unseen")
    assert not unseen.media.exists()
    for name in ("last", "best"):
        one, other = (torch.load(each.checkpoint(name), weights_only=True) for each in (run, unseen))
        assert one["state_dict"].keys() == other["state_dict"].keys()
        for key, value in one["state_dict"].items():
            assert torch.equal(value, other["state_dict"][key]), key
        assert str(one["optimizer_states"]) == str(other["optimizer_states"])


def test_nothing_is_shown_in_a_fast_dev_run(tmp_path):
    config = quick_config(f"run_dir={tmp_path / 'run'}", "trainer.fast_dev_run=true")
    train(config | {"logger": {}})
    assert not RunDir(tmp_path / "run").media.exists()


# ---------------------------------------------------------------------------------------------- how often


def shown_at(seconds, cost, monkeypatch, *, epochs=50, stops=None):
    """The epochs of which something is shown, if validations take so long, and showing them too."""
    clock, found = [0.0], []
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    showing = Showing(run=RunDir("nowhere"), samples=4)

    def show(trainer, module, split, loader):
        clock[0] += cost
        found.append(trainer.current_epoch)

    monkeypatch.setattr(showing, "_show", show)
    for epoch in range(epochs):
        trainer = SimpleNamespace(
            should_stop=epoch == stops,
            current_epoch=epoch,
            max_epochs=epochs,
            check_val_every_n_epoch=1,
            val_dataloaders=None,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        showing.on_validation_start(trainer, None)
        clock[0] += seconds
        showing.on_validation_end(trainer, None)
        if epoch == stops:
            break
    return found


def test_showing_takes_no_more_than_its_share(monkeypatch):
    """Besides the first and the last; and every validation is shown of which that is true."""
    assert shown_at(10.0, 0.4, monkeypatch) == list(range(50))
    assert shown_at(0.1, 5.0, monkeypatch) == [0, 49]
    assert shown_at(0.1, 5.0, monkeypatch, stops=7) == [0, 7]
    found = shown_at(1.0, 0.2, monkeypatch)
    assert found[0] == 0
    assert found[-1] == 49
    assert 8 <= len(found) <= 14
    for number, epoch in enumerate(found[1:-1], 2):
        assert 0.2 * number <= 0.05 * (epoch + 1)


def test_the_hardest_come_first():
    losses = {0: 1.0, 1: 3.0, 2: math.nan, 3: 3.0, 4: 0.5}
    assert hardest(losses, 4) == [2, 1, 3, 0]


# ---------------------------------------------------------------------------------------------- raw samples


@pytest.mark.parametrize("seconds", [0.5, SECONDS + 2])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_heard_as_it_is(tmp_path, seconds, channels):
    """In one channel, up to half a step of 16 bits; a long one to a bound, which is said."""
    rate = 4000
    waveform = noise(channels, int(seconds * rate)).mul(0.2)
    cells = raw_cells({"audio": Audio(waveform, rate)}, tmp_path / "sound")
    heard, found = soundfile.read(cells["audio"].path)
    assert soundfile.info(cells["audio"].path).subtype == "PCM_16"
    expected = waveform.mean(0)[: int(SECONDS * rate)].numpy()
    assert found == rate
    assert heard.shape == expected.shape
    assert abs(heard - expected).max() <= 0.5 / 32768
    assert ("the first 10 s of" in cells["audio"].caption) == (seconds > SECONDS)
    assert f"{seconds:.2f} s" in cells["audio"].caption


def test_a_spectrogram_shows_low_frequencies_at_the_bottom(tmp_path):
    """A tone that rises is a line from the bottom left to the top right."""
    rate = 8000
    time = torch.arange(2 * rate) / rate
    wave = torch.sin(2 * math.pi * (time * 200 + time**2 * 850))  # 200 to 3600 Hz
    cells = raw_cells({"audio": Audio(wave[None] * 0.5, rate)}, tmp_path / "tone")
    with Image.open(cells["spectrogram"].path) as image:
        pixels = np.asarray(image).astype(int)
    bright = (pixels[..., 0] > 220) & (pixels[..., 2] < 80)  # yellow
    rows, places = bright.nonzero()
    early, late = places < np.quantile(places, 0.2), places > np.quantile(places, 0.8)
    assert rows[early].mean() > rows[late].mean() + 100
    assert "0 to 4,000 Hz" in cells["spectrogram"].caption


def test_files_that_are_there_are_left_as_they_are(tmp_path):
    sample = {"image": noise(3, 9, 7).mul(60).add(128).clamp(0, 255).byte()}
    (first,), stamp = raw_cells(sample, tmp_path / "one").values(), 10**9
    os.utime(first.path, (stamp, stamp))
    assert raw_cells(sample, tmp_path / "one")["image"] == first
    assert first.path.stat().st_mtime == stamp


def test_a_long_text_says_how_long_it_is(tmp_path):
    text = "x" * (CHARACTERS + 1234)
    assert raw_cells({"text": text}, tmp_path) == {"text": f"{'x' * CHARACTERS}… (1,234 characters more)"}
    assert raw_cells({"text": "short"}, tmp_path) == {"text": "short"}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 16), (1, 2000, 30), (3, 1, 7)], ids=str)
def test_a_picture_is_its_numbers_enlarged(shape):
    numbers = noise(*shape).sigmoid()
    found = picture(numbers)
    assert max(found.shape) <= LONGEST
    scale = len(found) / shape[1]
    assert math.isclose(found.shape[1] / shape[2], scale, rel_tol=0.1)
    if scale >= 1:
        middle = found[int(scale) // 2 :: int(scale), int(scale) // 2 :: int(scale)]
        expected = numbers.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255
        assert abs(middle - expected).max() <= 1


# ---------------------------------------------------------------------------------------------- attention


def heads(queries, keys, *, kv_heads=4, dim=6):
    return noise(1, 4, queries, dim), noise(1, kv_heads, keys, dim, seed=1), noise(1, kv_heads, keys, dim, seed=2)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("parts", [{}, {"causal": True}, {"valid": torch.arange(20)[None] < 13}], ids=str)
def test_implied_attention_of_full_attention_is_its_softmax(parts, kv_heads):
    q, k, v = heads(20, 20, kv_heads=kv_heads)
    mask, bias = Mask(**parts), noise(1, 4, 20, 20, seed=3)
    found = implied_attention(Full().eval(), q, k, v, mask, bias, most=64)
    logits = q @ k.repeat_interleave(4 // kv_heads, 1).mT / 6**0.5 + bias
    visible = mask.dense(20, 20, q.device)
    if visible is not None:
        logits = logits.masked_fill(~visible, -math.inf)
    assert torch.allclose(found, logits.softmax(-1)[0], atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(4, 20), atol=1e-5)


def test_attention_to_another_sequence_is_implied_too():
    q, k, v = heads(5, 17)
    found = implied_attention(Full().eval(), q, k, v, Mask(), most=64)
    assert torch.allclose(found @ v[0], Full()(q, k, v, Mask())[0], atol=1e-5)


def test_of_a_long_sequence_the_beginning_is_shown_as_it_is_in_the_whole():
    q, k, v = heads(50, 50)
    whole = implied_attention(Full().eval(), q, k, v, Mask(causal=True), most=64)
    part = implied_attention(Full().eval(), q, k, v, Mask(causal=True), most=16)
    assert part.shape == (4, 16, 16)
    assert torch.allclose(part, whole[:, :16, :16], atol=1e-6)


class Squares(Full):
    def forward(self, q, k, v, mask, bias=None):
        return super().forward(q, k, v, mask) ** 2


class Draws(Full):
    def forward(self, q, k, v, mask, bias=None):
        return super().forward(q + torch.randn_like(q), k, v, mask)


@pytest.mark.parametrize("kind", [Squares, Draws])
def test_what_is_no_average_of_values_has_no_map(kind):
    assert implied_attention(kind().eval(), *heads(12, 12), Mask(), most=64) is None


@pytest.mark.parametrize("attention", ["full", "performer", "bigbird", "reformer_lsh", "linear", "local"])
def test_any_mechanism_shows_where_it_looks(tmp_path, attention):
    """Rows of what normalises add up to one."""
    config = quick_config(f"attention={attention}", "tokenizer.patch_size=2", "backbone.num_layers=5")
    source = build("data", config["data"])
    tokenizer = build("tokenizer", config["tokenizer"])
    samples = source.samples("val")
    tokenizer.fit(source.samples("train")[:50])
    model = build_model(config, tokenizer=tokenizer, data=source.spec).eval()
    loader = make_loader(samples[:1], tokenizer=tokenizer, targets=model.task.targets, batch_size=1)
    batch, chosen = next(iter(loader)), dict(some_layers(model.trunk.backbone))
    with torch.no_grad():
        rows = attention_rows(model, batch, tmp_path, name="one")
        with listening(list(chosen.values())) as calls:
            model(batch)
        for mechanism in chosen.values():
            q, k, v, *given = calls[id(mechanism)]
            weights = implied_attention(mechanism, q, k, v, *given, most=64)
            assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=2e-3)
    assert [name for name, _ in rows] == [f"encoder layer {number} of 5" for number in (1, 3, 5)]
    for name, cell in rows:
        assert cell.caption == f"{name}, sample one"
        assert cell.path.is_file()
    assert not any(mechanism._forward_pre_hooks for mechanism in chosen.values()), "it still listens"


# ---------------------------------------------------------------------------------------------- confusion


def confusion(classes, *, samples=500):
    true = noise(samples).mul(1e6).long() % classes
    wrong = noise(samples, seed=1) > 0.5
    predicted = true.where(~wrong, noise(samples, seed=2).mul(1e6).long() % classes)
    metric = ConfusedPairs(classes)
    for part in (slice(0, 200), slice(200, None)):
        metric.update(torch.nn.functional.one_hot(predicted[part], classes).float(), true[part])
    found = metric.compute()
    return Confusion(tuple(f"class {n}" for n in range(classes)), found[:, :2], found[:, 2]), predicted, true


def test_pairs_are_the_matrix_without_zeros():
    found, predicted, true = confusion(7)
    matrix = MulticlassConfusionMatrix(7)(predicted, true)
    assert np.array_equal(counts_of(found, list(range(7))), matrix.numpy())
    assert (found.counts > 0).all()


def test_of_many_classes_those_are_shown_that_are_confused_most(tmp_path):
    found, predicted, true = confusion(10_000)
    chosen = most_confused(found, MOST)
    wrong = predicted != true
    mistakes = torch.cat([predicted[wrong], true[wrong]]).bincount(minlength=10_000)
    assert len(chosen) == MOST
    assert mistakes[chosen].sum() == mistakes.topk(MOST).values.sum()
    title = draw_confusion(found, tmp_path / "confusion.png")
    right = int((~wrong).sum())
    assert title == f"{right} of 500 right; the 24 of 10,000 classes that are confused most"
    with Image.open(tmp_path / "confusion.png") as image:
        assert max(image.size) <= LONGEST


# ---------------------------------------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def bytes_of_text():
    tokenizer = build("tokenizer", {"name": "text_bytes", "max_length": 64})
    tokenizer.fit([])
    return tokenizer


@pytest.mark.parametrize("text", ["The cat sat.", "고양이가 앉았다", "naïve  spaces "])
def test_brackets_stand_around_what_is_chosen_and_all_else_is_as_it_was(bytes_of_text, text):
    ids = bytes_of_text.encode({"text": text})["ids"]
    everything = marked(bytes_of_text, ids, torch.ones_like(ids, dtype=torch.bool))
    assert everything.replace("⟦", "").replace("⟧", "") == text
    nothing = marked(bytes_of_text, ids, torch.zeros_like(ids, dtype=torch.bool))
    assert nothing == text
    if text.isascii():
        chosen = torch.arange(len(ids)) % 5 < 2
        assert re.sub("[⟦⟧]", "", marked(bytes_of_text, ids, chosen)) == text


def test_texts_go_on_as_the_model_finds_likeliest(bytes_of_text):
    """Of several lengths, each as if it were alone and read anew at each token."""
    config = quick_config("data=python_docs", "tokenizer=text_bytes", "backbone=decoder", "task=causal_lm")
    model = build_model(config, tokenizer=bytes_of_text, data=build("data", config["data"]).spec).eval()
    texts = ["A sentence that is long enough for all of it.", "Short one."]
    inputs = bytes_of_text.collate([bytes_of_text.encode({"text": text}) for text in texts])
    found = continued(model.task, model.trunk, inputs, tokenizer=bytes_of_text)
    for number, (text, told) in enumerate(zip(texts, found, strict=True)):
        assert text.startswith(told["beginning"] + told["target"])
        length = int(inputs["valid"][number].sum()) if "valid" in inputs else inputs["ids"].shape[1]
        ids = inputs["ids"][number, : max(1, min(BEGINNING, length // 2))]
        begun = len(ids)
        for _ in range(5):
            with torch.no_grad():
                hidden = model.trunk.backbone(model.trunk.embed({"ids": ids[None]}))
                best = model.task.logits(model.trunk, hidden[:, -1:]).argmax(-1)[0]
            ids = torch.cat([ids, best])
        assert told["prediction"].startswith(bytes_of_text.decode(ids[begun:]).rstrip("\N{REPLACEMENT CHARACTER}"))
