"""A loss that goes wrong ends a run, or the run goes back; and it is known of which samples it was."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from tests.helpers import plugformer, quick_config

from plugformer.assemble import read_checkpoint
from plugformer.cli.main import main
from plugformer.data.draws import Shuffled
from plugformer.errors import RunFailed, UserError
from plugformer.nn.full_attention import Full
from plugformer.registry import register
from plugformer.settings import TrainerSettings
from plugformer.train import watch
from plugformer.train.bad_samples import bad_samples
from plugformer.train.run import train
from plugformer.train.spikes import FEWEST, WINDOW, Losses

SHORT = ("trainer.limit_batches=8", "trainer.log_every=1", "optimizer.lr=1e-3")


class Spoiled(Full):
    """Multiplies what comes out of it in some steps of training."""

    factor: ClassVar[dict[int, float]] = {}
    step_now = 0

    def before_step(self, step: int) -> None:
        type(self).step_now = step

    def forward(self, q, k, v, mask, bias=None):
        out = super().forward(q, k, v, mask, bias)
        return out * self.factor.get(self.step_now, 1.0) if self.training else out


class Probe(Callback):
    """What the weights and the optimiser's state were before each step. Some losses it makes look larger."""

    before: ClassVar[dict[int, list[torch.Tensor]]] = {}
    raised: ClassVar[dict[int, float]] = {}

    def on_before_backward(self, trainer, module, loss) -> None:
        if trainer.global_step in self.raised:
            module.step_loss = module.step_loss * self.raised[trainer.global_step]

    def on_train_batch_start(self, trainer, module, *_: Any) -> None:
        state = [value for values in trainer.optimizers[0].state.values() for value in values.values()]
        self.before[trainer.global_step] = [each.detach().clone() for each in (*module.parameters(), *state)]


@pytest.fixture
def spoil(monkeypatch):
    """Runs in which the loss of some steps is multiplied, in effect."""
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("attention", "spoiled")(Spoiled)
    register("callback", "probe")(Probe)
    monkeypatch.setattr(Spoiled, "factor", {})
    monkeypatch.setattr(Probe, "before", {})
    monkeypatch.setattr(Probe, "raised", {})

    def run(path: Path, factor: dict[int, float], *more: str) -> dict[str, float]:
        Spoiled.factor.clear()
        Spoiled.factor.update(factor)
        Probe.before.clear()
        config = quick_config(f"run_dir={path}", "attention=spoiled", "callback=probe", *SHORT, *more)
        return train(config)[0]

    return run


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in (path / "bad_batches.jsonl").read_text().splitlines()]


