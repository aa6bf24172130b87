"""Trains in processes that are killed at a random moment, goes on, and compares with a run that nobody touched.

    python -m tests.kill_driver FOLDER WORLD SEED COUNT

Training is started by forking a process that has imported all there is to import, so that a kill costs seconds. A line
of JSON a trial says what was killed and what was wrong afterwards, if anything was.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tests.helpers import quick_config
from tests.interrupted import learned, rows, same

from plugformer.registry import register
from plugformer.resuming import plan
from plugformer.run_dir import read_json
from plugformer.train import checkpoints as saving
from plugformer.train.callbacks import Callback
from plugformer.train.run import train

PATIENCE = 120  # seconds for one process
SHORT = (
    "callback=[told]",
    "trainer.max_epochs=4",
    "trainer.limit_batches=12",
    "trainer.accumulate=2",
    "trainer.save_every=2",
    "trainer.log_every=1",
    "backbone.dropout=0.2",
    "attention=performer",
    "attention.redraw_every=3",
)
KINDS = {
    1: ("rank 0", "worker", "half a checkpoint", "between two names"),
    2: ("rank 0", "rank 1", "half a checkpoint"),
}


@register("callback", "told")
class Told(Callback):
    """Writes down what each batch of a rank was and what came out, at once."""

    def on_train_batch_end(self, trainer, module, outputs, batch, _):
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        line = [number, trainer.current_epoch, batch["index"].tolist(), float(outputs["loss"]), torch.rand(1).item()]
        with open(os.environ["TOLD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Training:
    """The processes of one run, from their start to the end of the last."""

    def __init__(self, config: dict[str, Any], folder: Path, world: int, before: Callable[[], None] | None) -> None:
        self.log = folder / "said.txt"
        port = _free_port()
        self.pids = [self._fork(config, folder, rank, world, port, before) for rank in range(world)]
        self.codes: dict[int, int] = {}

    def _fork(
        self, config: dict[str, Any], folder: Path, rank: int, world: int, port: int, before: Callable[[], None] | None
    ) -> int:
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        code = 1
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it doesn't outlive the driver
            file = os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(file, stream)
            os.environ["TOLD"] = str(folder / f"told_{rank}.jsonl")
            if world > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            if before is not None and rank == 0:
                before()
            train(plan(config).config)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float) -> bool:
        """Whether one of them ended within this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for pid in self.pids:
                ended, status = os.waitpid(pid, os.WNOHANG) if pid not in self.codes else (0, 0)
                if ended:
                    self.codes[pid] = status
            if self.codes:
                return True
            time.sleep(0.005)
        return False

    def finish(self) -> None:
        """All of them: by themselves or, once one failed, as a launcher would end them."""
        for pid in self.pids:
            while pid not in self.codes:
                if any(self.codes.values()) or not self.wait_for(pid):
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    with suppress(ChildProcessError):
                        self.codes[pid] = os.waitpid(pid, 0)[1]

    def wait_for(self, pid: int) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[pid] = status
                return True
            time.sleep(0.005)
        return False

    def workers(self) -> list[int]:
        """Of the loader, in the first process."""
        listed = Path(f"/proc/{self.pids[0]}/task/{self.pids[0]}/children")
        with suppress(OSError):
            pids = listed.read_text().split()
            return [int(pid) for pid in pids if "pt_data" in Path(f"/proc/{pid}/comm").read_text()]
        return []


