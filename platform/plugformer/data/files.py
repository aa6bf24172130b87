"""Finding and reading files, and telling which of them can't be used."""

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import NoReturn

from plugformer.errors import UserError

NUM_NAMED = 20


def match_files(option: str, patterns: list[str]) -> list[Path]:
    """The files that match any of the patterns, each once, by their names.

    Raises:
        UserError: names the patterns that match nothing.
    """
    found: set[Path] = set()
    problems = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matched = [path] if path.is_file() else [Path(name) for name in glob(str(path), recursive=True)]
        files = [file.resolve() for file in matched if file.is_file()]
        found.update(files)
        if not files:
            problems.append(
                f"{pattern}: is a folder; did you mean {path / '**' / '*.txt'}?" if path.is_dir() else pattern
            )
    refuse(f"data.{option}: no file matches", problems, f"Looked from {Path.cwd()}; `**` stands for any folders.")
    return sorted(found)


def visible_files(folder: Path) -> list[Path]:
    """All below it, by their paths."""
    walked = os.walk(folder, onerror=unreadable) if folder.is_dir() else ()
    paths = (Path(above, name) for above, _, names in walked for name in names if not name.startswith("."))
    return sorted(path for path in paths if path.is_file())


def unreadable(error: OSError) -> NoReturn:
    """
    Raises:
        UserError: always; in the system's words.
    """
    raise UserError(f"{error.filename}: can't be read ({error.strerror}).") from None


def read_text(path: Path) -> str:
    """A file of UTF-8, with line ends as `\\n` and without a byte order mark.

    Raises:
        UserError: it can't be read, isn't UTF-8, or holds nothing but white space.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}).") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8; byte {error.start} is 0x{data[error.start]:02x} ({error.reason})."
        ) from None
    if not text.strip("\ufeff \t\r\n\f\v"):
        raise UserError(f"{path}: is empty.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def refuse(what: str, problems: Sequence[str], advice: str) -> None:
    """
    Args:
        what: the sentence's subject, as in "data=csv: bad rows".
        problems: one line each; nothing happens without any.
        advice: what to do next.

    Raises:
        UserError: names the problems.
    """
    if problems:
        raise UserError(f"{what} ({len(problems)}).\n{listed(problems)}\n  {advice}")


def listed(problems: Sequence[str]) -> str:
    """A line for each problem, as far as anybody reads."""
    more = [f"and {len(problems) - NUM_NAMED} more"] if len(problems) > NUM_NAMED else []
    return "\n".join(f"  {problem}" for problem in [*problems[:NUM_NAMED], *more])
