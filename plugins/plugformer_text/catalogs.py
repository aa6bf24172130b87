"""Catalogs of gettext: where they lie, which language they are in, and what they say."""

import codecs
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from gettext import c2py
from pathlib import Path
from struct import error as StructError
from typing import Any, Literal, NamedTuple

import polib

from plugformer.data.files import unreadable
from plugformer.errors import UserError

Reason = Literal["fuzzy", "obsolete", "untranslated"]
_CODE = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z0-9]{2,8})*(?:@\w+)?")
_LANGUAGE = re.compile(rb'(?:^"?|\0)Language:[ \t]*([A-Za-z0-9_@.-]+)', re.MULTILINE)
_CHARSET = re.compile(rb'Content-Type:[^\n]*charset=([^\s\\"]+)')
_SYNTAX = re.compile(r'(?:#~\s+)?(?:msg(?:ctxt|id|id_plural|str(?:\[\d\])?)\s*)?"(?:[^"\\]|\\.)*"')
_MANY = range(2, 200)  # counts that tell which plural form most numbers take


class Message(NamedTuple):
    """
    Attributes:
        place: the line where it begins, or its number in a compiled catalog, from 1.
        pairs: what it says, and how that is translated: of one thing and of several, where it depends on their number.
        left_out: why there are none, if so.
    """

    place: int
    pairs: tuple[tuple[str, str], ...]
    left_out: Reason | None = None


# ---------------------------------------------------------------------------------------------- finding


def find_catalogs(root: Path) -> dict[str, list[Path]]:
    """The .po and .mo files below a folder by the code of their language; or of a single file.

    The code is the folder above LC_MESSAGES, or else what the file's header says, or else the file's name. Of a catalog
    that is there as it was written and compiled, only the former counts, which knows what is fuzzy.
    """
    paths = [root] if root.is_file() else sorted([*root.rglob("*.po"), *root.rglob("*.mo")])
    written = {path.with_suffix("") for path in paths if path.suffix == ".po"}
    found = defaultdict(list)
    for path in paths:
        if path.suffix == ".po" or path.with_suffix("") not in written:
            found[_language(path)].append(path)
    return dict(found)


def _language(path: Path) -> str:
    """Empty if nothing says it."""
    if path.parent.name == "LC_MESSAGES":
        return path.parent.parent.name
    named = _LANGUAGE.search(_read(path))
    if named:
        return named[1].decode()
    return path.stem if _CODE.fullmatch(path.stem) else ""


def same_language(code: str) -> str:
    """Equal for codes of one language in one country: pt_BR, pt-br, pt_BR.UTF-8."""
    return re.sub(r"\.[^@]*", "", code.replace("-", "_").lower())


# ---------------------------------------------------------------------------------------------- reading


def read_catalog(path: Path) -> Iterator[Message]:
    """
    Raises:
        UserError: its header or its syntax is broken; names the line, where lines are there.
    """
    data = _read(path)
    charset = _charset(path, data)
    written = path.suffix != ".mo"
    if written:
        _check_syntax(path, data, charset)
    try:
        catalog: Any = (polib.pofile if written else polib.mofile)(str(path), encoding=charset)
    except (OSError, ValueError, IndexError, StructError) as error:
        line = re.search(r"\(line (\d+)\)(?:: (.*))?", str(error))  # polib's own words for where and why
        where, why = (f"{path}:{line[1]}", line[2] or "no such line may stand here") if line else (path, error)
        raise UserError(f"{where}: not a catalog ({why}).") from None
    one, many = _forms(path, data, catalog)
    for number, entry in enumerate(catalog, 1):
        yield _message(entry, getattr(entry, "linenum", None) or number, one, many)


def _message(entry: Any, place: int, one: int, many: int) -> Message:
    if entry.obsolete:
        return Message(place, (), "obsolete")
    if "fuzzy" in getattr(entry, "flags", ()):
        return Message(place, (), "fuzzy")
    pairs = [(entry.msgid, entry.msgstr)]
    if entry.msgid_plural:
        forms = entry.msgstr_plural
        pairs = [(entry.msgid, forms.get(one, "")), (entry.msgid_plural, forms.get(many, ""))]
    if not all(text.strip() for pair in pairs for text in pair):
        return Message(place, (), "untranslated")
    return Message(place, tuple(pairs))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        unreadable(error)


def _charset(path: Path, data: bytes) -> str:
    """
    Raises:
        UserError: the header doesn't name one that is known.
    """
    named = _CHARSET.search(data)
    if not named:
        start = f"{path}:{_line_of(data, b'msgid')}" if path.suffix == ".po" else path
        raise UserError(f"{start}: its header says no charset, as in Content-Type: text/plain; charset=UTF-8")
    charset = named[1].decode("ascii", "replace")
    try:
        return codecs.lookup(charset).name
    except LookupError:
        start = f"{path}:{_line_of(data, named[0])}" if path.suffix == ".po" else path
        raise UserError(f"{start}: its header says charset={charset}, which is none.") from None


def _line_of(data: bytes, part: bytes) -> int:
    return data.count(b"\n", 0, max(0, data.find(part))) + 1


def _check_syntax(path: Path, data: bytes, charset: str) -> None:
    """That each line is in the charset and is what a line may be, which polib doesn't always mind."""
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode(charset).removeprefix("\ufeff").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: not {charset}; byte {error.start} is 0x{raw[error.start]:02x}."
            ) from None
        comment = line.startswith("#") and not re.match(r"#~\s+[m\"]", line)
        if line and not comment and not _SYNTAX.fullmatch(line):
            raise UserError(f"{path}:{number}: not a catalog; a line is msgid, msgstr … and a text in quotes: {line}")


def _forms(path: Path, data: bytes, catalog: Any) -> tuple[int, int]:
    """The numbers of the forms for one thing and for most numbers of them, as the header's rule says.

    Raises:
        UserError: there are plural forms, and their rule is broken.
    """
    rule = catalog.metadata.get("Plural-Forms")
    plurals = (entry.msgstr_plural for entry in catalog if entry.msgid_plural)
    forms = [number for texts in plurals for number, text in texts.items() if text]
    if not forms:
        return 0, 0
    if rule is None:
        return 0, max(forms)
    parts = re.fullmatch(r"\s*nplurals\s*=\s*\d+\s*;\s*plural\s*=([^;]+);?\s*", rule.replace("\n", " "))
    try:
        form: Callable[[int], int] = c2py(parts[1] if parts else rule)
        taken = [form(number) for number in _MANY]
        return form(1), max(set(taken), key=taken.count)
    except (ValueError, ZeroDivisionError, RecursionError) as error:
        start = f"{path}:{_line_of(data, b'Plural-Forms')}" if path.suffix == ".po" else path
        raise UserError(f"{start}: its header says Plural-Forms: {rule}, which is no rule ({error}).") from None
