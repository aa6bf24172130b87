"""Whose weights a run begins with, as W&B knows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugformer.errors import UserError
from plugformer.run_dir import RunDir, read_json
from plugformer.track.references import is_reference, name_in


@dataclass(frozen=True)
class Parent:
    """
    Attributes:
        reference: of the artifact, as `entity/project/name:alias`.
        run: its id; None where only the artifact is known.
        uploaded: whether W&B has it.
    """

    reference: str
    run: str | None
    uploaded: bool

    def record(self) -> dict[str, Any]:
        return asdict(self)


def parent_of(init_from: str | None) -> Parent | None:
    """None where the weights are new, or of no run that W&B was told of."""
    if init_from is None:
        return None
    if is_reference(init_from):
        return Parent(name_in(init_from), None, True)
    path = Path(init_from).expanduser()
    folder, alias = (path.parent.parent, path.stem) if path.is_file() else (path, "best")
    try:
        tracked = read_json(RunDir(folder).tracked)
    except (UserError, OSError):
        return None
    if not tracked.get("artifact"):
        return None
    place = "/".join(part for part in (tracked["entity"], tracked["project"], tracked["artifact"]) if part)
    return Parent(f"{place}:{alias}", tracked["id"], tracked["online"])
