"""Sweeps whose jobs come to bad ends: what is recorded, told, and run again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import rank_stand_in
from tests.helpers import QUICK, ROOT, plugformer
from tests.test_launch import lives, wait_for

from plugformer.cli.main import main
from plugformer.launch import launch as launching
from plugformer.launch.status import Status
from plugformer.launch.sweep import Sweep, ended
from plugformer.run_dir import RunDir, read_json

FINE, CRASHED, KILLED = (
    "self.finish({})",
    "self.begin(); self.fail(RuntimeError('as told'))",
    "self.begin(); self.die()",
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, where `fates.json` says what becomes of each job."""
    monkeypatch.setattr(launching, "COMMAND", rank_stand_in.COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fate(*fates: str) -> None:
    Path("fates.json").write_text(json.dumps([each.format(number) for number, each in enumerate(fates)]))


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def states(path: Path | str = "sweep") -> list[str | None]:
    return [each.state for each in ended(Sweep(path))]


def written(path: Path | str = "sweep") -> dict[str, int]:
    """When each file of each job was last written."""
    return {str(file): file.stat().st_mtime_ns for file in Path(path).glob("[0-9]*/**/*") if file.is_file()}


def read(path: Path) -> int:
    """What a job noted; 0 if it didn't yet."""
    return int(path.read_text() or 0) if path.exists() else 0


SITE = "from plugformer.launch import launch\nfrom tests import rank_stand_in\nlaunch.COMMAND = rank_stand_in.COMMAND\n"


def stood_in(path: Path) -> dict[str, str]:
    """The environment of processes in which, and in whatever they start, ranks are stood in for."""
    (path / "sitecustomize.py").write_text(SITE)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}


