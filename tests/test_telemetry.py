"""What runs tell of their training, and that telling changes nothing of it."""

import csv
import json
import math
import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from tests.helpers import quick_config
from torch import nn

from plugformer.assemble import build_model, preview, read_checkpoint
from plugformer.budget import estimate, pass_cost
from plugformer.interfaces import Grid, Layout, Tokens
from plugformer.measure.norms import Update, gradient_norm
from plugformer.measure.stopwatch import Stopwatch
from plugformer.measure.tokens import TokenCount
from plugformer.registry import build, find
from plugformer.run_dir import RunDir
from plugformer.testing.comparing import noise
from plugformer.train import run as running
from plugformer.train.device import peak_by_name, peak_flops, peak_memory
from plugformer.train.non_finite import NonFiniteWatch
from plugformer.train.run import train
from plugformer.train.telemetry import PARTS, Telemetry

EVERY = {
    *("train/grad_norm", "train/update_norm", "train/lr", "train/loss"),
    *("time/step", *(f"time/{part}" for part in PARTS)),
    *("speed/samples", "speed/tokens", "speed/flops"),
    *("memory/peak", "batch/padding", "batch/length", "batch/longest"),
}

TEXT = ("data=text_files", "tokenizer=text_bytes", "tokenizer.max_length=64", "backbone=decoder", "task=causal_lm")


