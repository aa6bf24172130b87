"""Where the source of Python's standard library stands."""

import sysconfig
from functools import cache
from pathlib import Path

from plugformer.data.files import read_text
from plugformer.errors import UserError

_LEFT_OUT = {"encodings", "test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}


@cache
def source_files() -> dict[str, Path]:
    """The files by their paths in the library, without tests, installed packages, empty files and copies.

    Nor with what nobody wrote: the tables of `encodings`, generated from one pattern, so that nearly all lines of a
    held-out one stand in others; the records of how this Python was built; documentation in a string
    (pydoc_data/topics.py).

    Raises:
        UserError: this Python came without them.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    contents = {path.read_bytes(): name for name, path in sorted(found.items(), reverse=True) if _is_source(name)}
    kept = {name: found[name] for text, name in reversed(contents.items()) if text.strip()}  # the first of equal ones
    if not kept:
        raise UserError(f"{root}: this Python came without the source of its standard library.")
    return kept


def _is_source(name: str) -> bool:
    parts = name.split("/")
    built_here = parts[0].startswith(("_sysconfigdata", "config-"))
    return not (built_here or _LEFT_OUT & set(parts) or name == "pydoc_data/topics.py")


def read_source(name: str) -> str:
    return read_text(source_files()[name])
