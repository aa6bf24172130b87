"""What runs have to show and to hear, chosen so that a page with it stays small enough to pass on."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plugformer.compare.groups import Group
from plugformer.compare.run import Run
from plugformer.track.media import Cell, Media, MediaFile, read_media

STARTS = {"image": b"\x89PNG\r\n\x1a\n", "audio": b"RIFF"}
TYPES = {"image": "image/png", "audio": "audio/wav"}
ROWS = 64  # of a table that are shown
LETTERS = 4000  # of a text


@dataclass(frozen=True)
class Shown:
    """The newest media of one name and run.

    Attributes:
        group: its number.
        run: whose.
        media: what there is.
        files: as data URIs; of those that were left out, why.
    """

    group: int
    run: Run
    media: Media
    files: dict[str, str]


def choose(groups: Sequence[Group], *, limit: int) -> tuple[list[Shown], list[str]]:
    """Of every run the newest of each name, those of a first seed first, until `limit` bytes are there.

    Returns:
        What is shown, by name; and lines that say what isn't.

    Raises:
        UserError: a damaged index.
    """
    shown, left_out, spent = [], [], 0
    for group, run, media in _in_turn(groups):
        files, size = _embed(run, media)
        if spent + size > limit:
            left_out.append(f"{media.name} of {run.path}, step {media.step}: {size / 2**20:.1f} MiB")
            continue
        spent += size
        shown.append(Shown(group, run, media, files))
    names = list(dict.fromkeys(each.media.name for each in shown))
    shown.sort(key=lambda each: names.index(each.media.name))  # stable: groups stay in their order
    return shown, left_out


def _in_turn(groups: Sequence[Group]) -> Iterator[tuple[int, Run, Media]]:
    for turn in range(max((len(group.runs) for group in groups), default=0)):
        for number, group in enumerate(groups):
            if turn < len(group.runs):
                newest = {media.name: media for media in read_media(group.runs[turn].dir)}
                for media in newest.values():
                    yield number, group.runs[turn], media


def _embed(run: Run, media: Media) -> tuple[dict[str, str], int]:
    """Data URIs by path, and bytes in all."""
    files, size = {}, 0
    for cell in (cell for row in media.rows[:ROWS] for cell in row):
        if isinstance(cell, MediaFile):
            files[str(cell.path)] = _uri(run, cell)
            size += len(files[str(cell.path)])
        elif isinstance(cell, str):
            size += min(len(cell), LETTERS)
    return files, size


def _uri(run: Run, file: MediaFile) -> str:
    """Of a file of this run; an index is anybody's, and could name any other."""
    if not file.path.resolve().is_relative_to(run.path.resolve()):
        return "stands outside of the run directory"
    try:
        data = file.path.read_bytes()
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if not data.startswith(STARTS[file.kind]):
        return f"is no {TYPES[file.kind]}"
    return f"data:{TYPES[file.kind]};base64,{base64.b64encode(data).decode('ascii')}"


def cut(cell: Cell) -> str:
    """A cell that isn't a file, as text."""
    text = "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} … ({len(text) - LETTERS:,} more letters)"
