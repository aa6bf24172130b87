"""SIGTERM, SIGUSR1 and Ctrl-C: a run that is asked to stop saves itself first."""

import mmap
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import distributed

from plugformer.errors import REQUEUE, Stopped

CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """What this process was asked.

    Attributes:
        deferring: whether somebody looks at `asked` again and again, and will stop; else a signal stops at once.
        asked: the first signal that asked to stop; 0 if none did.
    """

    def __init__(self) -> None:
        self.deferring = False
        self.asked = 0
        self._group: Any = None
        self._process = os.getpid()
        self._over = mmap.mmap(-1, 1)  # shared with processes that are forked

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._handle_in_worker(number)
            return
        again = self.asked and number == signal.SIGINT
        self.asked = self.asked or number
        if self.deferring and not again:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(REQUEUE)

    def _handle_in_worker(self, number: int) -> None:
        """Schedulers and terminals tell a loader's workers, too, which have to go on until training is saved."""
        if self._over[0]:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def end(self) -> None:
        """Training is over: workers that are left may be ended."""
        self._over[0] = 1

    def agreed(self) -> int:
        """The signal that any rank was sent, or 0; where there are several, each has to call it."""
        if not distributed.is_initialized():
            return self.asked
        if self._group is None:  # on the CPU whatever trains, which then needn't be waited for
            self._group = distributed.new_group(backend="gloo")
        asked = torch.tensor(self.asked)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._group)
        return int(asked)

    @staticmethod
    def stopped(number: int) -> Stopped:
        """What ends a run that has saved itself."""
        return Stopped(128 + number if number == signal.SIGINT else REQUEUE)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Within, signals are caught; in another thread than the main one, where they can't be, none ever comes."""
    signals = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.getsignal(number) for number in CAUGHT}
    caught = [number for number in CAUGHT if before[number] is not signal.SIG_IGN]  # as nohup asks for
    for number in caught:
        signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        signals.end()
        for number in caught:
            signal.signal(number, before[number] or signal.SIG_DFL)