@contextmanager
def sweeping(*overrides: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep in a process group of its own, as a shell starts it."""
    command = [sys.executable, "-m", "plugformer", "train", "-m", *overrides, "run_dir=sweep"]
    started = subprocess.Popen(
        command, cwd=path, env=stood_in(path), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate(timeout=20)


SWEEP = ("train", "-m", "seed=shuffle(range(4))", "run_dir=sweep")


def test_what_becomes_of_each_job_is_told_and_the_rest_is_run_later(folder, capsys):
    fate(FINE, CRASHED, KILLED, FINE)
    assert command(*SWEEP) == 1
    said = capsys.readouterr()
    assert states() == ["finished", "failed", "killed", "finished"]
    assert said.err.count("plugformer: RuntimeError: as told") == 1
    assert said.err.count("was killed by SIGKILL") == 1
    seeds = [job.frozen["config"]["seed"] for job in Sweep("sweep").jobs]
    assert sorted(seeds) == [0, 1, 2, 3]
    lines = said.out.splitlines()
    assert [line.split()[:4] for line in lines if line.strip()[:1].isdigit()] == [
        ["0", "finished", "0", f"seed={seeds[0]}"],
        ["1", "failed", "-", f"seed={seeds[1]}:"],
        ["2", "killed", "-", f"seed={seeds[2]}:"],
        ["3", "finished", "3", f"seed={seeds[3]}"],
    ]
    assert "sweep: 2 of 4 jobs finished" in said.out
    assert lines[-1] == "`plugformer resume sweep` runs what is missing."

    finished = {file: at for file, at in written().items() if file.startswith(("sweep/0/", "sweep/3/"))}
    fate(CRASHED, FINE, FINE, CRASHED)
    assert command("resume", "sweep") == 0
    begun = [line.split("]")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("[job ")]
    assert (begun, states()) == (["[job 1", "[job 2"], ["finished"] * 4)
    assert finished.items() <= written().items()
    assert [read_json(RunDir(f"sweep/{number}").launch)["config"]["seed"] for number in range(4)] == seeds
    before = written()
    assert command("resume", "sweep") == 0
    assert written() == before


def test_a_sweep_can_be_moved_and_resumed_from_elsewhere(folder, monkeypatch):
    fate(CRASHED, FINE)
    assert command("train", "-m", "seed=0,1", "run_dir=sweep") == 1
    Path("sweep").rename("moved")
    (folder / "elsewhere").mkdir()
    fate(FINE, FINE)
    monkeypatch.chdir(folder / "elsewhere")
    assert command("resume", str(folder / "moved")) == 0
    assert states(folder / "moved") == ["finished", "finished"]
    assert not (folder / "sweep").exists()


def test_a_sweep_that_was_killed_itself_goes_on(folder):
    fate(FINE, "self.begin(); self.start_worker(); self.note('ready', os.getpid()); time.sleep(60)", FINE)
    with sweeping("seed=0,1,2", path=folder) as sweep:
        rank = wait_for(lambda: read(folder / "sweep" / "1" / "ready.0"))
        sweep.kill()
    wait_for(lambda: not lives(rank) and not lives(read(folder / "sweep" / "1" / "worker.0")))
    assert states() == ["finished", "killed", None]
    fate(CRASHED, FINE, FINE)
    assert command("resume", "sweep") == 0
    assert states() == ["finished"] * 3


def test_a_job_that_still_runs_is_left_alone(folder):
    fate(CRASHED, FINE)
    assert command("train", "-m", "seed=0,1", "run_dir=sweep") == 1
    Status("running").write(RunDir("sweep/0"))  # in this process
    fate(FINE, FINE)
    before = written()
    assert command("resume", "sweep") == 0
    assert (states(), written()) == (["running", "finished"], before)


def test_a_job_that_is_asked_to_stop_stops_alone(folder):
    fate("self.begin(); self.obey(75)", FINE)
    with sweeping("seed=0,1", path=folder) as sweep:
        os.kill(wait_for(lambda: read(folder / "sweep" / "0" / "ready.0")), signal.SIGUSR1)
        assert sweep.wait(timeout=60) == 75
    assert states() == ["interrupted", "finished"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_an_interrupted_sweep_ends(number, code, folder):
    fate(FINE, f"self.begin(); self.obey({code})", FINE)
    with sweeping("seed=0,1,2", path=folder) as sweep:
        wait_for((folder / "sweep" / "1" / "ready.0").exists)
        os.killpg(sweep.pid, number)
        said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == code
    assert states() == ["finished", "interrupted", None]
    assert "never began" in said
    assert "`plugformer resume sweep` runs what is missing." in said


def test_a_job_that_cannot_be_composed_is_one_of_those_that_failed(folder, capsys):
    fate(FINE, FINE, FINE, FINE)
    Path("two.py").write_text(
        "from plugformer.nn.full_attention import Full\nfrom plugformer.registry import register\n\n"
        "@register('attention', 'of_words')\nclass OfWords(Full):\n"
        "    def __init__(self, *, size: str = 'x') -> None:\n        super().__init__()\n\n"
        "@register('attention', 'of_numbers')\nclass OfNumbers(Full):\n"
        "    def __init__(self, *, size: int = 1) -> None:\n        super().__init__()\n"
    )
    sweep = ["plugins=[two.py]", "attention=of_words,of_numbers", "attention.size=1,x"]  # each beside the first others
    assert command("train", "-m", *sweep, "run_dir=sweep") == 2
    assert states() == ["finished", "finished", "finished", "failed"]
    assert "attention.size=x: expected an integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume", "nowhere"], "nowhere: no such folder. Expected a sweep's directory"),
        (["resume", "."], ".: not a sweep's directory, there is no sweep.json in it."),
        (["resume", ".", "seed=1"], "seed=1: a sweep goes on as it was composed."),
        (["train", "-m", "resume=sweep", "seed=1,2"], "resume=sweep: goes on with one run."),
    ],
)
def test_what_cannot_be_resumed_is_said(arguments, says, folder, capsys):
    assert command(*arguments) == 2
    assert says in capsys.readouterr().err


def test_a_sweep_is_not_begun_where_one_is(folder, capsys):
    fate(FINE, FINE)
    assert command("train", "-m", "seed=0,1", "run_dir=sweep") == 0
    before = written()
    assert command("train", "-m", "seed=0,1", "run_dir=sweep") == 2
    assert "`plugformer resume sweep` runs what is missing of it" in capsys.readouterr().err
    assert written() == before


# ------------------------------------------------------------------------------------------------ Hydra's others

SWEEPER = '''
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Halving(Sweeper):
    """Asks for one job after the other, each by what the last one gave."""

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        rate = 0.1
        for number in range(3):
            (job,) = self.launcher.launch([[*arguments, f"optimizer.lr={rate}"]], initial_job_idx=number)
            rate = rate / 2 if isinstance(job.return_value, float) else rate * 10


ConfigStore.instance().store(
    group="hydra/sweeper", name="halving", node={"_target_": "hydra_plugins.halving.Halving"}, provider="test"
)
'''


def test_a_sweeper_learns_how_good_each_job_was(folder, monkeypatch):
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "halving.py").write_text(SWEEPER)
    fate(FINE, CRASHED, FINE)
    done = plugformer("train", "-m", "hydra/sweeper=halving", "run_dir=sweep", cwd=folder, env=stood_in(folder))
    assert done.returncode == 1, done.stderr
    assert states() == ["finished", "failed", "finished"]
    rates = [job.frozen["config"]["optimizer"]["lr"] for job in Sweep("sweep").jobs]
    assert rates == pytest.approx([0.1, 0.05, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_of_hydras_runs_jobs_in_other_processes(launcher, folder):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    fate(FINE, CRASHED, KILLED, FINE)
    done = plugformer(*SWEEP, f"hydra/launcher={launcher}", cwd=folder, env=stood_in(folder))
    assert done.returncode == 1, done.stderr
    assert states() == ["finished", "failed", "killed", "finished"]
    assert "2 of 4 jobs finished" in done.stdout
    fate(*[FINE] * 4)
    assert command("resume", "sweep") == 0


# ------------------------------------------------------------------------------------------------ the real ones


@pytest.mark.slow
def test_ranks_of_a_random_sweep_agree_and_the_last_job_finishes_after_one_crashed(tmp_path):
    (tmp_path / "crash.py").write_text(
        textwrap.dedent(
            '''
            import os
            from plugformer.registry import register
            from plugformer.train.callbacks import Callback


            @register("callback", "crash")
            class Crash(Callback):
                """Notes what each rank learns at, and crashes one of them in one job."""

                def on_train_batch_start(self, trainer, module, batch, index):
                    folder, rate = trainer.default_root_dir, trainer.optimizers[0].defaults["lr"]
                    with open(f"{folder}/rate.{trainer.global_rank}", "w") as file:
                        file.write(f"{rate} {module.model.task.monitor.metric}")
                    if str(folder).endswith("/1") and trainer.global_rank == 1:
                        raise RuntimeError("as told")
            '''
        )
    )
    rates = "optimizer.lr=shuffle(0.001,0.002,0.003,0.004)"
    own = ["plugins=[crash.py]", "callback=[crash]", "trainer.devices=2", "loader.num_workers=1", "run_dir=sweep"]
    done = plugformer("train", "-m", *QUICK, *own, rates, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert states(tmp_path / "sweep") == ["finished", "failed", "finished", "finished"]
    assert done.stderr.count("as told") == 1
    noted = [{file.read_text() for file in (tmp_path / "sweep" / str(n)).glob("rate.*")} for n in range(4)]
    assert [len(each) for each in noted] == [1, 1, 1, 1]
    assert len(set.union(*noted)) == 4
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == [
        "0", "1", "2", "3", "multirun.yaml", "sweep.json",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["crash.py", "sweep"]
    here = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert str(tmp_path) not in here
