"""A run that goes on is, bit for bit, the run that never stopped."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import quick_config
from tests.interrupted import Watched, batches_of, checkpoint_of, learned, rows, same, steps_of

from plugformer.errors import RunFailed, Stopped, UserError
from plugformer.registry import find, offers, register
from plugformer.resuming import from_run, plan
from plugformer.run_dir import RunDir
from plugformer.train.resume_generators import generator_states, set_generator_states
from plugformer.train.run import train

# Six small batches an epoch, two to a step, of which the last has one alone; all that can draw draws.
STEPS = (
    "trainer.max_epochs=3",
    "trainer.limit_batches=5",
    "trainer.accumulate=2",
    "trainer.save_every=2",
    "trainer.log_every=1",
    "backbone.dropout=0.2",
)
# Anything there is to draw anew while training, at each second step.
REDRAWN = ("redraw_every", "rehash_every")
PERFORMER = ("attention=performer", "attention.redraw_every=2")


@pytest.fixture(scope="module", autouse=True)
def watched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugformer.registry._registered", {})
        register("callback", "watched")(Watched)
        yield


def composed(path: Path, *overrides: str) -> dict:
    callbacks = [] if any(each.startswith("callback=") for each in overrides) else ["callback=[watched]"]
    return quick_config(f"run_dir={path}", *STEPS, *callbacks, *overrides)


def assert_goes_on(tmp_path: Path, *overrides: str, fails: list[tuple[str, int]]) -> None:
    """However often it is interrupted, it is the run that never was."""
    whole = steps_of(composed(tmp_path / "whole", *overrides))
    config, seen = composed(tmp_path / "run", *overrides), []
    for fate in [*fails, None]:
        seen = [*seen[: batches_of(tmp_path / "run")], *steps_of(config, fails=fate)]
    assert seen == whole
    assert same(learned(tmp_path / "run"), learned(tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "whole")]
    assert [summary.pop("train/seconds") > 0 for summary in summaries] == [True, True]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("fails", "overrides"),
    [
        ([("batch", 1)], []),  # before there is a checkpoint
        ([("batch", 2)], []),  # within the first epoch, right after one
        ([("batch", 5), ("batch", 8)], ["loader.num_workers=2", "loader.bucket=2", *PERFORMER]),
        ([("validation", 6)], ["trainer.save_every=null"]),
        ([("batch", 7), ("test", 9)], ["trainer.val_every=2"]),
        ([("batch", 5)], ["trainer.max_steps=7"]),
        ([("test", 7)], ["trainer.max_steps=7"]),
        ([("batch", 4), ("test", 9)], ["trainer.overfit_batches=5"]),
    ],
    ids=lambda value: ", ".join(map(str, value)) or "plain",
)
def test_an_interrupted_run_is_the_run_that_never_was(tmp_path, fails, overrides):
    assert_goes_on(tmp_path, *overrides, fails=fails)


@pytest.mark.slow
@pytest.mark.parametrize("name", offers("attention"))
def test_whatever_a_mechanism_draws_is_drawn_again(tmp_path, name):
    drawn = [f"attention.{option}=2" for option in REDRAWN if option in find("attention", name).options]
    assert_goes_on(tmp_path, f"attention={name}", *drawn, "trainer.max_epochs=2", fails=[("batch", 5)])


def test_early_stopping_remembers_what_it_waits_for(tmp_path):
    stops = "callback=[watched,early_stopping]"
    patience = ["callback.early_stopping.patience=1", "callback.early_stopping.min_delta=10"]
    assert_goes_on(tmp_path, stops, *patience, fails=[("batch", 5), ("test", 6)])


def test_generators_go_on_where_they_were():
    cpu = torch.device("cpu")
    random.gauss(0, 1)  # keeps a second one
    np.random.default_rng()
    states = generator_states(cpu)

    def draw():
        return random.gauss(0, 1), random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist()

    first = draw()
    draw()
    set_generator_states(states, cpu)
    assert draw() == first


# ---------------------------------------------------------------------------------------------- of many runs, one


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped in its second epoch."""
    path = tmp_path_factory.mktemp("runs") / "run"
    steps_of(composed(path), fails=("batch", 5))
    return path


