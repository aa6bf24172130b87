"""The seam for trackers: where metrics and media go besides the run directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from plugformer.config import Config
from plugformer.run_dir import RunDir

if TYPE_CHECKING:
    from plugformer.interfaces import Monitor
    from plugformer.track.media import Media


class Logger(ABC):
    """Opens a tracker of its own for one run; the class's options are the tracker's."""

    @abstractmethod
    def open(self, run: RunDir, config: Config) -> Any:
        """A Lightning logger that writes into the run directory or to a server; perhaps a `Tracker` too.

        Args:
            run: the run directory. All that is known before training stands in it: what it is made of, of which data,
                where, how large, and which job of a sweep it is.
            config: the resolved composition.
        """


class Tracker:
    """What a Lightning logger may be besides, to be told of more than metrics."""

    def begin(self, monitor: Monitor) -> None:
        """Called once before training, with what says which checkpoint is best."""

    def log_media(self, media: Media) -> None:
        """Called when something to look at was written into the run directory."""

    def flush(self) -> None:
        """Called before a checkpoint is written: a run that goes on from there doesn't log again what came before."""

    def close(self, *, failed: bool) -> None:
        """Called once, when the run is over and its summary written, or when it failed."""
