"""What a process says of its end to who started it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from plugformer.errors import UserError
from plugformer.run_dir import read_json, write_json

MISTAKE, FAILED = 2, 1  # exit codes
INTERRUPTED = 130


class PortInUse(UserError):
    """Where the processes of a job were to find each other, somebody else listens."""


@dataclass(frozen=True)
class Failure:
    """
    Attributes:
        message: for the user.
        code: that the process exits with.
        at: when, by a clock that all processes of a machine share.
        kind: the exception's type.
    """

    message: str
    code: int
    at: float
    kind: str

    @classmethod
    def of(cls, error: BaseException, message: str) -> Failure:
        at = getattr(error, "failed_at", time.monotonic())  # when it arose, rather than when it came here
        return cls(message, MISTAKE if isinstance(error, UserError) else FAILED, at, type(error).__name__)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Failure | None:
        """None where nothing was said."""
        return cls(**read_json(path)) if path.exists() else None