def half_a_checkpoint(number: int) -> Callable[[], None]:
    """The process dies while it writes one, as often as it has written so many."""

    def patch() -> None:
        save, left = torch.save, [number]

        def saves(value: Any, file: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                file.write(b"half a checkpoint")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            save(value, file)

        torch.save = saves

    return patch


def between_two_names(number: int) -> Callable[[], None]:
    """The process dies before it gives a checkpoint its name, but after those before it have theirs."""

    def patch() -> None:
        put, left = saving.put, [number]

        def puts(checkpoint: Path, place: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            put(checkpoint, place)

        saving.put = puts

    return patch


def killed(config: dict[str, Any], folder: Path, world: int, kind: str, moment: float, seconds: float) -> Iterator[str]:
    """Train until something is killed; what is wrong with its end."""
    patches = {"half a checkpoint": half_a_checkpoint, "between two names": between_two_names}
    before = patches[kind](int(moment * 12)) if kind in patches else None
    training = Training(config, folder, world, before)
    if before is None and not training.wait(moment * seconds):
        if kind == "worker":
            while not training.workers() and not training.wait(0.01):
                pass
            victims = training.workers()[:1]
        else:
            victims = [training.pids[int(kind.removeprefix("rank "))]]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    if not training.wait(PATIENCE):
        yield f"{kind} was killed, and nobody noticed"
    training.finish()
    if not any(training.codes.values()):
        return
    (folder / "killed").touch()
    if kind == "worker":
        said = training.log.read_text()
        if "DataLoader worker" not in said:
            yield f"nobody named the worker: {said[-1000:]}"
        if time.monotonic() - began > 20:
            yield f"its death was noticed after {time.monotonic() - began:.0f} s"


def wrong(folder: Path, reference: Path, world: int) -> Iterator[str]:
    """How a run that went on differs from the one that never stopped."""
    run, other = folder / "run", reference / "run"
    for rank in range(world):
        expected = [json.loads(line) for line in (reference / f"told_{rank}.jsonl").read_text().splitlines()]
        lines = (folder / f"told_{rank}.jsonl").read_text().splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        for line in told:
            if line != expected[line[0] - 1]:
                yield f"rank {rank}, batch {line[0]}: {line} instead of {expected[line[0] - 1]}"
        if missing := {line[0] for line in expected} - {line[0] for line in told}:
            yield f"rank {rank} never saw batches {missing}"
    if not same(learned(run), learned(other)):
        yield "the weights or the optimiser's state differ"
    if rows(run) != rows(other):
        yield f"metrics.csv differs: {rows(run)} instead of {rows(other)}"
    summaries = [read_json(path / "summary.json") | {"train/seconds": None} for path in (run, other)]
    if summaries[0] != summaries[1]:
        yield f"summary.json differs: {summaries}"
    if left := [path for path in run.rglob(".*") if path.name != ".lock"]:
        yield f"left over: {left}"


def composed(folder: Path, world: int, *overrides: str) -> dict[str, Any]:
    return quick_config(f"run_dir={folder / 'run'}", f"trainer.devices={world}", *SHORT, *overrides)


def trial(folder: Path, world: int, draw: random.Random, kind: str, reference: tuple[Path, float]) -> dict[str, Any]:
    folder.mkdir()
    workers = 2 if kind == "worker" else 0
    config = composed(folder, world, f"loader.num_workers={workers}")
    moments, found = [], []
    for _ in range(draw.choice([1, 1, 2])):
        moments.append(draw.uniform(0.05, 0.7))
        found += killed(config, folder, world, kind, moments[-1], reference[1])
        while not (folder / "killed").exists():  # it was faster than the reference
            shutil.rmtree(folder)
            folder.mkdir()
            moments[-1] *= 0.7
            found += killed(config, folder, world, kind, moments[-1], reference[1])
    going_on = Training(config, folder, world, None)
    going_on.finish()
    if any(going_on.codes.values()):
        found.append(f"couldn't go on: {(folder / 'said.txt').read_text()[-3000:]}")
    else:
        found += wrong(folder, reference[0], world)
    return {"kind": kind, "world": world, "moments": moments, "wrong": found}


def main() -> None:
    folder, world, seed, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
    reference = folder / "reference"
    reference.mkdir(parents=True)
    began = time.monotonic()
    training = Training(composed(reference, world), reference, world, None)
    training.finish()
    seconds = time.monotonic() - began
    assert not any(training.codes.values()), training.log.read_text()
    draw = random.Random(seed)
    for number in range(count):
        kind = KINDS[world][number % len(KINDS[world])]
        print(json.dumps(trial(folder / str(number), world, draw, kind, (reference, seconds))), flush=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
