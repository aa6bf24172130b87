"""How a run is doing, or how it ended: status.json of its directory."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from plugformer.errors import Stopped, UserError, message
from plugformer.launch.failure import FAILED, INTERRUPTED, MISTAKE
from plugformer.run_dir import RunDir, read_json, write_json

State = Literal["running", "finished", "failed", "killed", "interrupted"]


@dataclass(frozen=True)
class Status:
    """
    Attributes:
        state: running; or how it ended: by a signal that it was asked to stop by as interrupted, without a word as
            killed.
        message: what went wrong.
        code: that the run's process exited with, or would have.
        pid, born, host: of the process that trains, of several the first. `born` tells it from a later one of its
            number.
        began, ended: seconds since 1970.
    """

    state: State
    message: str | None = None
    code: int | None = None
    pid: int = field(default_factory=os.getpid)
    born: str | None = field(default_factory=lambda: _born(os.getpid()))
    host: str = field(default_factory=socket.gethostname)
    began: float = field(default_factory=time.time)
    ended: float | None = None

    @classmethod
    def read(cls, run: RunDir) -> Status | None:
        """None where nothing was begun. A run whose process is gone was killed, whatever it last wrote.

        Of a process on another machine nobody knows here, so that what it wrote is believed.
        """
        if not run.status.exists():
            return None
        status = cls(**read_json(run.status))
        gone = status.state == "running" and status.host == socket.gethostname() and _born(status.pid) != status.born
        return replace(status, state="killed", code=FAILED, message="its process is gone") if gone else status

    def write(self, run: RunDir) -> None:
        write_json(run.status, asdict(self))

    def end(self, run: RunDir, state: State, code: int, said: str | None = None) -> None:
        replace(self, state=state, code=code, message=said, ended=time.time()).write(run)


def begin(run: RunDir) -> None:
    """This process trains, from now on."""
    Status("running").write(run)


@contextmanager
def ending(path: str | Path) -> Iterator[None]:
    """Within this, if a run begins in this process, how it ends is written down."""
    run = RunDir(path)
    try:
        yield
    except BaseException as error:
        _end(run, *_judge(error))
        raise
    _end(run, "finished", 0, None)


def _end(run: RunDir, state: State, code: int, said: str | None) -> None:
    status = Status.read(run)
    if status is not None and status.state == "running" and status.pid == os.getpid():
        status.end(run, state, code, said)


def _judge(error: BaseException) -> tuple[State, int, str | None]:
    if isinstance(error, Exception):
        return "failed", MISTAKE if isinstance(error, UserError) else FAILED, message(error)
    return "interrupted", error.code if isinstance(error, Stopped) else INTERRUPTED, None  # type: ignore[return-value]


def by_signal(number: int) -> str:
    """What is said of a process that a signal ended."""
    return f"killed by {signal.Signals(number).name}"


def _born(pid: int) -> str | None:
    """When a process began, in the system's own count where it tells; None if it is gone."""
    try:
        os.kill(pid, 0)
        of_kernel = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third field on
    except ProcessLookupError:
        return None
    except OSError:  # another user's, or a system without /proc
        return ""
    return None if of_kernel[0] == "Z" else of_kernel[19]
