"""Runs on a W&B server, from the command line to what the server keeps; and what happens where there is no good one."""

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from tests.helpers import QUICK, ROOT, plugformer, quick_config
from tests.wandb_stub import ENTITY, KEY, WRONG_KEY, WandbStub
from tests.wandb_stub_records import StubRun

from plugformer.config import Config
from plugformer.run_dir import RunDir, read_json
from plugformer.track.media import read_media
from plugformer.train.run import train

STEP = "trainer/global_step"
SECRET = "planted-in-the-environment"

# A part that lets a run take its time or come to a bad end.
FATE = '''
import os, signal, time
from plugformer.registry import register
from plugformer.train.callbacks import Callback


@register("callback", "fate")
class Fate(Callback):
    """What becomes of a run."""

    def __init__(self, *, seconds: float = 0.0, fails_at: int = -1, killed_at: int = -1) -> None:
        self.seconds = seconds
        self.fails_at = fails_at
        self.killed_at = killed_at

    def on_train_batch_start(self, trainer, module, batch, index):
        time.sleep(self.seconds)
        if trainer.global_step == self.fails_at:
            raise RuntimeError("as it was told to")
        if trainer.global_step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def stub() -> Iterator[WandbStub]:
    with WandbStub() as stub:
        yield stub
    assert stub.wrongs == []


@pytest.fixture
def env(stub, tmp_path) -> dict[str, str]:
    """The environment of a process that knows of this server alone."""
    (tmp_path / "fate.py").write_text(FATE)
    return environment(stub, tmp_path)


def environment(stub: WandbStub, folder: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    found = f"{Path(sys.executable).parent}{os.pathsep}{others['PATH']}"
    return others | stub.env(folder / "own") | {"PATH": found}


@contextmanager
def told(env: dict[str, str]) -> Iterator[None]:
    """The same for this process, in which wandb forgets at the end what it was told."""
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


def fated(**fate: Any) -> list[str]:
    """Overrides of a run with a fate."""
    told = [f"callback.fate.{key}={value}" for key, value in fate.items()]
    return ["plugins=[fate.py]", "callback=[fate]", *told, "trainer.media=0", "trainer.log_every=1"]


def start(*overrides: str, cwd: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "plugformer", "train", *QUICK, "logger=wandb", *overrides]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_wandb(*arguments: str | Path, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wandb", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for(what: Callable[[], Any], *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited for in vain"
        time.sleep(0.05)
    return found


def kept_by_run(run: RunDir) -> set[tuple[int, str, float]]:
    """What metrics.csv tells: steps, metrics and their values."""
    with run.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (int(row["step"]), name, float(value))
        for row in rows
        for name, value in row.items()
        if name != "step" and value != ""
    }


def kept_by_server(run: StubRun) -> set[tuple[int, str, float]]:
    return of_rows(run.history)


def of_rows(rows: list[dict[str, Any]]) -> set[tuple[int, str, float]]:
    return {
        (row[STEP], name, float(value))
        for row in rows
        for name, value in row.items()
        if name != STEP and not name.startswith("_") and isinstance(value, int | float)
    }


def inspected(run: RunDir, env: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a run's own file, as wandb itself reads them."""
    (path,) = (run.path / "wandb").glob("*run-*")
    done = run_wandb("leet", "inspect", "--json", path, cwd=run.path, env=env)
    return [json.loads(line) for line in done.stdout.splitlines()]


def kept_by_file(run: RunDir, env: dict[str, str]) -> set[tuple[int, str, float]]:
    return of_rows([record["history"]["item"] for record in inspected(run, env) if record["type"] == "history"])


def exit_code(run: RunDir, env: dict[str, str]) -> int | None:
    (code,) = [record["exit"]["exit_code"] for record in inspected(run, env) if record["type"] == "exit"] or [None]
    return code


# ------------------------------------------------------------------------------------------------ a good server


@dataclass(frozen=True)
class Arrived:
    """A run that was sent, and the server that it was sent to."""

    stub: WandbStub
    folder: RunDir
    config: Config
    printed: str

    @property
    def run(self) -> StubRun:
        (run,) = self.stub.runs
        return run


@pytest.fixture(scope="module")
def arrived(tmp_path_factory) -> Iterator[Arrived]:
    folder = RunDir(tmp_path_factory.mktemp("runs") / "run")
    config = quick_config("logger=wandb", "trainer.media=4", f"run_dir={folder.path}")
    with WandbStub() as stub, redirect_stdout(io.StringIO()) as printed:
        with told(environment(stub, tmp_path_factory.mktemp("wandb")) | {"SOME_TOKEN": SECRET}):
            train(config)
        yield Arrived(stub, folder, config, printed.getvalue())
    assert stub.wrongs == []


def test_a_run_arrives_where_it_says(arrived):
    run = arrived.run
    assert (run.state, run.exit_code, run.path[:2]) == ("finished", 0, (ENTITY, "plugformer"))
    assert f"{arrived.stub.url}/{ENTITY}/plugformer/runs/{run.name}" in arrived.printed


def test_a_composition_arrives_nested(arrived):
    sent = arrived.run.config
    assert {key: sent[key] for key in arrived.config} == json.loads(json.dumps(arrived.config))
    data = read_json(arrived.folder.data)
    assert sent["run"]["data"] == {key: data[key] for key in ("fingerprint", "samples")}


def test_metrics_arrive_at_their_steps(arrived):
    assert kept_by_server(arrived.run) == kept_by_run(arrived.folder)
    assert arrived.run.values("train/loss")
    summary = read_json(arrived.folder.summary)
    final = {name for name in summary if name.startswith(("test/", "model/"))}
    assert final
    assert {name: arrived.run.summary[name] for name in final} == {name: summary[name] for name in final}


def test_media_arrive_at_their_steps(arrived):
    sent = {(row[STEP], name) for row in arrived.run.history for name, value in row.items() if isinstance(value, dict)}
    assert sent
    assert sent == {(each.step, each.name) for each in read_media(arrived.folder)}
    assert any(name.startswith("media/images/") for name in arrived.run.files)


def test_checkpoints_arrive_with_what_it_takes_to_use_them(arrived):
    models = [each for each in arrived.stub.artifacts if each.type == "model"]
    assert sorted(alias for each in models for alias in each.aliases) == ["best", "last", "latest"]
    for each in models:
        assert {"config.yaml", "plugins.json", "data.json"} < set(each.files)
        assert any(name.startswith("checkpoints/") for name in each.files)
        for name, content in each.files.items():
            assert content == (arrived.folder.path / name).read_bytes(), name


def test_nothing_that_arrives_holds_a_secret(arrived):
    sent = [*arrived.stub.store.uploads.values(), json.dumps(arrived.run.told).encode()]
    sent += [line.encode() for stream in list(arrived.run.streams) for line in arrived.run.lines(stream)]
    assert not [each for each in sent if KEY.encode() in each or SECRET.encode() in each]


@pytest.mark.slow
def test_of_four_jobs_one_crashes(stub, env, tmp_path):
    fates = fated(fails_at="99,1,98,97")
    done = plugformer("train", "-m", *QUICK, "logger=wandb", "run_dir=sweep", *fates, cwd=tmp_path, env=env)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("as it was told to") == 1
    runs = sorted(stub.runs, key=lambda run: run.config["run"]["job"]["number"])
    assert [run.state for run in runs] == ["finished", "failed", "finished", "finished"]
    assert [run.exit_code for run in runs] == [0, 1, 0, 0]
    assert len({run.told["groupName"] for run in runs}) == 1
    assert len({run.display_name for run in runs}) == 4
    for number, (run, fate) in enumerate(zip(runs, (99, 1, 98, 97), strict=True)):
        assert f"fails_at={fate}" in run.display_name
        assert run.config["callback"]["fate"]["fails_at"] == fate
        assert kept_by_server(run) == kept_by_run(RunDir(tmp_path / "sweep" / str(number)))
        assert {each.run for each in stub.artifacts if f"-{run.name}" in each.name} == ({run.name} - {runs[1].name})


@pytest.mark.slow
def test_a_run_begins_from_an_artifact_and_the_server_knows_it(stub, env, tmp_path):
    def trained(*overrides: str) -> None:
        done = plugformer("train", *QUICK, "logger=wandb", *overrides, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr

    trained("run_dir=first")
    (parent,) = stub.runs
    (best,) = [each for each in stub.artifacts if "best" in each.aliases]
    reference = f"wandb:{ENTITY}/plugformer/{best.name}:best"
    trained("run_dir=second", f"init_from={reference}", "seed=1")
    trained("run_dir=third", "init_from=first", "seed=2")
    children = [run for run in stub.runs if run is not parent]
    assert [run.used for run in children] == [[best.id], [best.id]]
    assert parent.used == []

    done = plugformer("evaluate", reference, "loader.num_workers=0", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    accuracy = read_json(RunDir(tmp_path / "first").summary)["test/accuracy"]
    assert f"{accuracy:.4g}"[:5] in done.stdout

    done = plugformer("evaluate", reference.replace(":best", ":bst"), cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "bst" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.slow
def test_a_run_goes_on_under_its_id(stub, env, tmp_path):
    again = env | {"WANDB_RUN_ID": "thesame", "WANDB_RESUME": "allow"}
    for name in ("first", "second"):
        done = plugformer("train", *QUICK, "logger=wandb", f"run_dir={name}", cwd=tmp_path, env=again)
        assert done.returncode == 0, done.stderr
    (run,) = stub.runs
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))
    both = [kept_by_run(RunDir(tmp_path / name)) for name in ("first", "second")]
    assert kept_by_server(run) == set.union(*both)
    assert len(run.values("train/loss")) == 2 * len([each for each in both[0] if each[1] == "train/loss"])


@pytest.mark.slow
def test_of_two_processes_on_one_run_id_each_keeps_its_own(stub, env, tmp_path):
    same = env | {"WANDB_RUN_ID": "thesame"}
    fate = fated(seconds=0.5)
    both = [start(f"run_dir={name}", *fate, "trainer.limit_batches=8", cwd=tmp_path, env=same) for name in "ab"]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("in use by another process" in text for text in said) == 1
    assert len(stub.runs) == 2
    for run in stub.runs:
        assert kept_by_server(run) == kept_by_run(RunDir(run.config["run"]["directory"]))


# ------------------------------------------------------------------------------------------------ no good server


@pytest.mark.slow
def test_a_wrong_key_leaves_a_run_that_can_be_sent_later(stub, env, tmp_path, capsys):
    folder = RunDir(tmp_path / "run")
    with told(env | {"WANDB_API_KEY": WRONG_KEY}):
        train(quick_config("logger=wandb", f"run_dir={folder.path}"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb:")]
    assert len(said) == 1
    assert "refuses the API key" in said[0]
    assert stub.runs == []
    (path,) = (folder.path / "wandb").glob("offline-run-*")
    assert f"wandb leet {path}" in said[0]
    assert f"wandb sync {path}" in said[0]
    wait_for(lambda: exit_code(folder, env) == 0)

    run_wandb("sync", path, cwd=tmp_path, env=env)
    (run,) = stub.runs
    assert run.state == "finished"
    assert kept_by_server(run) == kept_by_run(folder)
    assert {"best", "last", "latest"} == {a for each in stub.artifacts if each.type == "model" for a in each.aliases}
    asked = len(stub.store.asked)
    run_wandb("sync", path, cwd=tmp_path, env=env)
    assert "UpsertBucket" not in stub.store.asked[asked:]


@pytest.mark.slow
def test_a_server_that_hangs_at_the_start_costs_seconds(stub, env, tmp_path, capsys):
    stub.hang()
    seconds = {}
    with told(env):
        for name, mode in (("warm", "offline"), ("offline", "offline"), ("hanging", "auto")):
            config = quick_config(f"run_dir={tmp_path / name}", "logger=wandb", f"logger.wandb.mode={mode}")
            started = time.monotonic()
            train(config)
            seconds[name] = time.monotonic() - started
    assert "doesn't answer" in capsys.readouterr().out
    assert seconds["hanging"] - seconds["offline"] < 3 + 3, seconds  # the second 3: for a machine that is busy
    wait_for(lambda: exit_code(RunDir(tmp_path / "hanging"), env) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["die", "hang"])
def test_a_server_that_goes_away_takes_nothing_along(stub, env, tmp_path, how):
    fate = fated(seconds=0.3)
    process = start("run_dir=run", *fate, "trainer.limit_batches=10", cwd=tmp_path, env=env)
    stop = threading.Timer(300, process.kill)
    stop.start()
    wait_for(lambda: stub.runs, seconds=250)
    getattr(stub, how)()
    run = RunDir(tmp_path / "run")
    wait_for(run.summary.exists, seconds=250)
    trained = time.monotonic()
    said, _ = process.communicate()
    stop.cancel()
    assert process.returncode == 0, said
    assert time.monotonic() - trained < 10 + 10, said  # the second 10: for a machine that is busy
    assert "wandb sync" in said
    assert len(kept_by_run(run)) > 10
    assert kept_by_file(run, env) == kept_by_run(run)
    assert exit_code(run, env) == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_killed_run_can_be_read_up_to_its_last_step(stub, env, tmp_path, mode):
    fate = fated(killed_at=7)
    process = start(
        "run_dir=run", f"logger.wandb.mode={mode}", *fate, "trainer.limit_batches=10", cwd=tmp_path, env=env
    )
    said, _ = process.communicate(timeout=300)
    assert process.returncode == -9, said
    run = RunDir(tmp_path / "run")

    def steps() -> set[int]:
        return {step for step, name, _ in kept_by_file(run, env) if name == "train/loss"}

    wait_for(lambda: steps() == set(range(7)), seconds=30)
    assert exit_code(run, env) is None


# ------------------------------------------------------------------------------------------------ sweeps


@pytest.mark.slow
def test_an_agent_of_a_server_trains_what_it_is_handed(stub, env, tmp_path):
    sweep = yaml.safe_load((ROOT / "docs" / "sweeps" / "attention.yaml").read_text(encoding="utf-8"))
    sweep["parameters"] = {"attention": {"values": ["full", "performer"]}, "seed": {"value": 3}}
    env_program_train, its_own = sweep["command"][:3], sweep["command"][3:]
    sweep["command"] = [*env_program_train, *QUICK, *its_own]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    said = run_wandb("sweep", "--project", "mechanisms", "sweep.yaml", cwd=tmp_path, env=env)
    (made,) = stub.sweeps
    address = f"{ENTITY}/mechanisms/{made.name}"
    assert f"wandb agent {address}" in said.stdout + said.stderr
    run_wandb("agent", address, cwd=tmp_path, env=env)
    assert len(made.agents) == 1
    assert [run.name for run in stub.runs] == made.runs
    for run, attention in zip(stub.runs, ["full", "performer"], strict=True):
        assert (run.state, run.told["sweep"], run.path[1]) == ("finished", made.name, "mechanisms")
        # Under the names of a sweep's parameters W&B keeps what it handed out, in place of what the run says there.
        assert (run.config["attention"], run.config["seed"]) == (attention, 3)
        assert kept_by_server(run) == kept_by_run(RunDir(tmp_path / "runs" / made.name / run.name))
