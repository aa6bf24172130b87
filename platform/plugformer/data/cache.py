"""What takes long to generate or to find out is kept on disk."""

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from plugformer.data.fingerprint import fingerprint
from plugformer.run_dir import replacing

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


def cached(make: Callable[[], Arrays], *, name: str, made_of: Mapping[str, object], folder: Path | None) -> Arrays:
    """What `make` returns, from a file if it was made before.

    Args:
        make: called where there is no such file, or a damaged one.
        name: of the data.
        made_of: all that decides what is made, the generator's version too.
        folder: where the file lies; by default `plugformer` in the user's cache.
    """
    options = fingerprint(f"{key}={value}" for key, value in sorted(made_of.items()))
    path = (folder or user_cache()).expanduser() / f"{name}-{options}.npz"
    found = recall(path, _load)
    if found is None:
        found = make()
        keep(path, found, _save)
    return found


def recall(path: Path, load: Callable[[Path], T]) -> T | None:
    """What was kept in a file; None, with a warning, if it is damaged, and None if there is none.

    Args:
        path: of the file.
        load: reads it; a damaged one raises OSError, ValueError or EOFError.
    """
    try:
        return load(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"{path}: damaged ({error}); it is made anew.", stacklevel=2)
        return None


def keep(path: Path, value: T, save: Callable[[Path, T], None]) -> None:
    """Keeps `value` in a file, which appears in one step; warns if it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save(temporary, value)
    except OSError as error:
        warnings.warn(f"{path}: can't be written ({error.strerror}), so it will be made again.", stacklevel=2)


def user_cache() -> Path:
    """The folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plugformer"


def _load(path: Path) -> Arrays:
    with path.open("rb") as kept, np.load(kept) as found:
        return dict(found)


def _save(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # names are free
