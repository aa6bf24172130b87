"""The processes of a job: what they are told, how they end, and that nothing is left of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import rank_stand_in
from tests.helpers import QUICK, ROOT, plugformer, quick_config
from tests.rank_stand_in import job

from plugformer.cli import rank as rank_command
from plugformer.cli.compose import compose
from plugformer.config import check_config
from plugformer.errors import UserError
from plugformer.job import Job
from plugformer.launch import launch as launching
from plugformer.launch import processes
from plugformer.launch.environment import rank_environments
from plugformer.launch.frozen import Frozen
from plugformer.launch.launch import Outcome, launch
from plugformer.launch.status import Status
from plugformer.ranks import Rank
from plugformer.run_dir import RunDir, read_json, write_json
from plugformer.settings import TrainerSettings
from plugformer.train.meeting import find_address
from plugformer.train.processes import check_processes

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    """Processes that take no seconds to begin, unless a test wants the real ones."""
    monkeypatch.setattr(launching, "COMMAND", rank_stand_in.COMMAND)
    monkeypatch.setattr(launching, "GRACE", 2.0)
    monkeypatch.setattr(processes, "LEFT_BEHIND", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def launched(path: Path, *fates: str) -> Outcome:
    before = dict(os.environ)
    outcome = launch(job(path, *fates))
    assert dict(os.environ) == before
    return outcome


def noted(path: Path, name: str, rank: int = 0) -> Any:
    file = path / "run" / f"{name}.{rank}"
    return json.loads(file.read_text()) if file.exists() and file.read_text() else None


def wait_for(what: Callable[[], Any], *, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited for in vain"
        time.sleep(0.02)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------ what they are told


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Rank(1, 4, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Rank()),  # left over: nobody could be found by these
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}, Rank(3, 4, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Rank()),  # the script of a job, without srun
    ],
)
def test_a_process_knows_its_rank_from_who_started_it(environment, rank):
    assert Rank.of(environment) == rank


def test_ranks_are_told_of_each_other_and_of_nobody_else():
    around = {"PATH": "/bin", "RANK": "7", "NODE_RANK": "3", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}
    first, second = rank_environments(2, 4000, around)
    assert [Rank.of(each) for each in (first, second)] == [Rank(0, 2, 0), Rank(1, 2, 1)]
    assert first["MASTER_PORT"] == second["MASTER_PORT"] == "4000"
    assert first.keys() - {"PATH", "OMP_NUM_THREADS"} == {
        "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    }  # fmt: skip


def test_ranks_share_the_cores_unless_somebody_says_otherwise():
    cores = len(os.sched_getaffinity(0))
    assert rank_environments(2, 1, {})[0]["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert rank_environments(2, 1, {"OMP_NUM_THREADS": "3"})[0]["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in rank_environments(1, 1, {})[0]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_composition_survives_being_written_down(experiment, tmp_path):
    needs = ["data.root=somewhere"] if experiment == "audio_folder" else []
    config = compose([f"experiment={experiment}", "run_dir=somewhere", *needs])
    frozen = Frozen.here(config, Job("sweep", 3, "seed=1"))
    write_json(tmp_path / "launch.json", frozen.record())
    read = Frozen.read(tmp_path / "launch.json")
    assert check_config(read.config) == config
    assert (read.job, read.folder, read.command) == (frozen.job, frozen.folder, sys.argv)


def test_what_is_written_down_can_name_plugins_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_command, "end_with_launcher", lambda: None)
    config = quick_config("run_dir=somewhere") | {"_target_": "os.system", "command": "true"}
    run = RunDir(tmp_path)
    run.ranks.mkdir()
    write_json(run.launch, Frozen.here(config).record())
    assert rank_command.main([str(run.launch)]) == 2
    assert "_target_: no such part of a run" in read_json(run.ranks / "0.json")["message"]


BY_TORCHRUN = {"RANK": "0", "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("world", "around", "started", "advised"),
    [
        (2, BY_TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, "torchrun started 2 processes", "devices=2 trainer.num_nodes=1."),
        (3, BY_TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, "torchrun started 3 processes", "devices=1 trainer.num_nodes=3."),
        (4, {"SLURM_NTASKS_PER_NODE": "2"}, "srun started 4 processes", "devices=2 trainer.num_nodes=2."),
        (2, {"RANK": "0"}, "there are 2 processes", "devices=2 trainer.num_nodes=1, or unset these variables."),
        (1, {}, "asks for 3 processes, and this one is alone.", "with one process for each device."),
    ],
)
def test_as_many_processes_are_started_as_are_asked_for(world, around, started, advised):
    with pytest.raises(UserError) as refused:
        check_processes(Rank(0, world, 0), TrainerSettings(devices=3, accelerator="cpu"), around)
    assert str(refused.value).startswith("trainer.devices=3 × trainer.num_nodes=1 ")
    assert started in str(refused.value)
    assert str(refused.value).endswith(advised)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (2, "trainer.devices=8: there are 2 GPUs here (trainer.accelerator=gpu). Set trainer.devices=2."),
        (0, "trainer.devices=8: there is no GPU here (trainer.accelerator=gpu). Set trainer.accelerator=cpu."),
    ],
)
def test_more_devices_than_there_are_are_refused(there, says, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(UserError) as refused:
        check_processes(Rank(0, 8, 0), TrainerSettings(devices=8, accelerator="gpu"), {})
    assert str(refused.value) == says


def test_tasks_of_a_step_meet_at_its_first_node():
    steps = [
        {"SLURM_STEP_ID": step, "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[3-5,9]"} for step in ("0", "0", "1")
    ]
    for each in steps:
        find_address(each)
    assert [each["MASTER_ADDR"] for each in steps] == ["node3"] * 3
    assert steps[0]["MASTER_PORT"] == steps[1]["MASTER_PORT"] != steps[2]["MASTER_PORT"]
    chosen = {"SLURM_STEP_ID": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    find_address(chosen)
    assert chosen["MASTER_ADDR"] == "here"


# ------------------------------------------------------------------------------------------------ how they end


def test_a_job_says_how_good_it_was(tmp_path):
    outcome = launched(tmp_path, "self.finish(0.25)", "self.note('rank', self.rank.number)")
    assert outcome == Outcome("finished", 0, None, 0.25)
    assert noted(tmp_path, "rank", 1) == 1
    assert Status.read(RunDir(tmp_path / "run")).state == "finished"


def test_warnings_of_one_rank_alone_are_told_once(tmp_path, capfd):
    both = "warn('Of both.'); self.finish()"
    assert (
        launched(tmp_path, both, f"warn('Mine.'); warn('Mine.', DeprecationWarning); {both}", both).state == "finished"
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("plugformer: ")]
    assert lines == ["plugformer: rank 1: Mine."]


def test_the_first_that_failed_says_why(tmp_path):
    outcome = launched(
        tmp_path,
        "self.begin(); self.fail(RuntimeError('Connection closed by peer'), after=1.5)",
        "self.fail(UserError('No.'), after=0.5)",
        "time.sleep(60)",
    )
    assert outcome == Outcome("failed", 2, "No.")
    status = Status.read(RunDir(tmp_path / "run"))
    assert (status.state, status.code, status.message) == ("failed", 2, "No.")


@pytest.mark.parametrize(
    ("fate", "says", "state"),
    [
        ("self.die()", "was killed by SIGKILL.\n  If nobody did that, the machine may have run out", "killed"),
        ("self.die(signal.SIGSEGV)", "was killed by SIGSEGV.", "killed"),
        (
            "self.exit(3, 'one\\ntwo')",
            "ended with exit code 3 and didn't say why.\n  Its last lines:\n    one\n    t",
            "failed",
        ),
    ],
)
def test_one_that_ends_without_a_word_is_named(fate, says, state, tmp_path):
    first = "self.fail(RuntimeError('Connection closed by peer'))"  # earlier than anybody sees what the other did
    outcome = launched(tmp_path, first, f"self.start_worker(); {fate}")
    assert (outcome.state, outcome.code) == (state, 1)
    assert outcome.message.startswith("Rank 1 of 2 ")
    assert says in outcome.message
    assert not lives(noted(tmp_path, "worker", 1))


def test_another_port_is_tried_unless_one_is_asked_for(tmp_path, monkeypatch):
    ports = iter([4001, 4002, 4003])
    monkeypatch.setattr(launching, "free_port", lambda: next(ports))
    port = "int(os.environ['MASTER_PORT'])"
    fates = [f"self.finish({port}) if {port} == 4003 else self.fail(PortInUse('taken'))"] * 2
    assert launched(tmp_path, *fates).objective == 4003
    monkeypatch.setenv("MASTER_PORT", "4002")
    with pytest.raises(UserError, match="taken"):
        launched(tmp_path, *fates)
    monkeypatch.setenv("MASTER_PORT", "http")
    with pytest.raises(UserError, match="MASTER_PORT=http: expected the number of a port"):
        launched(tmp_path, *fates)


def test_several_machines_are_not_started_from_one(tmp_path):
    frozen = job(tmp_path, "", "")
    frozen.config["trainer"]["num_nodes"] = 3
    with pytest.raises(UserError, match=r"--nnodes=3 --nproc_per_node=2 .* -m plugformer train"):
        launch(frozen)


# ------------------------------------------------------------------------------------------------ signals

LAUNCHER = """
import sys
from pathlib import Path
from tests import rank_stand_in
from tests.rank_stand_in import job
from plugformer.launch import launch as launching
launching.COMMAND = rank_stand_in.COMMAND
outcome = launching.launch(job(Path(sys.argv[1]), *sys.argv[2:]))
assert outcome.signalled == (outcome.code != 0)
print(outcome.state, outcome.code)
"""


@pytest.fixture
def launcher(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a launcher in a process group of its own, as a shell does."""
    started = []

    def start(*fates: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, str(tmp_path), *fates]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("number", "code", "exits"),
    [(signal.SIGINT, 130, 130), (signal.SIGTERM, 75, 75), (signal.SIGUSR1, 75, 75), (signal.SIGTERM, 0, 0)],
)
def test_a_signal_reaches_each_rank_once(number, code, exits, launcher, tmp_path):
    process = launcher(f"self.begin(); self.obey({code})", f"self.obey({code})")
    wait_for(lambda: noted(tmp_path, "ready", 0) and noted(tmp_path, "ready", 1))
    os.killpg(process.pid, number)  # as a terminal does it
    said, _ = process.communicate(timeout=30)
    assert said.split() == (["interrupted", str(exits)] if code else ["finished", "0"])
    assert [noted(tmp_path, "seen", rank) for rank in (0, 1)] == [[number], [number]]


