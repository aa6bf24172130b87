"""Stands in for `plugformer _rank`: a process that does what it is told, without the seconds that torch takes."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from plugformer.errors import UserError, message
from plugformer.launch import status
from plugformer.launch.failure import Failure, PortInUse
from plugformer.launch.frozen import Frozen
from plugformer.launch.lifeline import end_with_launcher
from plugformer.launch.warned import keep_warnings
from plugformer.ranks import Rank
from plugformer.run_dir import RunDir, write_json

COMMAND = (sys.executable, "-m", "tests.rank_stand_in")


def job(path: Path, *fates: str) -> Frozen:
    """A job of as many ranks as there are fates, for the folder `run`."""
    trainer = {"devices": len(fates), "num_nodes": 1}
    return Frozen({"trainer": trainer, "run_dir": str(path / "run"), "fates": fates}, None, str(path), ["plugformer"])


class StandIn:
    """What a fate may do; a fate is a line of Python for each rank, of which `self` is this."""

    def __init__(self, path: Path) -> None:
        self.rank = Rank.of()
        self.run = RunDir(path.parent)
        self.frozen = Frozen.read(path)

    def begin(self) -> None:
        if self.rank.first:
            self.run.write_config(self.frozen.config)
            status.begin(self.run)

    def finish(self, objective: float = 0.5) -> None:
        self.begin()
        if self.rank.first:
            write_json(self.run.model, {"monitor": {"metric": "val/loss", "mode": "min"}})
            write_json(self.run.summary, {"val/loss": objective})

    def fail(self, error: Exception, after: float = 0.0) -> None:
        time.sleep(after)
        raise error

    def die(self, number: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    def exit(self, code: int, said: str = "") -> None:
        print(said, file=sys.stderr, flush=True)
        os._exit(code)

    def note(self, name: str, value: Any) -> None:
        """Beside the run, in a file of this rank's."""
        (self.run.path / f"{name}.{self.rank.number}").write_text(json.dumps(value))

    def start_worker(self) -> None:
        """A process of this one's, as a loader starts some."""
        self.note("worker", subprocess.Popen(["sleep", "100"]).pid)

    def obey(self, code: int, *, seconds: float = 30) -> None:
        """Note which signals come, and exit with a code a while after the first."""
        seen: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, _: seen.append(number))
        self.note("ready", os.getpid())
        deadline = time.monotonic() + seconds
        while not seen and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        self.note("seen", seen)
        os._exit(code)


def fate_of(self: StandIn) -> str:
    """Of the composition itself or, for jobs of a sweep, of a file where it was composed."""
    if "fates" in self.frozen.config:
        return self.frozen.config["fates"][self.rank.number]
    assert self.frozen.job is not None
    return json.loads((Path(self.frozen.folder) / "fates.json").read_text())[self.frozen.job.number]


def main() -> None:
    end_with_launcher()
    path = Path(sys.argv[1])
    self = StandIn(path)
    keep_warnings(self.run.ranks / f"{self.rank.number}.warnings")
    try:
        with status.ending(self.run.path):
            known = {"self": self, "os": os, "signal": signal, "time": time, "warn": warnings.warn}
            exec(fate_of(self), known | {"UserError": UserError, "PortInUse": PortInUse})
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failure = Failure.of(error, message(error))
        failure.write(path.parent / "ranks" / f"{self.rank.number}.json")
        sys.exit(failure.code)


if __name__ == "__main__":
    main()
