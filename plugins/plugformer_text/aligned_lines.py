"""Files whose lines go together: line n of one with line n of the other."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from plugformer.data.drawing import Drawing
from plugformer.data.files import listed, match_files, refuse
from plugformer.data.rows import Row, Rows
from plugformer.errors import UserError, counted
from plugformer.interfaces import Split

BOM = b"\xef\xbb\xbf"


class SideBySide(NamedTuple):
    """Files by their names or patterns, the first of one side with the first of the other."""

    source: list[str]
    target: list[str]


class AlignedLines(Rows):
    """A row's `source` is a line of a source file, its `target` that of the target file.

    Lines end in `\\n` or `\\r\\n`, and in nothing else, so that both files are counted as other tools count them.

    Args:
        files: of each split that has its own; `val` and `test` are drawn from `train` if they have none.
        drawing: how.
        bad_lines: whether pairs without a text on both sides end the run or are left out with a warning.

    Raises:
        UserError: no such file, files of different lengths, or lines that are empty or not UTF-8, named by number.
    """

    item = "line"

    def __init__(
        self, *, files: Mapping[Split, SideBySide], drawing: Drawing, bad_lines: Literal["fail", "skip"]
    ) -> None:
        self.files = files
        self.drawing = drawing
        self.bad_lines = bad_lines
        self.columns = {"source": "source", "target": "target"} | ({"split": "source"} if len(files) > 1 else {})

    @property
    def where(self) -> str:
        return f"data.source={self.files['train'].source}"

    def option(self, role: str) -> str:
        return self.where

    @cached_property
    def rows(self) -> list[Row]:
        pairs = [pair for split, sides in self.files.items() for pair in _pairs(split, sides)]
        sources = [source for _, source, _ in pairs]
        twice = sorted({str(source) for source in sources if sources.count(source) > 1})
        refuse("data.source: files that stand there twice", twice, "Name each once; val_source and test_source count.")
        names = [source.name for source in sources]
        rows, unread, bad = [], [], []
        for split, source, target in pairs:
            name = source.name if names.count(source.name) == 1 else str(source)
            try:
                lines = list(_aligned(source, target))
            except UserError as error:
                unread.append(str(error))
                continue
            for line, text, translation, problem in lines:
                if problem:
                    bad.append(problem)
                    continue
                values = {"source": text, "target": translation}
                id_ = f"{name}:{line}"
                rows.append(Row(id=id_, file=source, line=line, values=values, group=id_, split=split))
        refuse(f"{self.where}: files that can't be used", unread, "Line n of one must go with line n of the other.")
        self._tell(bad)
        return rows

    def _tell(self, bad: list[str]) -> None:
        what = f"{self.where}: lines that can't be used"
        if self.bad_lines == "fail":
            refuse(what, bad, "Mend them, or leave such pairs out with data.bad_lines=skip.")
        elif bad:
            warnings.warn(f"{what} ({len(bad)}).\n{listed(bad)}\n  Their pairs are left out.", stacklevel=2)


def _pairs(split: Split, sides: SideBySide) -> list[tuple[Split, Path, Path]]:
    prefix = "" if split == "train" else f"{split}_"
    source, target = (match_each(f"{prefix}{side}", names) for side, names in sides._asdict().items())
    if len(source) != len(target):
        raise UserError(
            f"data.{prefix}source: {counted(len(source), 'file')}, but {len(target)} of data.{prefix}target.\n"
            "  The first of one goes with the first of the other, and so on."
        )
    return [(split, one, other) for one, other in zip(source, target, strict=True)]


def match_each(option: str, patterns: list[str]) -> list[Path]:
    """The files of each pattern, in the order of the patterns.

    Raises:
        UserError: names the patterns that match nothing.
    """
    match_files(option, patterns)
    return [path for pattern in patterns for path in match_files(option, [pattern])]


def _aligned(source: Path, target: Path) -> Iterator[tuple[int, str, str, str]]:
    """The number of each line, what stands there in both files, and why that can't be used, if so."""
    ours, theirs = _lines(source), _lines(target)
    if len(ours) != len(theirs):
        longer, alone = source if len(ours) > len(theirs) else target, min(len(ours), len(theirs)) + 1
        raise UserError(
            f"{source} has {counted(len(ours), 'line')}, {target} has {len(theirs)}; the first that is alone is "
            f"{longer}:{alone}."
        )
    for line, raw in enumerate(zip(ours, theirs, strict=True), 1):
        texts, problems = [], []
        for path, data in zip((source, target), raw, strict=True):
            try:
                texts.append(data.decode())
            except UnicodeDecodeError as error:
                problems.append(f"{path}:{line}: not UTF-8; byte {error.start} is 0x{data[error.start]:02x}.")
            else:
                problems += [] if texts[-1].strip() else [f"{path}:{line}: is empty."]
        yield (line, "", "", " ".join(problems)) if problems else (line, texts[0], texts[1], "")


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}).") from None
    if not data.strip():
        raise UserError(f"{path}: is empty.")
    return [line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
