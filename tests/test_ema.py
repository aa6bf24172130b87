"""An average of the weights: which weights are validated, saved, read and gone on with."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from tests.helpers import quick_config

from plugformer.assemble import load_run, read_checkpoint
from plugformer.cli.main import main
from plugformer.errors import UserError
from plugformer.registry import register
from plugformer.resuming import from_run, plan
from plugformer.train.ema import Ema
from plugformer.train.evaluate import evaluate
from plugformer.train.run import train

SHORT = ("trainer.log_every=1", "trainer.limit_batches=4")
EMA = ("callback=[ema,probe]", "callback.ema.decay=0.5", *SHORT)
FEATURES = ("attention=performer", "attention.redraw_every=3")


class Probe(Callback):
    """The weights after each step; and a checkpoint made while the average is validated."""

    after: ClassVar[dict[int, dict[str, torch.Tensor]]] = {}

    def on_train_batch_end(self, trainer, module, *_: Any) -> None:
        self.after[trainer.global_step] = {name: value.clone() for name, value in module.state_dict().items()}

    def on_validation_batch_end(self, trainer, *_: Any) -> None:
        if trainer.training or trainer.validating:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "validating.ckpt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two epochs with an average, and the same without."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugformer.registry._registered", {})
        register("callback", "probe")(Probe)
        for name, chosen in {"plain": ["callback=probe", *SHORT], "averaged": EMA}.items():
            Probe.after = {}
            train(quick_config(f"run_dir={folder / name}", *chosen, *FEATURES, "trainer.max_epochs=2"))
        yield folder, Probe.after


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints" / f"{name}.ckpt")


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_is_as_without_it(runs):
    folder, _ = runs
    plain, averaged = saved(folder / "plain"), saved(folder / "averaged")
    assert equal(plain["state_dict"], averaged["current_model_state"])
    assert not equal(plain["state_dict"], averaged["state_dict"])


def test_a_checkpoint_holds_the_average_of_weights_and_the_last_of_all_else(runs):
    folder, after = runs
    average: dict[str, torch.Tensor] = {}
    for step, state in sorted(after.items()):
        decay = min(0.5, step / (9 + step))
        for name, value in state.items():
            is_weight = value.is_floating_point() and "directions" not in name and ".embedding.m" not in name
            known = average.get(name) if is_weight and ".std" not in name else None
            average[name] = value if known is None else decay * known + (1 - decay) * value
    kept = saved(folder / "averaged")["state_dict"]
    assert len(after) == 8
    assert kept.keys() == average.keys()
    for name, value in kept.items():
        torch.testing.assert_close(value, average[name], msg=lambda text, name=name: f"{name}: {text}")
    draws = [name for name in kept if name.endswith("directions")]
    assert draws
    assert all(torch.equal(kept[name], after[8][name]) for name in draws)
    assert any(not torch.equal(after[8][name], after[1][name]) for name in draws), "they were to be drawn anew"


def test_what_is_read_is_the_average(runs):
    folder, _ = runs
    _, model = load_run(folder / "averaged", checkpoint="last")
    kept = saved(folder / "averaged")["state_dict"]
    assert equal({f"model.{name}": value for name, value in model.state_dict().items()}, kept)


def test_metrics_are_those_of_the_average(runs):
    """While training and after it: of the best checkpoint, what its file says in the same words."""
    folder, _ = runs
    run = folder / "averaged"
    summary = json.loads((run / "summary.json").read_text())
    config = quick_config(f"run_dir={run}", *EMA, *FEATURES)
    from_file = evaluate(run, config, split="test", checkpoint="best")
    assert from_file["test/loss"] == pytest.approx(summary["test/loss"], abs=1e-7)
    raw = json.loads((folder / "plain" / "summary.json").read_text())
    assert raw["test/loss"] != summary["test/loss"]
    assert raw["val/loss"] != summary["val/loss"]


def test_a_checkpoint_made_during_validation_is_the_right_way_round(runs):
    folder, _ = runs
    during, after = read_checkpoint(folder / "averaged" / "validating.ckpt"), saved(folder / "averaged")
    assert equal(during["state_dict"], after["state_dict"])
    assert equal(during["current_model_state"], after["current_model_state"])


def test_a_run_goes_on_with_both(tmp_path):
    """Stopped between two epochs, it ends with the same bits."""
    same = (*SHORT, *FEATURES, "callback=ema", "callback.ema.decay=0.5", "schedule=constant")
    train(quick_config(f"run_dir={tmp_path / 'whole'}", *same, "trainer.max_epochs=2"))
    train(quick_config(f"run_dir={tmp_path / 'parts'}", *same))
    train(plan(from_run(tmp_path / "parts", {"trainer.max_epochs": 2})).config)
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] == 8
    for state in ("state_dict", "current_model_state"):
        assert equal(whole[state], parts[state]), state
    assert not equal(whole["state_dict"], whole["current_model_state"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["trainer.strategy=fsdp"], "callback=ema can't go with trainer.strategy=fsdp: it averages whole weights"),
        (["trainer.strategy=tensor_parallel"], "callback=ema can't go with trainer.strategy=tensor_parallel"),
        (["trainer.precision=bf16-true"], "callback=ema can't go with trainer.precision=bf16-true, which rounds away"),
        (["callback.ema.decay=1"], "callback.ema.decay=1.0: must be greater than 0 and less than 1"),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path, overrides, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "train",
                "callback=ema",
                "logger=csv",
                "trainer.fast_dev_run=true",
                f"run_dir={tmp_path / 'run'}",
                *overrides,
            ]
        )
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_an_average_is_as_precise_as_the_weights(tmp_path, precision):
    train(quick_config(f"run_dir={tmp_path}", "callback=ema", f"trainer.precision={precision}"))
    kept = saved(tmp_path)
    for state in (kept["state_dict"], kept["current_model_state"]):
        wanted = torch.float64 if precision == "64-true" else torch.float32
        assert {value.dtype for value in state.values() if value.is_floating_point()} == {wanted}


def test_a_decay_must_be_a_share():
    for decay in (0.0, 1.0, -0.1):
        with pytest.raises(UserError, match=r"callback.ema.decay"):
            Ema(decay=decay)