class FakeClock:
    """A second passes whenever it is looked at."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1
        return self.time

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


def rows_of(path: Path) -> list[dict[str, float]]:
    """Of metrics.csv, without what is empty."""
    with (path / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def rows_with(path: Path, name: str) -> list[dict[str, float]]:
    return [row for row in rows_of(path) if name in row]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(quick_config(f"run_dir={path}", "trainer.limit_batches=4", "trainer.log_every=2"))
    return path


# ---------------------------------------------------------------------------------------------- what is logged


def test_every_row_of_training_holds_all_of_it(run):
    rows = rows_with(run, "train/loss")
    assert [row["step"] for row in rows] == [1, 3]
    for row in rows:
        assert row.keys() >= EVERY
        assert all(name.count("/") == 1 for name in row if name not in ("step", "epoch"))
        assert all(math.isfinite(value) for value in row.values())
        assert "speed/mfu" not in row, "nobody knows what a CPU can do at best"


def test_rates_agree_with_times_and_sizes(run):
    model = json.loads((run / "model.json").read_text())
    for row in rows_with(run, "time/step"):
        assert row["speed/samples"] * row["time/step"] == pytest.approx(16)
        assert row["speed/tokens"] * row["time/step"] == pytest.approx(16 * row["batch/length"])
        assert row["speed/flops"] * row["time/step"] == pytest.approx(model["flops"], rel=1e-3)
        assert sum(row[f"time/{part}"] for part in PARTS) == pytest.approx(row["time/step"])
        assert row["batch/padding"] == 0
        assert row["batch/longest"] == row["batch/length"] == model["tokens"]


def test_utilisation_is_the_share_of_what_the_device_could_do(tmp_path, monkeypatch):
    monkeypatch.setattr("plugformer.train.telemetry.peak_flops", lambda device, precision: 1e12)
    train(quick_config(f"run_dir={tmp_path / 'run'}"))
    rows = rows_with(tmp_path / "run", "speed/mfu")
    assert rows
    assert all(row["speed/mfu"] * 1e12 == pytest.approx(row["speed/flops"]) for row in rows)


def test_the_last_step_has_a_row(tmp_path):
    train(quick_config(f"run_dir={tmp_path / 'run'}", "trainer.limit_batches=null", "trainer.max_steps=5"))
    assert [row["step"] for row in rows_with(tmp_path / "run", "time/step")] == [4]


def test_parts_of_a_step_are_what_the_clock_says(tmp_path, monkeypatch):
    """A part is looked at where it begins; what telemetry does itself is left out. Of two batches that are one step,
    each takes its parts."""
    monkeypatch.setattr(running, "Telemetry", lambda **options: Telemetry(**options, clock=FakeClock()))
    more = ("trainer.accumulate=2", "trainer.limit_batches=4", "trainer.log_every=1")
    train(quick_config(f"run_dir={tmp_path / 'run'}", *more))
    rows = rows_with(tmp_path / "run", "time/step")
    assert len(rows) == 2
    for row in rows:
        seconds = {part: row[f"time/{part}"] for part in PARTS}
        assert seconds == {"data": 2, "forward": 2, "backward": 2, "optimizer": 3}  # the optimiser's is resumed
        assert row["time/step"] == 9
        assert row["speed/samples"] == pytest.approx(16 / 9)


def test_groups_have_rates_of_their_own(tmp_path):
    train(quick_config(f"run_dir={tmp_path / 'run'}", "trainer.layer_decay=0.5", "trainer.log_every=1"))
    for row in rows_with(tmp_path / "run", "train/grad_norm"):
        assert row["train/lr_0"] == pytest.approx(row["train/lr"])
        assert row["train/lr_1"] == pytest.approx(row["train/lr"] / 2)


def test_norms_are_those_of_all_numbers_as_one_vector():
    weights = [nn.Parameter(noise(3, 4)), nn.Parameter(noise(5, seed=1)), nn.Parameter(noise(2, seed=2))]
    for weight in weights[:2]:
        weight.grad = noise(*weight.shape, seed=3)
    flat = torch.cat([weight.grad.flatten() for weight in weights[:2]])
    torch.testing.assert_close(gradient_norm(weights), flat.norm())
    before = torch.cat([weight.detach().flatten().clone() for weight in weights])
    update = Update(weights)
    torch.optim.SGD(weights, lr=0.1).step()
    after = torch.cat([weight.detach().flatten() for weight in weights])
    torch.testing.assert_close(update.norm(), (after - before).norm() / after.norm())
    torch.testing.assert_close(update.norm() * after.norm(), 0.1 * flat.norm())


def test_the_norm_of_a_gradient_is_that_before_clipping(tmp_path):
    norms = []
    for clip in ("null", "1e-3"):
        path = tmp_path / clip
        train(quick_config(f"run_dir={path}", f"trainer.gradient_clip={clip}", "trainer.log_every=1"))
        norms.append(rows_with(path, "train/grad_norm")[0]["train/grad_norm"])
    assert norms[0] == norms[1] > 1e-3


def test_tokens_are_counted_without_padding():
    count = TokenCount()
    layout = Layout.of(Grid(("position",), (4,)))
    for valid in ([[1, 1, 1, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 0, 0]], None):
        mask = None if valid is None else torch.tensor(valid).bool()
        count.add(Tokens(noise(2, 4, 3), layout, mask))
        assert int(count.longest) == (3 if valid else 4)
    assert (count.sequences, count.places, int(count.real), count.padding) == (6, 24, 16, 1 - 16 / 24)


def test_padding_of_a_text_is_what_its_batches_hold(tmp_path):
    """A batch of texts of several lengths is as wide as the longest."""
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text("a" * (number + 1), encoding="utf-8")
    more = ("trainer.limit_batches=1", f"data.paths=[{tmp_path}/texts/*.txt]", f"run_dir={tmp_path / 'run'}")
    train(quick_config(*TEXT, *more))
    (row,) = rows_with(tmp_path / "run", "batch/padding")
    assert row["batch/padding"] == pytest.approx(1 - row["batch/length"] / row["batch/longest"])
    assert row["batch/padding"] > 0


def test_a_stopwatch_adds_up_what_it_was_told():
    watch = Stopwatch(FakeClock())
    for part in ("a", "b", None, "a", "b", None):
        watch.start(part)
    assert watch.read() == {"a": 2, "b": 2}
    watch.start("a")
    assert watch.read() == {}, "what lies between was not to be counted"
    watch.start(None)
    assert watch.read() == {"a": 1}


# ---------------------------------------------------------------------------------------------- what a step costs


@pytest.mark.parametrize("mechanism", ["full", "performer"])
def test_what_a_step_costs_is_what_check_says(mechanism, monkeypatch):
    """Whether a copy of the model is run, or only pretended to be; nothing is left of either."""
    config = quick_config("backbone.dropout=0.1", f"attention={mechanism}")
    source = build("data", config["data"])
    tokenizer, _ = preview(config, source=source)
    tokenizer.fit([source.samples("train")[number] for number in range(4)])
    model = build_model(config, tokenizer=tokenizer, data=source.spec).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    for quick in (10**8, 0):
        monkeypatch.setattr("plugformer.budget.QUICK", quick)
        cost = pass_cost(model, tokenizer)
        assert cost.flops * config["loader"]["batch_size"] == estimate(config).flops
        assert cost.tokens == len(tokenizer.spec.grid)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_a_cost_that_cannot_be_counted_is_no_reason_to_stop(monkeypatch):
    config = quick_config()
    source = build("data", config["data"])
    tokenizer, _ = preview(config, source=source)
    model = build_model(config, tokenizer=tokenizer, data=source.spec)
    monkeypatch.setattr(
        type(model.task), "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("only on CUDA\n..."))
    )
    with pytest.warns(UserWarning, match="What a step costs can't be counted: RuntimeError: only on CUDA$"):
        assert pass_cost(model, tokenizer) is None


def test_the_model_is_described_before_loggers_are_opened(tmp_path, monkeypatch):
    found = []
    opened = find("logger", "csv").load().open
    monkeypatch.setattr(
        find("logger", "csv").load(),
        "open",
        lambda self, run, config: [found.append(json.loads(run.model.read_text())), opened(self, run, config)][1],
    )
    config = quick_config(f"run_dir={tmp_path / 'run'}", "trainer.freeze=trunk", "trainer.accumulate=2")
    train(config)
    (described,) = found
    weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert described["trained"] == sum(tensor.numel() for name, tensor in weights.items() if ".task." in name)
    assert described["parameters"] > described["trained"]
    assert described["tokens"] == 16
    assert described["flops"] == pytest.approx(2 * estimate(config).flops)


# ---------------------------------------------------------------------------------------------- nothing changes

VARIED = {
    "images": ("backbone.dropout=0.1", "tokenizer.augmentation={RandomRotation: {degrees: 20}}"),
    "redrawn": ("attention=performer", "attention.redraw_every=1", "trainer.accumulate=2"),
    "rehashed": ("attention=reformer_lsh", "attention.rehash_every=1", "attention.chunk_length=4", "block=reversible"),
    "text": ("data=hangul_names", "tokenizer=text_bytes", "tokenizer.max_length=16", "task=mlm", "attention=bigbird"),
}


@pytest.mark.slow
@pytest.mark.parametrize("more", VARIED.values(), ids=VARIED)
def test_telling_changes_no_bit_of_what_is_learned(more, tmp_path, monkeypatch):
    steps = ("trainer.max_epochs=2", "trainer.log_every=1", "trainer.limit_batches=4", "trainer.media=0")
    learned = []
    for name in ("told", "silent"):
        if name == "silent":
            for what in ("Telemetry", "Diagnostics"):
                monkeypatch.setattr(running, what, lambda **_: Callback())
            monkeypatch.setattr(running, "pass_cost", lambda *_: None)
        path = tmp_path / name
        train(quick_config(f"run_dir={path}", *more, *steps))
        assert bool(rows_with(path, "time/step")) == (name == "told")
        checkpoint = read_checkpoint(path / "checkpoints" / "last.ckpt")
        learned.append((checkpoint["state_dict"], checkpoint["optimizer_states"]))
    same = torch.utils._pytree.tree_map(
        lambda one, two: not isinstance(one, torch.Tensor) or torch.equal(one, two), *learned
    )
    assert all(torch.utils._pytree.tree_leaves(same))


# ---------------------------------------------------------------------------------------------- what is not a number


def test_a_run_whose_loss_becomes_nan_is_marked_and_goes_on(tmp_path):
    path = tmp_path / "run"
    more = ("trainer.on_bad_loss=warn", "optimizer.lr=1e30", "trainer.log_every=1", "trainer.limit_batches=4")
    with pytest.warns(UserWarning, match=r"is (NaN|infinite) at step \d+\. Training goes on") as warned:
        train(quick_config(f"run_dir={path}", *more))
    assert len([each for each in warned if "Training goes on" in str(each.message)]) == 1
    marks = json.loads((path / "non_finite.json").read_text())
    losses = {int(row["step"]): row["train/loss"] for row in rows_with(path, "train/loss")}
    assert len(losses) == 4
    assert marks["train/loss"] == min(step for step, loss in losses.items() if not math.isfinite(loss))
    assert "val/loss" in marks


def test_a_run_of_numbers_is_not_marked(run):
    assert not (run / "non_finite.json").exists()


def test_what_is_expected_marks_nothing(tmp_path):
    watch = NonFiniteWatch(RunDir.create(tmp_path / "run"), expected=frozenset({"train/grad_norm"}))
    watch.log_metrics({"train/grad_norm": math.inf, "train/loss": 1.0}, step=0)
    assert not (tmp_path / "run" / "non_finite.json").exists()
    with pytest.warns(UserWarning, match="val/loss is infinite at step 3"):
        watch.log_metrics({"val/loss": math.inf}, step=3)
    assert json.loads((tmp_path / "run" / "non_finite.json").read_text()) == {"val/loss": 3}


# ---------------------------------------------------------------------------------------------- mechanisms


def test_diagnostics_are_the_mean_over_layers(tmp_path):
    more = ("attention=performer", "backbone.num_layers=3", "trainer.max_epochs=2")
    train(quick_config(f"run_dir={tmp_path / 'run'}", *more))
    rows = rows_with(tmp_path / "run", "diagnostics/kernel_error")
    assert len(rows) == 2, "one a validation"
    assert all("val/loss" in row and "diagnostics/output_error" in row for row in rows)


# ---------------------------------------------------------------------------------------------- devices


def test_a_gpu_is_known_by_its_name_and_by_nothing_like_it():
    for name, peak in {
        "NVIDIA H100 80GB HBM3": 989.4,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H200": 989.4,
        "NVIDIA A100-SXM4-40GB": 312,
        "NVIDIA L4": 121,
        "NVIDIA L40S": 362.1,
        "NVIDIA GeForce RTX 4090": 165.2,
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb": None,
        "Tesla T4": None,
        "Orb": None,
    }.items():
        assert peak_by_name(name, "bf16-mixed") == (None if peak is None else peak * 1e12), name
    assert peak_by_name("Tesla T4", "16-mixed") == 65e12
    assert peak_by_name("NVIDIA A100-SXM4-40GB", "32-true") == 19.5e12
    assert peak_flops(torch.device("cpu"), "32-true") is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no other way to ask")
def test_peak_memory_is_no_less_than_what_is_held_now():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert 0.9 * pages * os.sysconf("SC_PAGE_SIZE") < peak_memory(torch.device("cpu")) < 2**40
