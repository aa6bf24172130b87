"""Files that are found by their names, each with a text that stands in another file."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, NamedTuple

from plugformer.data.drawing import Drawing, as_split
from plugformer.data.files import listed, read_text, refuse, visible_files
from plugformer.data.rows import Row, Rows
from plugformer.data.templates import Template
from plugformer.errors import UserError, counted
from plugformer.interfaces import Split

_ROLES = ("group", "split")  # fields that mean what such columns of a table do


class _Line(NamedTuple):
    number: int  # from 1
    text: str


class Beside(Rows):
    """A row for each file whose name is like a template.

    A template with a slash is a path below the root; one without is a name in any folder, where the file and its text
    then stand beside each other. The fields `group` and `split` mean what columns of a table do.

    Args:
        root: the folder.
        file: what files are called, as in `{name}_desc_es.ogg`.
        text_file: where the text of such a file stands, as in `{name}.txt`.
        text_line: the number of its line there, from 1; or what that line is like, as in `es.utf8={text}`; by default
            it is all that stands there.
        drawing: how splits are drawn.
        bad_files: what to do about files without a text.

    Raises:
        UserError: templates that can't be filled; when rows are asked for, no file, or one without a text.
    """

    item: ClassVar[str] = "file"

    def __init__(
        self,
        *,
        root: Path,
        file: str,
        text_file: str,
        text_line: int | str | None,
        drawing: Drawing,
        bad_files: Literal["fail", "skip"],
    ) -> None:
        self.root = root.expanduser()
        self.file = Template("data.file", file)
        self.text_file = Template("data.text_file", text_file)
        self.text_line = Template("data.text_line", text_line, "text") if isinstance(text_line, str) else text_line
        self.drawing = drawing
        self.bad_files = bad_files
        self._check()
        self.columns = {"path": file, "text": text_file} | {role: file for role in _ROLES if role in self.file.fields}
        self._read: dict[Path, list[str]] = {}

    def _check(self) -> None:
        if not self.file.fields:
            raise UserError(f"{self.file}: has no field, as {{name}} in {{name}}{PurePosixPath(self.file.text).suffix}")
        self.text_file.check_fields(self.file.fields, self.file)
        if isinstance(self.text_line, Template):
            if "text" not in self.text_line.fields:
                raise UserError(f"{self.text_line}: must say with {{text}} where in a line the text stands.")
            self.text_line.check_fields({*self.file.fields, "text"}, self.file)
        elif self.text_line is not None and self.text_line < 1:
            raise UserError(f"data.text_line={self.text_line}: lines are counted from 1.")
        if "/" in self.text_file.text and "/" not in self.file.text:
            raise UserError(
                f"{self.text_file}: with a slash it is a path below data.root, and {self.file} must be one as well."
            )

    @property
    def where(self) -> str:
        return f"data.root={self.root} {self.file}"

    def option(self, role: str) -> str:
        return str(self.file)

    @cached_property
    def rows(self) -> list[Row]:
        files = self._files
        rows, problems = [], []
        for name, fields in files.items():
            try:
                rows.append(self._row(name, fields))
            except UserError as error:
                problems.append(f"{name}: {error}")
        told = f"{self.where}: files that can't be used"
        if self.bad_files == "fail":
            refuse(told, problems, "Mend or remove them, or leave them out with data.bad_files=skip.")
        elif problems:
            warnings.warn(f"{told} ({len(problems)}).\n{listed(problems)}\n  They are left out.", stacklevel=2)
        self._warn_of_lone_texts(files)
        return rows

    @cached_property
    def _files(self) -> dict[str, dict[str, str]]:
        """The fields of each file's name, by its path below the root."""
        if not self.root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder.")
        named = {name: _fields(self.file, name) for name in self._names}
        found = {name: fields for name, fields in named.items() if fields is not None}
        if not found:
            there = f"such as {', '.join(self._names[:3])}" if self._names else "none at all"
            looked = "there" if "/" in self.file.text else "in all its folders"
            raise UserError(
                f"{self.file}: no file of data.root={self.root} has such a name.\n"
                f"  Looked {looked} and found {counted(len(self._names), 'file')}, {there}."
            )
        return found

    @cached_property
    def _names(self) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in visible_files(self.root)]

    def _row(self, name: str, fields: Mapping[str, str]) -> Row:
        text_file = _beside(self.text_file, name, fields)
        line = self._line(text_file, fields)
        values = {"path": name, "text": line.text} | {role: fields[role] for role in _ROLES if role in fields}
        split: Split | None = as_split(fields["split"]) if "split" in fields else None
        return Row(
            id=name,
            file=self.root / text_file,
            line=line.number,
            values=values,
            group=fields.get("group", name),
            split=split,
        )

    def _line(self, name: str, fields: Mapping[str, str]) -> _Line:
        """
        Args:
            name: of a text's file, its path below the root.
            fields: of the name of what it is the text of.

        Raises:
            UserError: no such file or line, or no text there.
        """
        file = self.root / name
        if not file.is_file():
            raise UserError(f"there is no {name}.")
        lines = self._lines(file)
        found = list(self._candidates(lines, fields))
        if not found:
            has = f"{name} has {counted(len(lines), 'line')}"
            raise UserError(
                f"{has}, and none like {self._said(fields)}."
                if isinstance(self.text_line, Template)
                else f"{has}, data.text_line={self.text_line}."
            )
        if len({line.text for line in found}) > 1:
            numbers = " and ".join(str(line.number) for line in found)
            raise UserError(f"{name} has several lines like {self._said(fields)}: {numbers}.")
        if not found[0].text:
            raise UserError(f"{name}:{found[0].number}: the text is empty.")
        return found[0]

    def _candidates(self, lines: list[str], fields: Mapping[str, str]) -> Iterator[_Line]:
        if self.text_line is None:
            yield _Line(1, "\n".join(lines).strip())
        elif isinstance(self.text_line, int):
            yield from [_Line(self.text_line, line.strip()) for line in lines[self.text_line - 1 : self.text_line]]
        else:
            for number, line in enumerate(lines, 1):
                if (match := self.text_line.match(line, fields)) is not None:
                    yield _Line(number, match["text"].strip())

    def _said(self, fields: Mapping[str, str]) -> str:
        assert isinstance(self.text_line, Template)
        return self.text_line.fill({**fields, "text": "{text}"})

    def _lines(self, file: Path) -> list[str]:
        if file not in self._read:
            self._read[file] = read_text(file).removesuffix("\n").split("\n")
        return self._read[file]

    def _warn_of_lone_texts(self, files: Mapping[str, Mapping[str, str]]) -> None:
        """Where the name of a text tells what its file would be called."""
        if self.text_file.fields != self.file.fields:
            return
        lone = []
        for name in self._names:
            fields = _fields(self.text_file, name)
            if fields is not None and _beside(self.file, name, fields) not in files and self._has_text(name, fields):
                lone.append(name)
        if lone:
            some = ", ".join(lone[:3])
            have = "has no such file, and is not used" if len(lone) == 1 else "have no such file, and are not used"
            warnings.warn(
                f"{self.where}: {counted(len(lone), 'text')} {have}: {some}{' …' * (len(lone) > 3)}", stacklevel=2
            )

    def _has_text(self, name: str, fields: Mapping[str, str]) -> bool:
        try:
            return bool(self._line(name, fields))
        except UserError:
            return False


def _fields(template: Template, name: str) -> dict[str, str] | None:
    return template.match(name if "/" in template.text else PurePosixPath(name).name)


def _beside(template: Template, name: str, fields: Mapping[str, str]) -> str:
    """Filled, as a path below the root.

    Args:
        template: of the other file.
        name: the path of one.
        fields: its own.
    """
    filled = template.fill(fields)
    return filled if "/" in template.text else PurePosixPath(name).with_name(filled).as_posix()
