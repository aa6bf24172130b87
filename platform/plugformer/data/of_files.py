"""Data whose samples are files."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from plugformer.data.files import listed
from plugformer.data.scan import Scan, Scanner, digest
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, Sample, UnreadSamples

Place = TypeVar("Place")


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
        return digest(path, self.found.good)


@dataclass(frozen=True)
class FileSamples(UnreadSamples, Generic[Place]):
    """Samples whose files are read when they are asked for.

    Attributes:
        unread: where each is, and what is known of it.
        key: of a sample, under which stands what `read` makes of the former.
        read: in a loader's worker.
    """

    unread: Sequence[tuple[Place, Sample]]
    key: str
    read: Callable[[Place], Any]

    def __len__(self) -> int:
        return len(self.unread)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        place, known = self.unread[index]
        sample: Any = {**known, self.key: self.read(place)}
        return sample

    def known(self, index: int) -> Sample:
        return self.unread[index][1]
