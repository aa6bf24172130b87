"""Data whose samples are files."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from plugformer.data.files import listed
from plugformer.data.scan import Scan, Scanner, digest
from plugformer.errors import UserError
from plugformer.interfaces import DataSource


class DataOfFiles(DataSource):
    """Reads all its files before training, and knows which of them can't be used.

    Attributes:
        found: by `verify`; nothing before.
    """

    def __init__(self, *, scanner: Scanner, bad_files: Literal["fail", "skip"]) -> None:
        self.scanner = scanner
        self.bad_files = bad_files
        self.found = Scan({}, {})

    @property
    @abstractmethod
    def where(self) -> str:
        """The option that says where the files are, with its value."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[Path]:
        """All its files, good or bad."""

    def verify(self) -> None:
        self.found = self.scanner.scan(self.paths)
        if not self.found.bad:
            return
        told = f"{self.where}: {len(self.found.bad)} of {len(self.paths)} files can't be used."
        told = f"{told}\n{listed([self.tell(path, why) for path, why in self.found.bad.items()])}\n "
        if self.bad_files == "fail":
            raise UserError(f"{told} Mend or remove them, or leave them out with data.bad_files=skip.")
        warnings.warn(f"{told} They are left out.", stacklevel=2)

    def tell(self, path: Path, why: str) -> str:
        """The line about a file that can't be used; `why` names it, and a source may know more of it than its path."""
        return why

    def digest(self, path: Path) -> str:
        """A hash of a file's content, which is read only if it wasn't before."""
        found = self.found.good.get(path)
        return found.digest if found else digest(path)
