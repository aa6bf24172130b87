"""Signals that reach the launcher and are meant for those it started."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plugformer.launch.processes import Processes

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Forwarding:
    """Each signal reaches each process once; a second Ctrl-C ends them at once.

    Attributes:
        seen: what came, in its order.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._processes: Processes | None = None

    def to(self, processes: Processes) -> None:
        """Whom it reaches, also what came before they were there."""
        self._processes = processes
        for number in self.seen:
            processes.signal(number)

    def __call__(self, number: int, _: Any) -> None:
        again = number in self.seen
        self.seen.append(number)
        if self._processes is None:
            return
        if not again:
            self._processes.signal(number)
        elif number == signal.SIGINT:
            self._processes.kill()


@contextmanager
def forwarding() -> Iterator[Forwarding]:
    """Within this, signals are passed on; afterwards they mean again what they did."""
    forwarded = Forwarding()
    if threading.current_thread() is not threading.main_thread():  # only there can a process listen to signals
        yield forwarded
        return
    before = {number: signal.getsignal(number) for number in FORWARDED}
    listened = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as nohup asks for
    for number in listened:
        signal.signal(number, forwarded)
    try:
        yield forwarded
    finally:
        for number in listened:
            signal.signal(number, before[number])
