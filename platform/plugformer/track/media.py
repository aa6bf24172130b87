"""What there is to see and hear of a run while it trains: tables of samples, pictures, sounds.

It stands in the run directory as plain files, whatever tracker is on, and trackers are told where.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plugformer.errors import UserError
from plugformer.run_dir import RunDir, plain


@dataclass(frozen=True)
class MediaFile:
    """
    Attributes:
        kind: image: a PNG file; audio: a WAV file.
        path: of the file.
        caption: what it shows.
    """

    kind: Literal["image", "audio"]
    path: Path
    caption: str = ""


Cell = str | int | float | bool | None | MediaFile


@dataclass(frozen=True)
class Media:
    """Something to look at, at one step.

    Attributes:
        name: as `split/what`, such as `val/samples`; the same at every step.
        step: optimiser steps before it.
        columns: names.
        rows: with a cell for each column; a picture by itself is a table of one cell.
    """

    name: str
    step: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def media_folder(run: RunDir, name: str, step: int) -> Path:
    """Where the files of such media stand."""
    return run.media / name.replace("/", "_") / f"{step:08d}"


def write_media(run: RunDir, media: Media) -> None:
    """Add it to the index, media/index.jsonl, with paths below the run directory."""
    rows = [[_told(cell, run) for cell in row] for row in media.rows]
    record = {"name": media.name, "step": media.step, "columns": list(media.columns), "rows": rows}
    run.media.mkdir(exist_ok=True)
    with run.media_index.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n")


def read_media(run: RunDir) -> Iterator[Media]:
    """All that was written, in its order; a line that a run which was killed left half is the last and left out.

    Raises:
        UserError: a damaged line among others.
    """
    if not run.media_index.exists():
        return
    lines = run.media_index.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            rows = [[_read(cell, run) for cell in row] for row in record["rows"]]
            media = Media(record["name"], record["step"], record["columns"], rows)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{run.media_index}:{number}: damaged ({type(error).__name__}: {error}).") from None
        yield media


def _told(cell: Cell, run: RunDir) -> Any:
    if not isinstance(cell, MediaFile):
        return cell
    return {cell.kind: cell.path.relative_to(run.path).as_posix(), "caption": cell.caption}


def _read(cell: Any, run: RunDir) -> Cell:
    if not isinstance(cell, Mapping):
        return cell
    kind: Literal["image", "audio"] = "image" if "image" in cell else "audio"
    return MediaFile(kind, run.path / cell[kind], cell["caption"])
