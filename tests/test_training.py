"""A run from its composition to its summary."""

import csv
import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.helpers import QUICK, ROOT, plugformer, quick_config
from tests.prepared import audio_folder, run_with

from plugformer.assemble import preview, read_checkpoint
from plugformer.cli.compose import compose
from plugformer.compatibility import plugins_that
from plugformer.nn.full_attention import Full
from plugformer.registry import PARTS, build, offers, register
from plugformer.train.run import train

RUN = {
    *("config.yaml", "plugins.json", "environment.json", "data.json", "metrics.csv", "summary.json"),
    *("tokenizer", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
}
SHORT = ("trainer.max_epochs=2", "trainer.limit_batches=2")
OF_TEXT = set(plugins_that("tokenizer", lambda cls: cls.modality == "text"))
CROSSING = set(plugins_that("attention", lambda cls: cls.capabilities.cross_attention))
PLUGINS = [
    (kind, name)
    for kind in PARTS
    for name in offers(kind)
    if not (kind == "target_tokenizer" and name not in OF_TEXT)
    and not (kind == "cross_attention" and name not in CROSSING)
]
CONFIGS = sorted(
    f"{group}={path.relative_to(ROOT / 'conf' / group).with_suffix('').as_posix()}"
    for group in ("experiment", "debug", "trainer")
    for path in (ROOT / "conf" / group).rglob("*.yaml")
)
# Learning a vocabulary of the whole data, or generating it, takes longer than all the rest.
FEW = ["data.train_size=100", "data.val_size=20", "data.test_size=20"]
FEW_VOICES = ["data.voices=[f1,f3,m1]", "data.accents=[en-us]"]
LESS = {
    "experiment=long_range/listops": [*FEW, "data.min_length=50", "data.max_length=100"],
    "experiment=long_range/listops_short": FEW,
    "experiment=long_range/pathfinder": FEW,
    "experiment=long_range/recall": [*FEW, "data.vocab_size=32", "tokenizer.vocab_size=37"],
    "experiment=gpt_source": ["data.max_bytes=100000", "tokenizer.vocab_size=300"],
    "experiment=gpt_docs": ["tokenizer.vocab_size=300"],
    "experiment=bert_docs": ["tokenizer.vocab_size=300"],
    "experiment=docstring_classify": ["tokenizer.vocab_size=300"],
    "experiment=docstring_finetune": ["init_from=null", "tokenizer.from_run=null", "tokenizer.vocab_size=300"],
    "experiment=gpt_draft": ["data.max_bytes=100000", "tokenizer.from_run=null", "tokenizer.vocab_size=300"],
    "experiment=digits_finetune": ["init_from=null"],
    "experiment=spoken_digits": FEW_VOICES,
    "experiment=spoken_digits_mae": FEW_VOICES,
    "experiment=spoken_digits_finetune": ["init_from=null", *FEW_VOICES],
    "experiment=spoken_text": ["data.voices=[f1,f3,m1]", "data.size=20"],
    "experiment=django_en_ko": ["tokenizer.vocab_size=300", "tokenizer.max_length=512", "task.max_new_tokens=8"],
    "experiment=code_docstrings": [
        "tokenizer.vocab_size=300",
        "data.max_source=300",
        "data.max_target=100",
        "task.max_new_tokens=8",
    ],
    "experiment=hangul_names": ["loader.eval_batch_size=8"],
    "experiment=t5_denoise": ["tokenizer.vocab_size=300"],
    **{
        f"trainer={name}": ["trainer.strategy=auto", "trainer.devices=1"] for name in ("ddp", "fsdp", "tensor_parallel")
    },
}
# Packages that are optional, by what needs them.
NEEDS = {
    **dict.fromkeys((choice for choice in LESS if "spoken" in choice), "espeakng_loader"),
    "experiment=django_en_ko": "django",
}


def weights(path: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """Those at the end of a run."""
    train(quick_config(f"run_dir={path}", *overrides))
    return read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"]


def bit_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def image_folder(root: Path) -> Path:
    noise = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(noise.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    summary, monitor = train(quick_config(f"run_dir={path}", "trainer.max_epochs=3", "trainer.log_every=1"))
    return path, summary, monitor


def test_a_run_directory_holds_all_that_the_run_made(run):
    path, _, _ = run
    missing = {name for name in RUN if not (path / name).exists()}
    assert not missing
    assert not list(path.rglob("*.tmp"))
    assert yaml.safe_load((path / "config.yaml").read_text())["backbone"]["dim"] == 16
    plugins = json.loads((path / "plugins.json").read_text())
    assert {"data", "tokenizer", "attention", "logger.csv"} <= plugins.keys()
    assert all({"entry_point", "package", "version", "options"} <= plugin.keys() for plugin in plugins.values())
    environment = json.loads((path / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert json.loads((path / "data.json").read_text())["samples"]["train"] > 1000


def test_the_summary_is_flat_numbers_named_by_split_and_metric(run):
    path, returned, monitor = run
    summary = json.loads((path / "summary.json").read_text())
    assert summary == returned
    assert {"train/loss", "val/loss", "val/accuracy", "val/f1", "test/loss", "test/accuracy", "test/f1"} <= set(summary)
    assert monitor.metric in summary
    for name, value in summary.items():
        assert name.count("/") == 1, name
        assert type(value) in (int, float), name
        assert math.isfinite(value), name


def test_the_metrics_file_agrees_with_the_summary(run):
    path, summary, monitor = run
    with (path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}
    assert len(column["train/loss"]) == summary["train/steps"] == 6
    assert column["train/loss"][-1] == summary["train/loss"]
    choose = {"max": max, "min": min}[monitor.mode]
    assert choose(column[monitor.metric]) == summary[monitor.metric]
    assert column["test/loss"] == [summary["test/loss"]]
    steps = column["step"]
    assert steps == sorted(steps)


def test_a_seed_decides_every_bit(tmp_path):
    one, again = (weights(tmp_path / name, *SHORT, "seed=1") for name in ("one", "again"))
    assert bit_equal(one, again)
    other = weights(tmp_path / "other", *SHORT, "seed=2")
    assert not bit_equal(one, other)


def test_the_number_of_workers_changes_nothing(tmp_path):
    """Not even what augmentation draws."""
    varied = "tokenizer.augmentation={RandomRotation: {degrees: 20}}"
    none, two, plain = (
        weights(tmp_path / name, *SHORT, *more)
        for name, more in {
            "none": [varied, "loader.num_workers=0"],
            "two": [varied, "loader.num_workers=2"],
            "plain": [],
        }.items()
    )
    assert bit_equal(none, two)
    assert not bit_equal(none, plain)


def test_accumulated_batches_are_one_batch(tmp_path):
    """Up to rounding: Adam divides by the gradient's own size, so a rounding error of a tiny gradient may become as
    large as the step; an epsilon far above such gradients takes that away."""
    steps = ("trainer.max_epochs=1", "trainer.max_steps=3", "trainer.limit_batches=null", "optimizer.eps=1e-3")
    whole = weights(tmp_path / "whole", *steps)
    halves = weights(tmp_path / "halves", *steps, "trainer.accumulate=2")
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plugin_trains_in_place_of_the_default(tmp_path, kind, name):
    shown = ["trainer.media=2"] if kind in ("task", "tokenizer") else []
    config = quick_config(f"run_dir={tmp_path / 'run'}", *run_with(kind, name, tmp_path / "made"), *shown)
    summary, _ = train(config)
    used = json.loads((tmp_path / "run" / "plugins.json").read_text())
    assert name in {plugin["name"] for place, plugin in used.items() if place.partition(".")[0] == kind}
    assert summary["train/steps"] >= 1
    assert math.isfinite(summary["test/loss"])


@pytest.mark.parametrize("choice", CONFIGS)
def test_every_configuration_file_runs(tmp_path, choice, monkeypatch):
    short = ["trainer.max_epochs=1", "trainer.limit_batches=1"]
    on_gpu = ["trainer.accelerator=gpu"] if choice == "trainer=gpu" else []  # the quick settings chose the CPU
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = []
    if choice == "experiment=audio_folder":
        (tmp_path / "clips").mkdir()
        files = [f"data.{key}={value}" for key, value in audio_folder(tmp_path / "clips").items()]
    if choice in NEEDS:
        pytest.importorskip(NEEDS[choice])
    config = quick_config(f"run_dir={tmp_path / 'run'}", choice, *short, *on_gpu, *files, *LESS.get(choice, []))
    if on_gpu:
        assert config["trainer"]["precision"] == "bf16-mixed"
        return
    summary, _ = train(config)
    assert summary["train/steps"] == 1


@pytest.mark.parametrize(
    ("first", "then"), [("digits_simmim", "digits_finetune"), ("spoken_digits_mae", "spoken_digits_finetune")]
)
def test_experiments_begin_from_those_they_are_meant_to(first, then):
    trunks = []
    for name in (first, then):
        config = compose([f"experiment={name}"])
        _, model = preview(config, source=build("data", config["data"]))
        trunks.append({key: value.shape for key, value in model.trunk.state_dict().items()})
    assert trunks[0] == trunks[1]


def test_overfitting_learns_images_from_files_by_heart(tmp_path):
    root = image_folder(tmp_path / "images")
    summary, _ = train(
        quick_config(
            f"run_dir={tmp_path / 'run'}", "debug=overfit", "data=image_folder", f"data.root={root}",
            "trainer.limit_batches=null", "trainer.max_epochs=60", "optimizer.lr=0.01", "schedule.warmup=0",
        )
    )  # fmt: skip
    assert summary["train/loss"] < 0.1
    assert summary["val/accuracy"] == 1


def test_early_stopping_stops(tmp_path):
    never_better = ["callback=early_stopping", "callback.early_stopping.patience=2"]
    config = quick_config(
        f"run_dir={tmp_path}", "trainer.max_epochs=20", *never_better, "callback.early_stopping.min_delta=100"
    )
    summary, _ = train(config)
    assert summary["train/epochs"] == 3


class CountsSteps(Full):
    """Of which step it was told before each forward pass in training."""

    told: ClassVar[list[int]] = []

    def before_step(self, step: int) -> None:
        self.told.append(step)


def test_mechanisms_hear_of_every_step_before_it(tmp_path, monkeypatch):
    """The same number while gradients of one step are accumulated."""
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("attention", "counts_steps")(CountsSteps)
    CountsSteps.told.clear()
    train(quick_config(f"run_dir={tmp_path / 'run'}", "attention=counts_steps", "trainer.accumulate=2"))
    assert CountsSteps.told == [0, 0]  # QUICK has two batches


def test_trains_in_mixed_precision(tmp_path):
    summary, _ = train(quick_config(f"run_dir={tmp_path / 'run'}", "trainer.precision=bf16-mixed"))
    assert math.isfinite(summary["test/loss"])
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["state_dict"]
    assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["experiment=digits", "experiment=bert_docs", "experiment=gpt_docs"])
def test_a_compiled_model_learns_the_same(tmp_path, choice):
    """In a process of its own, where annotations aren't checked: torch.compile can't look into the checks.

    Without dropout, whose draws are the compiler's own.
    """
    loss = {}
    for compiled in ("false", "true"):
        path = tmp_path / compiled
        settings = [*QUICK, *LESS.get(choice, []), "backbone.dropout=0", f"trainer.compile={compiled}"]
        done = plugformer("train", choice, *settings, f"run_dir={path}")
        assert done.returncode == 0, done.stderr
        loss[compiled] = json.loads((path / "summary.json").read_text())["test/loss"]
    assert loss["true"] == pytest.approx(loss["false"], rel=1e-4)
