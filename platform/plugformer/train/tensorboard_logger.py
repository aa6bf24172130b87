"""Metrics and media in TensorBoard's files."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.run_dir import RunDir, plain
from plugformer.track.logger import Logger, Tracker
from plugformer.track.media import Media, MediaFile
from plugformer.train.csv_logger import read_rows

MOST_FILES = 32  # of a table


class TensorBoard(Logger):
    """Files below the run directory's tensorboard/, for `tensorboard --logdir RUN_DIR`.

    Args:
        flush_secs: seconds between writes to the disk.
    """

    def __init__(self, *, flush_secs: int = 30) -> None:
        if find_spec("tensorboard") is None:
            raise UserError("logger=tensorboard needs the package tensorboard: pip install 'plugformer[tensorboard]'")
        self.flush_secs = flush_secs

    def open(self, run: RunDir, config: Config) -> LightningLogger:
        return TensorBoardTracker(run, config, flush_secs=self.flush_secs)


class TensorBoardTracker(TensorBoardLogger, Tracker):
    """Lightning's, with the composition as a text, and pictures and sounds of tables one by one."""

    def __init__(self, run: RunDir, config: Config, **options: Any) -> None:
        rows = read_rows(run.metrics)[1]
        if rows:  # of a run that goes on; what TensorBoard has of later steps comes again
            options["purge_step"] = int(rows[-1]["step"]) + 1
        super().__init__(run.path, name="tensorboard", version="", default_hp_metric=False, **options)
        self._config = config

    @rank_zero_only
    def begin(self, monitor: Any) -> None:
        text = yaml.safe_dump(plain(self._config), sort_keys=False, allow_unicode=True)
        self.experiment.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))  # Markdown's code

    @rank_zero_only
    def log_media(self, media: Media) -> None:
        files = [cell for row in media.rows for cell in row if isinstance(cell, MediaFile)]
        for number, file in enumerate(files[:MOST_FILES]):
            name = media.name if len(files) == 1 else f"{media.name}/{number}"
            if file.kind == "image":
                with Image.open(file.path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))  # [height, width, channels]
                self.experiment.add_image(name, pixels, media.step, dataformats="HWC")
            else:
                wave, rate = soundfile.read(file.path, dtype="float32", always_2d=True)  # [samples, channels]
                self.experiment.add_audio(name, wave.mean(1)[None], media.step, sample_rate=rate)
        words = [name for place, name in enumerate(media.columns) if not _shows_files(media, place)]
        if words:
            self.experiment.add_text(media.name, _table(media, words), media.step)

    @rank_zero_only
    def flush(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        self.experiment.close()


def _shows_files(media: Media, place: int) -> bool:
    return any(isinstance(row[place], MediaFile) for row in media.rows)


def _table(media: Media, columns: list[str]) -> str:
    """In Markdown, as TensorBoard shows texts."""
    places = [media.columns.index(name) for name in columns]
    lines = [columns, ["---"] * len(columns), *([_word(row[place]) for place in places] for row in media.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _word(cell: Any) -> str:
    return "" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ")
