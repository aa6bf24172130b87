"""What a run is called by trackers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from plugformer.run_dir import RunDir, read_json
from plugformer.track.secrets import redact
from plugformer.track.wandb_options import LONGEST

_OF_A_SWEEP = re.compile(r"(?:^|,)run_dir=[^,]*")  # tells where a job stands, not what it is
_TIME = re.compile(r"[\d_-]+")


@dataclass(frozen=True)
class Names:
    """
    Attributes:
        name: of the run: its folder's or, in a sweep, its overrides.
        group: of a sweep's runs: the sweep's folder; None outside a sweep.
    """

    name: str
    group: str | None

    @classmethod
    def of(cls, run: RunDir) -> Names:
        if not run.job.is_file():
            return cls(_short(_folder(run.path)), None)
        job = read_json(run.job)
        overrides = _OF_A_SWEEP.sub("", job["name"]).strip(",")
        return cls(_short(overrides or f"job {job['number']}"), _short(_folder(Path(job["group"]))))


def _folder(path: Path) -> str:
    """The name of a folder; where that is but a time, with the one around it, as in `2026-01-31/12-00-00`."""
    parts = path.absolute().parts[1:] or ("root",)
    return "/".join(parts[-2:] if _TIME.fullmatch(parts[-1]) else parts[-1:])


def _short(name: str) -> str:
    name = redact(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