def test_a_second_interrupt_ends_all_at_once(launcher, tmp_path):
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN); self.start_worker()"
    process = launcher(*[f"{deaf}; self.note('ready', os.getpid()); time.sleep(60)"] * 2)
    pids = [wait_for(lambda rank=rank: noted(tmp_path, "ready", rank)) for rank in (0, 1)]
    workers = [noted(tmp_path, "worker", rank) for rank in (0, 1)]
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(lives(pid) for pid in pids)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert said.split() == ["interrupted", "130"]
    assert not any(lives(pid) for pid in [*pids, *workers])


def test_nothing_outlives_its_launcher(launcher, tmp_path):
    process = launcher(*["self.begin(); self.start_worker(); self.note('ready', os.getpid()); time.sleep(60)"] * 2)
    pids = [wait_for(lambda rank=rank: noted(tmp_path, "ready", rank)) for rank in (0, 1)]
    workers = [noted(tmp_path, "worker", rank) for rank in (0, 1)]
    assert Status.read(RunDir(tmp_path / "run")).state == "running"
    process.kill()
    wait_for(lambda: not any(lives(pid) for pid in [*pids, *workers]))
    status = Status.read(RunDir(tmp_path / "run"))
    assert (status.state, status.code, status.message) == ("killed", 1, "its process is gone")