@pytest.fixture
def run(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def refused(run: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        train(plan(composed(run, *overrides)).config)
    return str(caught.value)


def test_what_decides_what_is_learned_cant_be_another(run):
    said = refused(run, "optimizer.lr=0.5", "backbone.dropout=0", "trainer.media=1")
    assert f"run_dir={run}: holds a run already, of another composition." in said
    assert "optimizer.lr: 0.001 there, 0.5 here" in said
    assert "backbone.dropout: 0.2 there, 0" in said
    assert "trainer.media:" not in said


def test_what_changes_nothing_may_be_another(run, capsys):
    steps_of(composed(run, "trainer.log_every=3", "loader.num_workers=1", "trainer.keep_last=1"))
    assert "goes on where it stopped: after 4 steps, within epoch 2" in capsys.readouterr().out
    assert (run / "config.yaml").read_text().count("num_workers: 1") == 1


def test_a_run_goes_on_by_its_directory_alone(run):
    config = from_run(run, {"logger": "csv", "trainer.progress": False})
    steps = steps_of(config)
    assert [step["step"] for step in steps][:2] == [4, 5]


def test_a_finished_run_says_so(run):
    steps_of(composed(run))
    planned = plan(composed(run))
    assert planned.finished
    assert planned.lines == (f"{run}: finished already; {run / 'summary.json'} has its metrics.",)


def test_it_can_be_made_longer_if_its_schedule_never_asked_how_long(tmp_path):
    constant = ["schedule=constant", "schedule.warmup=2"]
    whole = steps_of(composed(tmp_path / "whole", *constant))
    steps = steps_of(composed(tmp_path / "run", *constant, "trainer.max_epochs=2"))
    steps += steps_of(composed(tmp_path / "run", *constant))
    assert steps == whole
    assert same(learned(tmp_path / "run"), learned(tmp_path / "whole"))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_it_cant_be_made_longer_if_its_schedule_would_have_been_another(run):
    said = refused(run, "trainer.max_epochs=9")
    assert (
        "trainer.max_epochs=9: the learning rate of schedule=cosine depends on the length of the run: at step" in said
    )


def test_it_cant_be_made_shorter_than_it_is(run):
    assert "the run has made 4 steps already, and this makes 2" in refused(run, "trainer.max_steps=2")


def test_other_data_is_refused(run):
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(data | {"fingerprint": "another"}))
    said = refused(run)
    assert f"{run}: the data isn't what the run began with" in said
    assert "fingerprint: another then" in said


def test_another_version_is_named(run, capsys):
    path = run / "checkpoints" / "last.ckpt"
    held = torch.load(path, weights_only=True)
    held["plugformer"]["plugins"]["attention"]["version"] = "0.0.1"
    torch.save(held, path)
    steps_of(composed(run))
    assert "plugformer was of version 0.0.1, and is of" in capsys.readouterr().out


def test_a_smuggled_target_is_refused(run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("attention:\n", "attention:\n  _target_: os.system\n", 1))
    assert "_target_" in refused(run)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(run):
    last, before = (run / "checkpoints" / f"{name}.ckpt" for name in ("last", "last-1"))
    last.write_bytes(last.read_bytes()[:1000])
    said = refused(run)
    assert f"{last} is damaged; the one before it is whole: {before}, of step 3." in said
    last.unlink()
    steps = steps_of(composed(run))
    assert steps[0]["step"] == 3


def test_a_checkpoint_of_something_else_is_named(run):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    path = run / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    assert f"{path}: no checkpoint that a run of Plugformer can go on from." in refused(run)


def test_a_full_disk_is_named_and_the_run_before_goes_on(run, monkeypatch):
    def save(value, file):
        raise OSError(28, "No space left on device")

    whole = learned(run)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(RunFailed) as caught:
            train(plan(composed(run)).config)
    path = run / "checkpoints" / "last.ckpt"
    assert str(caught.value).startswith(f"{path}: can't be written (No space left on device).")
    assert f"plugformer train resume={run}" in str(caught.value)
    assert not list(path.parent.glob(".*"))
    assert same(learned(run), whole)
    assert steps_of(composed(run))[0]["step"] == 4


# ---------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGTERM, 75, ("batch", 4)),
        (signal.SIGUSR1, 75, ("batch", 3)),
        (signal.SIGTERM, 75, ("validation", 6)),
        (signal.SIGINT, 130, ("batch", 5)),
    ],
)
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on(tmp_path, monkeypatch, capsys, number, code, moment):
    overrides = ["trainer.save_every=null"]
    whole = steps_of(composed(tmp_path / "whole", *overrides))

    def send(self, hook, trainer):
        if (hook, trainer.global_step) == moment and not Watched.fails:
            Watched.fails = moment
            os.kill(os.getpid(), number)

    run = tmp_path / "run"
    Watched.steps, Watched.fails = [], None
    with monkeypatch.context() as patch:
        patch.setattr(Watched, "_perhaps", send)
        with pytest.raises(Stopped) as caught:
            train(composed(run, *overrides))
    assert caught.value.code == code
    said = capsys.readouterr().err
    assert f"stopped by a signal; it is saved. To go on: plugformer train resume={run}" in said
    seen = Watched.steps
    assert seen[-1]["step"] == checkpoint_of(run)["global_step"], "nothing is learned twice"
    assert seen + steps_of(composed(run, *overrides)) == whole
    assert same(learned(run), learned(tmp_path / "whole"))
    assert rows(run) == rows(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "as it was"


def test_a_second_ctrl_c_quits_at_once(tmp_path, monkeypatch):
    def send(self, hook, trainer):
        if hook == "batch" and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")

    monkeypatch.setattr(Watched, "_perhaps", send)
    with pytest.raises(KeyboardInterrupt):
        train(composed(tmp_path / "run"))


# ---------------------------------------------------------------------------------------------- one at a time


def test_two_jobs_cant_train_in_one_directory(run, tmp_path):
    """The lock is a process's own, so another has to ask."""
    with RunDir(run).claimed():
        child = os.fork()
        if not child:
            code = 1
            try:
                with RunDir(run).claimed():
                    pass
            except UserError as error:
                (tmp_path / "said").write_text(str(error))
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"run_dir={run}: process {os.getpid()} on ")
    assert "is training in it" in said
    with RunDir(run).claimed():
        pass
