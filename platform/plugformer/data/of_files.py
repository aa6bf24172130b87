"""Data whose samples are files."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from plugformer.data.files import listed
from plugformer.data.scan import Scan, Scanner, digest
from plugformer.errors import UserError, counted
from plugformer.interfaces import DataSource, DataSpec, Sample, UnreadSamples

Place = TypeVar("Place")


@dataclass(frozen=True)
class Medium:
    """What files hold, and how that is read.

    Attributes:
        key: of a sample, under which stands what `read` makes of a file.
        kind: of the files, for messages; what is remembered of a file is of its kind.
        suffixes: of files that may be such, in lower case.
        version: of what `inspect` needs; another one may find other things.
        inspect: reads a whole file and says what is worth knowing of it; raises UserError for one that can't be used.
        read: what makes of a file what a sample holds; it goes to a loader's worker.
        spec: what is known of such data, its files not read.
    """

    key: Literal["image", "audio"]
    kind: str
    suffixes: tuple[str, ...]
    version: str
    inspect: Callable[[Path], tuple[int, ...]]
    read: Callable[[Path], Any]
    spec: Callable[["DataOfFiles"], DataSpec]


class DataOfFiles(DataSource):
    """Reads all its files before training, and knows which of them can't be used.

    Attributes:
        medium: what its files hold.
        found: by `verify`; nothing before.
    """

    medium: ClassVar[Medium]

    def __init__(self, *, bad_files: Literal["fail", "skip"]) -> None:
        self.scanner = Scanner(kind=self.medium.kind, version=self.medium.version, probe=self.probe)
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

    @property
    @abstractmethod
    def keys(self) -> frozenset[str]:
        """Those of every sample."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none without."""

    @cached_property
    def spec(self) -> DataSpec:
        return self.medium.spec(self)

    def probe(self, path: Path) -> tuple[int, ...]:
        """What is worth knowing of a file.

        Raises:
            UserError: it can't be used.
        """
        return self.medium.inspect(path)

    def verify(self) -> None:
        self.found = self.scanner.scan(self.paths)
        if not self.found.bad:
            return
        told = f"{self.where}: {len(self.found.bad)} of {counted(len(self.paths), 'file')} can't be used."
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