# ------------------------------------------------------------------------------------------------ the real ones


def test_two_devices_train_one_run_from_the_command_line(tmp_path):
    said = plugformer("train", *QUICK, "trainer.devices=2", "run_dir=run", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (said.stderr, said.stdout.count(" steps in ")) == ("", 1)
    run = RunDir(tmp_path / "run")
    assert Status.read(run).state == "finished"
    assert (run.ranks / "1.log").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        env = os.environ | {"MASTER_PORT": str(port)}
        done = plugformer("train", *QUICK, "trainer.devices=2", "run_dir=run", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (
        2,
        f"plugformer: MASTER_PORT={port}: in use by another program. Set MASTER_PORT to another one.\n",
    )


@pytest.mark.slow
def test_torchrun_starts_ranks_of_one_run(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "plugformer", "train", *QUICK]
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def started(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *overrides], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
        )

    done = started("trainer.devices=2")
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("runs/*/*/summary.json")  # by default named after the second
    assert done.stdout.count(" steps in ") == done.stdout.count(summary.parent.name) == 1
    done = started("trainer.devices=1", "run_dir=other")
    assert done.returncode != 0
    assert done.stderr.count("Set trainer.devices=2 trainer.num_nodes=1.") == 1
    assert not (tmp_path / "other").exists()
    done = started("trainer.devices=2", "seed=1,2", "-m")
    assert done.returncode != 0
    assert done.stderr.count("plugformer: -m: one sweep for each process.") == 1


@pytest.mark.slow
def test_srun_starts_ranks_of_one_run(tmp_path):
    """As its environment says; there is no SLURM here."""
    step = {"SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "127.0.0.1"}
    tasks = []
    for number in range(2):
        env = os.environ | step | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "plugformer", "train", *QUICK, "trainer.devices=2"]
        tasks.append(subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True))
    try:
        said = [task.communicate(timeout=200)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0], said
    assert len(list(tmp_path.glob("runs/*/*/summary.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "around",
    [
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "12", "SLURM_NTASKS_PER_NODE": "4"},
    ],
)
def test_a_run_alone_stays_alone(around, tmp_path):
    done = plugformer("train", *QUICK, "run_dir=run", cwd=tmp_path, env=os.environ | around)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
