"""Looking through many files before any is used, and remembering what was found."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from plugformer.data.cache import keep, recall, user_cache
from plugformer.data.fingerprint import fingerprint
from plugformer.errors import UserError
from plugformer.progress import shown

MANY = 500  # files that deserve a progress bar
LONG = 1.0  # seconds after which what was found is worth remembering

_Facts = tuple[int, ...]
_State = tuple[int, int, int]  # size and times of writing and of any change: of a swap of names or of permissions, too


class Found(NamedTuple):
    """What is known of a good file.

    Attributes:
        facts: what `Scanner.probe` says.
        digest: of its content.
    """

    facts: _Facts
    digest: str


_Remembered = dict[str, tuple[_State, Found]]  # by absolute paths


@dataclass(frozen=True)
class Scan:
    """
    Attributes:
        good: files that can be used.
        bad: why the others can't.
    """

    good: dict[Path, Found]
    bad: dict[Path, str]


class Scanner:
    """Reads every file, in threads, unless it was read before and hasn't changed since.

    What it finds stands in the user's cache, in one file for all that have a folder in common. Bad files are read
    anew each time, because what is wrong with them needn't show in their size or times.

    Args:
        kind: of the files, as in "audio".
        version: of what reads them; another one may find other things.
        probe: reads a whole file and returns what is worth knowing; raises UserError for one that can't be used.
            Called from several threads.
    """

    def __init__(self, *, kind: str, version: str, probe: Callable[[Path], _Facts]) -> None:
        self.kind = kind
        self.version = version
        self.probe = probe
        self._remembered: dict[Path, _Remembered] = {}

    def scan(self, files: Sequence[Path]) -> Scan:
        """Shows its progress on a terminal where there are many to read."""
        names, remembered = _absolute(files), self._recall(files)
        good = self._unchanged(names, remembered)
        bad: dict[Path, str] = {}
        unread = [path for path in files if path not in good]
        begun = time.monotonic()
        pool = ThreadPoolExecutor()  # decoding and hashing release the interpreter lock
        try:
            title = f"Reading {self.kind} files"
            read = shown(pool.map(self._read, unread), title, len(unread), hidden=len(unread) < MANY)
            for path, (state, found) in zip(unread, read, strict=True):
                if isinstance(found, str):
                    bad[path] = found
                    continue
                good[path] = found
                if state is not None:
                    remembered[names[path]] = (state, found)
        finally:  # if it is interrupted, it goes on from there the next time
            pool.shutdown(cancel_futures=True)
            if time.monotonic() - begun > LONG:
                keep(self._path(files), remembered, self._save)
        return Scan({path: good[path] for path in files if path in good}, bad)

    def known(self, files: Sequence[Path]) -> dict[Path, Found]:
        """What is remembered; no file is read."""
        return self._unchanged(_absolute(files), self._recall(files))

    def _unchanged(self, names: dict[Path, str], remembered: _Remembered) -> dict[Path, Found]:
        there = {path: remembered[name] for path, name in names.items() if name in remembered}
        return {path: found for path, (state, found) in there.items() if state == _state(path)}

    def _read(self, path: Path) -> tuple[_State | None, Found | str]:
        state = _state(path)  # before its content, so that a change in between shows the next time
        try:
            return state, Found(self.probe(path), digest(path, {}))
        except UserError as error:
            return state, str(error)

    def _path(self, files: Sequence[Path]) -> Path:
        common = os.path.commonpath([os.path.abspath(folder) for folder in {path.parent for path in files}])
        return user_cache() / f"scan-{self.kind}-{fingerprint([common])}.json"

    def _recall(self, files: Sequence[Path]) -> _Remembered:
        if not files:
            return {}
        path = self._path(files)
        if path not in self._remembered:
            self._remembered[path] = recall(path, self._load) or {}
        return self._remembered[path]

    def _load(self, path: Path) -> _Remembered:
        kept = json.loads(path.read_text(encoding="utf-8"))
        try:
            if kept["version"] != self.version:
                return {}
            return {
                name: ((size, written, changed), Found(tuple(facts), content))
                for name, (size, written, changed, facts, content) in kept["files"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not what a scan writes: {error}") from None

    def _save(self, path: Path, remembered: _Remembered) -> None:
        files = {name: [*state, *found] for name, (state, found) in remembered.items() if os.path.exists(name)}
        path.write_text(json.dumps({"version": self.version, "files": files}), encoding="utf-8")


def digest(path: Path, found: Mapping[Path, Found]) -> str:
    """A hash of a file's content, which is read only if it isn't among those found.

    Raises:
        UserError: it can't be read.
    """
    if path in found:
        return found[path].digest
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}).") from None


def _state(path: Path) -> _State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _absolute(files: Sequence[Path]) -> dict[Path, str]:
    folders = {folder: os.path.abspath(folder) for folder in {path.parent for path in files}}
    return {path: os.path.join(folders[path.parent], path.name) for path in files}
