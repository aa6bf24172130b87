"""What generated data has in common that is drawn once and kept."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from plugformer.data.cache import Arrays, cached
from plugformer.data.fingerprint import fingerprint
from plugformer.interfaces import DataSource, Split
from plugformer_synthetic.distinct import check_sizes


class Generated(DataSource):
    """Samples as arrays, from a file if they were drawn before.

    Attributes:
        name: of the data.
    """

    name: ClassVar[str]

    def __init__(self, *, sizes: dict[Split, int], sample_seed: int, cache: Path | None) -> None:
        check_sizes(sizes)
        self.sizes = sizes
        self.sample_seed = sample_seed
        self.cache = cache

    @abstractmethod
    def made_of(self) -> dict[str, object]:
        """All that decides what is made besides sizes and seed; the version of what makes it, too."""

    @abstractmethod
    def make(self) -> Arrays:
        """All samples of all splits."""

    @cached_property
    def arrays(self) -> Arrays:
        made_of = {**self.made_of(), "sizes": self.sizes, "seed": self.sample_seed}
        return cached(self.make, name=self.name, made_of=made_of, folder=self.cache)

    def fingerprint(self) -> str:
        return fingerprint(part for name in sorted(self.arrays) for part in (name, self.arrays[name].tobytes()))
