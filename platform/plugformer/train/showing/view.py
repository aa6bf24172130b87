"""What is shown of one split at one step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from plugformer.data.encoded import EncodedSamples
from plugformer.interfaces import Batch
from plugformer.run_dir import RunDir
from plugformer.track.logger import Tracker
from plugformer.track.media import Cell, Media, MediaFile, media_folder, write_media
from plugformer.train.module import TrainingModule
from plugformer.train.showing.attention import attention_rows
from plugformer.train.showing.confusion import draw_confusion
from plugformer.train.showing.samples import as_table, load, name_of, sample_rows


class View:
    """One split at one step.

    Args:
        run: the run directory.
        trainer: whose step it is, and whose trackers are told.
        module: in evaluation mode.
        split: its name.
        loader: of its samples, from `make_loader`.
        losses: of samples by index.
    """

    def __init__(
        self,
        run: RunDir,
        trainer: pl.Trainer,
        module: TrainingModule,
        *,
        split: str,
        loader: DataLoader[Batch],
        losses: Mapping[int, float],
    ) -> None:
        self.run, self.trainer, self.module, self.split = run, trainer, module, split
        self.loader, self.losses = loader, losses
        self.encoded = cast("EncodedSamples", loader.dataset)

    def samples(self, indices: Sequence[int], what: str = "samples") -> None:
        rows = sample_rows(
            self.module.model,
            self._batch(indices),
            self.encoded,
            losses=self.losses,
            raw=self.run.media / "raw" / self.split,
            folder=self._folder(what),
        )
        self._write(what, *as_table(rows))

    def hardest(self, count: int) -> None:
        if self.losses:
            self.samples(hardest(self.losses, count), "hardest")

    def confusion(self) -> None:
        confusion = self.module.confusions.get(self.split)
        if confusion is not None:
            path = self._folder("confusion") / "confusion.png"
            self._write("confusion", ["confusion"], [[MediaFile("image", path, draw_confusion(confusion, path))]])

    def attention(self) -> None:
        name = name_of(self.encoded.samples[0], 0)
        rows = attention_rows(self.module.model, self._batch([0]), self._folder("attention"), name=name)
        if rows:
            self._write("attention", ["layer", "attention"], rows)

    def _batch(self, indices: Sequence[int]) -> Batch:
        """On the model's device, with numbers of its kind."""
        batch = self.trainer.precision_plugin.convert_input(load(self.loader, indices))
        return self.trainer.strategy.batch_to_device(batch)

    def _folder(self, what: str) -> Path:
        return media_folder(self.run, f"{self.split}/{what}", self.trainer.global_step)

    def _write(self, what: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        media = Media(f"{self.split}/{what}", self.trainer.global_step, columns, rows)
        write_media(self.run, media)
        for logger in self.trainer.loggers:
            if isinstance(logger, Tracker):
                logger.log_media(media)


def hardest(losses: Mapping[int, float], count: int) -> list[int]:
    """The indices of so many samples of the highest loss, the highest first; one that is no number is the highest."""
    return sorted(losses, key=lambda index: (losses[index] == losses[index], -losses[index], index))[:count]
