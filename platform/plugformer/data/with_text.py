"""Files and a text that goes with each, to be written of it: what is said in a clip, what is seen in an image."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from plugformer.data.beside import Beside
from plugformer.data.drawing import Drawing, alike
from plugformer.data.files import listed, refuse
from plugformer.data.of_rows import DataOfRows
from plugformer.data.phrases import letters
from plugformer.data.records import Record, read_csv, read_jsonl
from plugformer.data.rows import Row, Rows
from plugformer.data.splits import linked
from plugformer.data.table import Table
from plugformer.errors import UserError, counted

_READERS = {
    ".csv": lambda path: read_csv(path, delimiter=","),
    ".tsv": lambda path: read_csv(path, delimiter="\t"),
    ".jsonl": read_jsonl,
}
_OF_TABLES = ("path_column", "text_column", "group_column", "split_column")
_OF_NAMES = ("text_file", "text_line")


class FilesWithText(DataOfRows):
    """Files named in a table, or found by their names beside their texts.

    Files of one text never stand in two drawn splits, nor do copies of a file. Texts count as one if they say the same
    but for capitals, punctuation and space.

    Args:
        paths: tables, or patterns of them, as in [clips.csv]: .csv or .tsv, whose first line names the columns, or
            .jsonl, a JSON object in each line.
        path_column: where the file of a row is, `path` by default; a relative path starts at the table's folder.
        text_column: its text, `text` by default.
        group_column: rows of one value, such as a speaker, never stand in two drawn splits; by default, rows of one
            text or one file don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        root: the folder at which relative paths start instead; or that holds all files, without a table.
        file: without a table, what files are called, as in "{name}.wav" or "{name}_desc_es.ogg", in any folder of
            root; or their path below it, as in "{group}/{name}.wav". Fields group and split do what such columns do.
            On the command line it takes both quotes: 'data.file="{name}.wav"'.
        text_file: where the text of such a file stands, "{name}.txt" by default.
        text_line: the number of its line there, from 1; or what that line is like, as in "es.utf8={text}" or
            "{name} {text}"; by default the text is all that stands there.
        normalise: `letters` makes small letters and digits of texts, without punctuation; `none` leaves them as they
            are written.
        val_fraction: share of the files that validation gets, unless it is given.
        test_fraction: share of the files that the test gets, unless it is given.
        split_seed: decides which files.
        bad_files: `fail` names files that are missing, can't be read or have no text, and ends the run before training;
            `skip` leaves them out and warns, naming them.

    Raises:
        UserError: neither a table nor names of files, or both, or an option of the other; no file, no such column, or
            rows that can't be used, named by file and line; one file in two groups or in two given splits.

    Attributes:
        kind: the plugin's name, for messages.
        num_texts: of a file, whether it may have `several`, or what it says is `one`.
    """

    kind: ClassVar[str]
    num_texts: ClassVar[Literal["one", "several"]]

    def __init__(
        self,
        *,
        paths: list[str] | None = None,
        path_column: str | None = None,
        text_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        root: Path | None = None,
        file: str | None = None,
        text_file: str | None = None,
        text_line: int | str | None = None,
        normalise: Literal["none", "letters"] = "none",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        bad_files: Literal["fail", "skip"] = "fail",
    ) -> None:
        drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        given: dict[str, Any] = {
            "path_column": path_column,
            "text_column": text_column,
            "group_column": group_column,
            "split_column": split_column,
            "text_file": text_file,
            "text_line": text_line,
        }
        rows: Rows
        if paths is not None and file is None:
            _refuse_others(given, _OF_NAMES, "data.paths", "data.file")
            columns = {role: given[f"{role}_column"] for role in ("group", "split")}
            rows = Table(
                kind=self.kind,
                paths=paths,
                read=_read,
                columns={"path": path_column or "path", "text": text_column or "text", **columns},
                types={"path": str, "text": str},
                drawing=drawing,
            )
        elif file is not None and paths is None:
            _refuse_others(given, _OF_TABLES, "data.file", "data.paths")
            if root is None:
                raise UserError(f"data.file={file}: in which folder? Set data.root.")
            rows = Beside(
                root=root,
                file=file,
                text_file=text_file or "{name}.txt",
                text_line=text_line,
                drawing=drawing,
                bad_files=bad_files,
            )
        else:
            raise UserError(
                f"data={self.kind}: set {'one' if paths is None else 'only one'} of data.paths, for tables that name "
                "files and texts,\n  and data.file, for files beside their texts, as in data.root=clips "
                "'data.file=\"{name}.wav\"'."
            )
        super().__init__(rows=rows, root=root, bad_files=bad_files)
        self.normalise = normalise

    # ------------------------------------------------------------------------------------------ texts

    def text(self, row: Row) -> str:
        written = row.values["text"]
        return letters(written) if self.normalise == "letters" else written

    def verify(self) -> None:
        if self.normalise == "letters":
            empty = [f"{row}: {row.values['text']}" for row in self.rows.rows if not self.text(row)]
            refuse("data.normalise=letters: texts that hold none", empty, "Leave them out, or set data.normalise=none.")
        super().verify()
        self._warn_of_repeated()

    def _warn_of_repeated(self) -> None:
        """That a file counts once, under whatever names it stands."""
        if not self._copies:
            return
        count = len(self._copies)
        repeat = "is a copy of another, and counts once" if count == 1 else "are copies of others, and count once"
        told = f"{self.where}: {counted(count, f'{self.medium.kind} file')} {repeat}."
        differing = [
            f"{first}: {first.values['text']}; {row}: {row.values['text']}"
            for row, first in self._copies
            if _phrase(row) != _phrase(first)
        ]
        if differing:
            told += f"\n  Of some the texts differ ({len(differing)}); the first one counts.\n{listed(differing)}"
        warnings.warn(told, stacklevel=2)

    # ------------------------------------------------------------------------------------------ rows

    @cached_property
    def _copies(self) -> list[tuple[Row, Row]]:
        """Rows that say nothing new, each with the first that says it; given splits and groups keep theirs."""
        first: dict[tuple[str | None, ...], Row] = {}
        copies = []
        for row in super().usable():
            own = _phrase(row) if self.num_texts == "several" else ""
            known = first.setdefault((self.digest(self.path(row)), own, row.split, row.values.get("group")), row)
            if known is not row:
                copies.append((row, known))
        return copies

    def usable(self) -> list[Row]:
        copies = {row.id for row, _ in self._copies}
        return [row for row in super().usable() if row.id not in copies]

    def alike(self, row: Row) -> str:
        return self._linked[row.id]

    @cached_property
    def _linked(self) -> dict[str, str]:
        """What is equal for rows that have a text or a file in common, be it by way of others."""
        rows = self.usable()
        first = linked([(f"says {_phrase(row)}", self.digest(self.path(row))) for row in rows])
        return {row.id: rows[index].id for row, index in zip(rows, first, strict=True)}


def _phrase(row: Row) -> str:
    """Equal for texts that say the same."""
    written = row.values["text"]
    return letters(written) or alike(written)


def _read(path: Path) -> Iterator[Record]:
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path}: not one of {', '.join(_READERS)}.")
    return _READERS[path.suffix.lower()](path)


def _refuse_others(options: Mapping[str, Any], names: Sequence[str], chosen: str, other: str) -> None:
    for name in names:
        if options[name] is not None:
            raise UserError(
                f"data.{name}={options[name]}: has no effect with {chosen}; it goes with {other}.\n  Leave it out."
            )
