"""A checkpoint is whole or not there, and is read as data alone."""

import errno
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.helpers import quick_config

from plugformer.assemble import load_run
from plugformer.errors import UserError
from plugformer.train.checkpoint_io import AtomicCheckpointIO
from plugformer.train.run import train

SAVE = """
import os, resource, signal, sys, torch
from pathlib import Path
from plugformer.train.checkpoint_io import AtomicCheckpointIO
path, how = sys.argv[1:]
if how == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
else:
    def save(value, file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    torch.save = save
AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(100_000)}, path)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(quick_config(f"run_dir={path}"))
    return path


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_previous_checkpoint(saved, monkeypatch, problem):
    before = saved.read_bytes()

    def save(value, file):
        file.write(b"half")
        raise problem

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(type(problem)):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("how", ["limit", "kill"])
def test_a_process_that_dies_writing_leaves_the_previous_checkpoint(saved, how):
    before = saved.read_bytes()
    ended = subprocess.run([sys.executable, "-c", SAVE, str(saved), how], capture_output=True, check=False, timeout=120)
    assert ended.returncode == (-signal.SIGKILL if how == "kill" else 1), ended.stderr.decode()
    assert saved.read_bytes() == before
    if how == "limit":
        assert b"OSError: [Errno 27] File too large" in ended.stderr
        assert list(saved.parent.iterdir()) == [saved]


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(path.parent / "executed")))
    elif how == "torch":
        torch.save({"state_dict": Bomb(path.parent / "executed")}, path)
    elif how == "list":
        torch.save([1, 2], path)
    else:
        torch.save({"state_dict": {"model.other": torch.zeros(1)}}, path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "can't be loaded as a checkpoint"),
        ("empty", "can't be loaded as a checkpoint"),
        ("pickle", "can't be loaded as a checkpoint"),
        ("torch", "can't be loaded as a checkpoint"),
        ("list", "not a checkpoint, it holds a list"),
        ("other", "the weights are of another model"),
    ],
)
def test_a_bad_checkpoint_is_named_and_never_run(run, how, says):
    path = run / "checkpoints" / "best.ckpt"
    damage(path, how)
    with pytest.raises(UserError) as caught:
        load_run(run)
    assert str(caught.value).startswith(f"{path}: {says}")
    assert "still be loaded" not in str(caught.value), "advice on how to run it all the same"
    assert not (path.parent / "executed").exists()


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_are_data_that_say_where_they_come_from(trained, name):
    held = torch.load(trained / "checkpoints" / f"{name}.ckpt", weights_only=True)
    origin = held["plugformer"]
    assert origin["version"]
    assert origin["config"]["backbone"]["dim"] == 16
    assert origin["plugins"]["attention"]["entry_point"] == "plugformer.nn.full_attention:Full"