def logged(path: Path, name: str) -> dict[int, float]:
    with (path / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def drawn(step: int, *, batch_size: int = 16, length: int = 1259) -> list[int]:
    """Indices of the samples of a step of the first epoch."""
    order = [draw.index for draw in Shuffled(length, seed=0)]
    return order[step * batch_size : (step + 1) * batch_size]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


# ---------------------------------------------------------------------------------------------- stop


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step late"])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, spoil, monkeypatch, late):
    """Noticed at once or a step late, it is the same batch, and no checkpoint has seen it."""
    if late:
        monkeypatch.setattr(watch, "looks_at_once", lambda _: False)
    path = tmp_path / "run"
    with pytest.raises(RunFailed) as failed:
        spoil(path, {12: math.nan}, "trainer.max_epochs=2")
    assert str(failed.value).startswith(f"train/loss is NaN at step 12.\n  {path}/bad_batches.jsonl names its samples.")
    (line,) = lines(path)
    assert line["wrong"] == "NaN"
    before, bad = line["batches"]
    assert (before["step"], bad["step"], bad["epoch"], bad["loss"]) == (11, 12, 1, None)
    assert math.isfinite(before["loss"])
    assert math.isnan(logged(path, "train/loss")[12])
    assert json.loads((path / "non_finite.json").read_text())["train/loss"] == 12
    kept = read_checkpoint(path / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == 8
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert not (path / "summary.json").exists()


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step late"])
def test_the_last_batch_of_an_epoch_is_looked_at_before_it_is_validated(tmp_path, spoil, monkeypatch, late):
    if late:
        monkeypatch.setattr(watch, "looks_at_once", lambda _: False)
    path = tmp_path / "run"
    with pytest.raises(RunFailed, match="is NaN at step 7"):
        spoil(path, {7: math.nan})
    assert "val/loss" not in (path / "metrics.csv").read_text()
    assert not list((path / "checkpoints").iterdir())


def test_samples_of_a_bad_batch_are_those_that_were_drawn(tmp_path, spoil):
    path = tmp_path / "run"
    with pytest.raises(RunFailed):
        spoil(path, {3: math.inf}, "trainer.accumulate=2")
    (line,) = lines(path)
    assert line["wrong"] in ("NaN", "infinite")
    for batch in line["batches"]:
        samples = batch["samples"]["rank 0"]
        assert [each["index"] for each in samples] == drawn(batch["step"])
    found = bad_samples(path)
    assert [each["id"] for each in found] == [each["id"] for each in line["batches"][-1]["samples"]["rank 0"]]
    assert all("image" in each for each in found)


def test_nothing_to_look_at(tmp_path, spoil):
    spoil(tmp_path / "run", {})
    with pytest.raises(UserError, match=r"bad_batches.jsonl: missing. No loss of this run was NaN"):
        bad_samples(tmp_path / "run")


def test_the_command_fails_with_one_message(tmp_path, capsys):
    overrides = ["optimizer.lr=1e30", "trainer.limit_batches=4", "backbone.num_layers=1", "trainer.progress=false"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "logger=csv", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}", *overrides])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("plugformer: train/loss is ")
    assert told.count("\n") == 3
    assert "trainer.on_bad_loss=skip" in told
    assert "--traceback" not in told


# ---------------------------------------------------------------------------------------------- go back


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step late"])
def test_a_run_goes_back_and_on_after_the_batch(tmp_path, spoil, monkeypatch, late):
    """To the bits of weights and optimiser that it had; steps, rates and samples go on."""
    monkeypatch.setattr(watch, "EVERY", 3)
    if late:
        monkeypatch.setattr(watch, "looks_at_once", lambda _: False)
    path = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"NaN at step 4\. Training goes on .* the weights of step 3 \(1 of at most"):
        summary = spoil(path, {4: math.nan}, "trainer.on_bad_loss=skip")
    after = 6 if late else 5  # the first step whose weights are good again
    assert same(Probe.before[after], Probe.before[3])
    assert not same(Probe.before[4], Probe.before[3])
    assert not same(Probe.before[after + 1], Probe.before[4])
    assert [line["batches"][-1]["step"] for line in lines(path)] == [4]
    assert logged(path, "train/rollbacks") == {after - 1: 1}
    rates = logged(path, "train/lr")
    assert len(rates) == 8
    assert rates == logged(spoiled_nowhere(tmp_path, spoil), "train/lr")
    assert summary["train/steps"] == 8
    assert math.isfinite(summary["test/loss"])


def spoiled_nowhere(tmp_path: Path, spoil: Any) -> Path:
    spoil(tmp_path / "good", {}, "trainer.on_bad_loss=skip")
    return tmp_path / "good"


def test_watching_changes_no_bit(tmp_path, spoil):
    kept = []
    for choice in ("stop", "skip", "warn"):
        path = tmp_path / choice
        spoil(path, {}, f"trainer.on_bad_loss={choice}", "trainer.max_epochs=2")
        kept.append(list(read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"].values()))
        assert not (path / "bad_batches.jsonl").exists()
    assert same(kept[0], kept[1])
    assert same(kept[0], kept[2])


def test_random_features_are_those_of_their_step_after_going_back(tmp_path, monkeypatch):
    """Not those of the step that the weights are of."""
    monkeypatch.setattr(watch, "EVERY", 3)
    directions: dict[int, torch.Tensor] = {}
    factor = [math.nan]

    class Draws(Callback):
        def on_before_backward(self, trainer, module, loss):
            (buffer,) = [each for name, each in module.named_buffers() if name.endswith("directions")]
            directions[trainer.global_step] = buffer.clone()
            if trainer.global_step == 4:
                module.step_loss = module.step_loss * factor[0]

    monkeypatch.setattr("plugformer.registry._registered", {})
    register("callback", "draws")(Draws)
    features = ("attention=performer", "attention.redraw_every=1", "callback=draws", "trainer.on_bad_loss=skip")
    with pytest.warns(UserWarning, match="NaN at step 4"):
        train(quick_config(f"run_dir={tmp_path / 'bad'}", *SHORT, *features))
    bad = dict(directions)
    factor[0] = 1.0
    train(quick_config(f"run_dir={tmp_path / 'good'}", *SHORT, *features))
    assert bad.keys() == directions.keys()
    assert all(torch.equal(bad[step], directions[step]) for step in bad)


def test_a_run_goes_back_so_often_and_no_more(tmp_path, spoil, monkeypatch):
    monkeypatch.setattr(watch, "MOST", 3)
    with (
        pytest.warns(UserWarning, match="of at most 3 times") as told,
        pytest.raises(RunFailed, match="NaN at step 5, and training went back 3 times before"),
    ):
        spoil(tmp_path / "run", dict.fromkeys(range(2, 8), math.nan), "trainer.on_bad_loss=skip")
    assert [re.findall(r"\d of at most 3", str(each.message)) for each in told] == [
        [f"{n} of at most 3"] for n in (1, 2, 3)
    ]
    assert [line["batches"][-1]["step"] for line in lines(tmp_path / "run")] == [2, 3, 4, 5]


def test_there_may_be_nothing_to_go_back_to(tmp_path, spoil):
    with pytest.raises(RunFailed, match="NaN at step 0, and there are no good weights to go back to"):
        spoil(tmp_path / "run", {0: math.nan}, "trainer.on_bad_loss=skip")


# ---------------------------------------------------------------------------------------------- spikes

LONG = (f"trainer.limit_batches={FEWEST + 10}", "schedule.warmup=0", "optimizer.lr=3e-3")


def test_a_spike_ends_the_run(tmp_path, spoil):
    Probe.raised[FEWEST + 4] = 100
    with pytest.raises(RunFailed, match=rf"is a spike at step {FEWEST + 4}: [\d.]+, where the median of the last"):
        spoil(tmp_path / "run", {}, *LONG)
    assert [line["wrong"] for line in lines(tmp_path / "run")] == ["a spike"]


def test_a_spike_may_be_told_of_only_or_not_be_one(tmp_path, spoil):
    Probe.raised[FEWEST + 4] = 100
    with pytest.warns(UserWarning, match=r"is a spike at step .*\. Training goes on\.\n"):
        spoil(tmp_path / "told", {}, *LONG, "trainer.on_bad_loss=warn")
    spoil(tmp_path / "none", {}, *LONG, "trainer.spike=null")
    assert not (tmp_path / "none" / "bad_batches.jsonl").exists()
    with pytest.raises(UserError, match=r"trainer.spike=-1.0: must be greater than 0, or null for none"):
        TrainerSettings(spike=-1.0)


def of_losses(losses: list[float], *, deviations: float | None = 20.0) -> list[int]:
    """Which of them are wrong."""
    seen, wrong = Losses(deviations=deviations), []
    for number, loss in enumerate(losses):
        if seen.judge(loss) is None:
            seen.add(loss)
        else:
            wrong.append(number)
    return wrong


def learning(steps: int, *, seed: int = 0) -> list[float]:
    """Losses that fall from 5 to 1, with noise."""
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    return [1 + 4 * math.exp(-step / 50) + 0.1 * each for step, each in enumerate(noise)]


def test_a_spike_stands_out_and_gives_up_half_of_what_was_learned():
    losses = learning(300)
    assert of_losses(losses) == []
    for height, found in ((2.5, []), (8.0, [200]), (1e9, [200])):
        assert of_losses([*losses[:200], height, *losses[201:]]) == found
    assert of_losses([*losses[:20], 1e9, *losses[21:]]) == [], "so early, nothing is a spike"
    assert of_losses([*losses[:20], math.nan, -math.inf, *losses[21:]]) == [20, 21]
    assert of_losses([*losses[:200], 1e9, *losses[201:]], deviations=None) == []
    assert of_losses([0.0] * 100 + [1e-9] + [0.0] * 10) == [100]


def test_a_model_that_knows_its_samples_may_meet_a_hard_one():
    """A loss near zero has outliers that are a thousand times as large."""
    heavy = torch.distributions.Pareto(torch.tensor(1e-4), torch.tensor(1.0))
    torch.manual_seed(0)
    known = heavy.sample((5000,)).clamp(max=0.5).tolist()
    assert max(known) > 1000 * sorted(known)[2500]
    assert of_losses(learning(300) + known) == []


def test_what_was_seen_is_plain_data_and_comes_back():
    losses = learning(WINDOW + 30)
    one, other = Losses(deviations=20.0), Losses(deviations=20.0)
    for loss in losses:
        one.add(loss)
    other.restore(json.loads(json.dumps(one.state())))
    for loss in (*learning(20, seed=1), 3.0, 4.0, 5.0, 100.0):
        assert one.judge(loss) == other.judge(loss)
        one.add(loss)
        other.add(loss)
    assert one.state() == other.state()


HEALTHY = {
    "digits": ["experiment=digits", "trainer.max_epochs=20"],
    "simmim": ["experiment=digits_simmim", "trainer.max_epochs=20"],
    "names": ["experiment=hangul_names", "trainer.max_epochs=2", "trainer.limit_batches=200"],
    "mlm": ["experiment=bert_docs", "tokenizer.vocab_size=300", "trainer.max_epochs=3", "trainer.limit_batches=100"],
    "gpt": ["experiment=gpt_docs", "tokenizer.vocab_size=300", "trainer.max_epochs=3", "trainer.limit_batches=100"],
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", HEALTHY.values(), ids=HEALTHY)
def test_nothing_is_wrong_with_a_healthy_run(tmp_path, overrides):
    path = tmp_path / "run"
    done = plugformer("train", *overrides, "logger=csv", "trainer.media=0", "trainer.spike=10", f"run_dir={path}")
    assert done.returncode == 0, done.stderr
    assert not (path / "bad_batches.jsonl").exists()
