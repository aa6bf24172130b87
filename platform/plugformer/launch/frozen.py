"""What a job is, written down before it begins: every process of it reads the same, whoever starts it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.job import Job
from plugformer.run_dir import plain, read_json


@dataclass(frozen=True)
class Frozen:
    """
    Attributes:
        config: a composition in which nothing is left to be resolved; whoever runs it checks it.
        job: which of a sweep it is, if it is one.
        folder: that the paths in it start from.
        command: that it was asked for with.
    """

    config: Config
    job: Job | None
    folder: str
    command: list[str]

    @classmethod
    def here(cls, config: Config, job: Job | None = None) -> Frozen:
        return cls(config, job, str(Path.cwd()), list(sys.argv))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return plain(asdict(self))

    @classmethod
    def of(cls, record: Any, where: str) -> Frozen:
        """
        Args:
            record: as `record` gives it.
            where: it was kept, for messages.

        Raises:
            UserError: something else.
        """
        try:
            job = record["job"] and Job(**record["job"])
            return cls(dict(record["config"]), job, str(record["folder"]), list(record["command"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where}: not a job that `plugformer train` wrote down.") from None

    @classmethod
    def read(cls, path: str | Path) -> Frozen:
        """
        Raises:
            UserError: missing, damaged, or something else.
        """
        return cls.of(read_json(Path(path)), str(path))
