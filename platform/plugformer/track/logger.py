"""The seam for trackers: where metrics go besides metrics.csv."""

from abc import ABC, abstractmethod
from typing import Any

from plugformer.config import Config
from plugformer.run_dir import RunDir


class Logger(ABC):
    """Opens a tracker of its own for one run; the class's options are the tracker's."""

    @abstractmethod
    def open(self, run: RunDir, config: Config) -> Any:
        """A Lightning logger that writes into the run directory or to a server.

        Args:
            run: the run directory; exists.
            config: the resolved composition.
        """
