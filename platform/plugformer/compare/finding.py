"""From what stands on a command line to run directories."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from plugformer.errors import UserError, nearest
from plugformer.run_dir import RunDir


def find_runs(places: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Run directories in the order of their names' mention, each once; and what is to be told of those named twice.

    Args:
        places: run directories, folders with runs anywhere inside, as a sweep leaves them, or patterns of such.

    Raises:
        UserError: no such folder, or no run in it.
    """
    found: dict[Path, Path] = {}
    named: dict[Path, str] = {}
    notes = []
    for place in places:
        paths = _expand(place)
        for path in paths:
            real = path.resolve()
            if real in found and len(paths) == 1 and named[real] != place:
                notes.append(f"{place}: is {found[real]}, which is there already; counted once")
            elif real in found and len(paths) == 1:
                notes.append(f"{place}: given twice; counted once")
            found.setdefault(real, path)
            named.setdefault(real, place)
    return list(found.values()), notes


def _expand(place: str) -> list[Path]:
    path = Path(place).expanduser()
    if path.exists() or not glob.has_magic(place):
        return _runs_of(path)
    folders = [each for each in map(Path, sorted(glob.glob(str(path), recursive=True), key=_natural)) if each.is_dir()]
    runs = [run for folder in folders for run in _inside(folder)]
    if not runs:
        what = "no run directory" if folders else "nothing"
        raise UserError(f"{place}: {what} matches this pattern.")
    return runs


def _runs_of(path: Path) -> list[Path]:
    if not path.exists():
        siblings = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        guess = nearest(path.name, siblings)
        hint = f" Did you mean {path.parent / guess}?" if guess else ""
        raise UserError(f"{path}: no such folder.{hint} Expected a run directory, or a folder with runs inside.")
    if path.is_dir() and (runs := list(_inside(path))):
        return runs
    if path.is_dir():
        raise UserError(f"{path}: neither a run directory nor one with runs inside: there is no config.yaml in it.")
    raise UserError(f"{path}: a file. Expected a run directory, as `plugformer train` makes it.")


def _inside(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a run directory, otherwise all below it that are."""
    if RunDir(folder).config.is_file():
        yield folder
        return
    try:
        below = sorted((each.path for each in os.scandir(folder) if each.is_dir(follow_symlinks=False)), key=_natural)
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror}).") from None
    for each in below:
        if not os.path.basename(each).startswith("."):
            yield from _inside(Path(each))


def _natural(path: str) -> list[tuple[int, int | str]]:
    """2 before 10."""
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in re.split(r"(\d+)", path) if piece]
