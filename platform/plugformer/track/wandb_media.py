"""Things to look at in wandb's form, none so large that it would make a page or an upload slow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb

from plugformer.track.media import Cell, Media, MediaFile

MOST_BYTES = 5 * 2**20  # of a file
MOST_ROWS = 200
_TYPES = {"image": wandb.Image, "audio": wandb.Audio}


def as_wandb(media: Media) -> Any:
    """A table; of a picture or a sound by itself, that alone. None where it is too large.

    A column whose cells are of several types is one of anything, which wandb shows as text.
    """
    rows = [[_cell(cell) for cell in row] for row in media.rows[:MOST_ROWS]]
    if len(rows) == 1 and len(rows[0]) == 1 and isinstance(media.rows[0][0], MediaFile):
        return rows[0][0]
    mixed = any(_is_mixed(row[place] for row in rows) for place in range(len(media.columns)))
    return wandb.Table(columns=list(media.columns), data=rows, allow_mixed_types=mixed)


def too_large(media: Media) -> list[Path]:
    """Files of it that are left out."""
    cells = [cell for row in media.rows[:MOST_ROWS] for cell in row if isinstance(cell, MediaFile)]
    return [cell.path for cell in cells if not _fits(cell)]


def _fits(cell: MediaFile) -> bool:
    return cell.path.stat().st_size <= MOST_BYTES


def _cell(cell: Cell) -> Any:
    if not isinstance(cell, MediaFile):
        return cell
    return _TYPES[cell.kind](str(cell.path), caption=cell.caption) if _fits(cell) else None


def _is_mixed(cells: Iterable[Any]) -> bool:
    types = {float if type(cell) is int else type(cell) for cell in cells if cell is not None}
    return len(types) > 1
