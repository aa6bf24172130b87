"""The processes of one job, which begin and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

POLL = 0.05
LEFT_BEHIND = 6.0  # seconds in which what a process started notices that it is gone; of a loader's workers, 5


class Processes:
    """Each in a group of its own, so that Ctrl-C reaches the launcher alone, with what it starts itself.

    The first speaks to the terminal. What the others say goes into a file each.

    Args:
        command: of all of them.
        environments: of each.
        folder: that they run in.
        logs: of those but the first.
    """

    def __init__(
        self, command: Sequence[str], environments: Sequence[dict[str, str]], *, folder: str, logs: Sequence[Path]
    ) -> None:
        self.killed: set[int] = set()  # by us
        self.all: list[subprocess.Popen[bytes]] = []
        try:
            for number, environment in enumerate(environments):
                self.all.append(_start(command, environment, folder, logs[number - 1] if number else None))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self.all]

    def signal(self, number: int) -> None:
        """Tell each that still runs."""
        for each in self.all:
            if each.poll() is None:
                each.send_signal(number)

    def kill(self) -> None:
        """End each that still runs, with what it started."""
        for number, each in enumerate(self.all):
            if each.poll() is None:
                self.killed.add(number)
                with suppress(ProcessLookupError):
                    os.killpg(each.pid, signal.SIGKILL)

    def wait(self, *, failed: Callable[[int], bool], grace: Callable[[], float]) -> list[int]:
        """Until all have ended, and what they started has had the time to end as well.

        Args:
            failed: whether a process of this exit code has, so that the others have to end too.
            grace: seconds that they have for it.

        Returns:
            The exit code of each; of one that a signal ended, minus its number.
        """
        deadline = None
        while any(each.poll() is None for each in self.all):
            time.sleep(POLL)
            if deadline is None and any(each.returncode is not None and failed(each.returncode) for each in self.all):
                deadline = time.monotonic() + grace()
            if deadline is not None and time.monotonic() > deadline:
                self.kill()
        self._await_left_behind()
        return [each.wait() for each in self.all]

    def close(self) -> None:
        """End whatever is left, at once."""
        self.kill()
        for each in self.all:
            each.wait()
            _kill_group(each.pid)
            if each.stdin is not None:
                each.stdin.close()

    def _await_left_behind(self) -> None:
        deadline = time.monotonic() + LEFT_BEHIND
        while time.monotonic() < deadline and any(_lives(group) for group in self.pids):
            time.sleep(POLL)


def _start(
    command: Sequence[str], environment: dict[str, str], folder: str, log: Path | None
) -> subprocess.Popen[bytes]:
    with ExitStack() as closing:
        said = closing.enter_context(log.open("wb")) if log is not None else None
        return subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,  # the lifeline: this process holds the other end
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def _lives(group: int) -> bool:
    """Whether a process is left in a group whose first one is gone; while one is, nobody else gets its number."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
