"""Metrics, media and checkpoints on Weights & Biases, or in files of its form for later."""

import os
from typing import TYPE_CHECKING, Any, Literal

from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.config import Config
from plugformer.interfaces import Monitor
from plugformer.run_dir import RunDir
from plugformer.track.logger import Logger, Tracker
from plugformer.track.media import Media
from plugformer.track.wandb_options import WandbOptions

if TYPE_CHECKING:
    from plugformer.track.wandb_run import WandbRun


class Wandb(Logger):
    """A run on Weights & Biases; without a server or a key to it, the same in the run directory, to be sent later.

    Args:
        project: that the run belongs to; by default WANDB_PROJECT, or plugformer.
        entity: the user or team whose project it is; by default WANDB_ENTITY, or the key's.
        run_name: of the run; by default its folder's name or, in a sweep, its overrides.
        group: of runs that belong together; by default, in a sweep, the sweep's folder.
        tags: to find it by.
        notes: what a person should know of it.
        mode: auto: online if a key is set and the server answers within two seconds, else offline; online: refuses to
            run otherwise; offline: files alone; disabled: nothing at all. WANDB_MODE decides what auto may be.
        artifacts: whether the best and last checkpoints go along, with their tokenizers.
        timeout: seconds that the end of a run waits for a server that no longer answers.
    """

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        notes: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        artifacts: bool = True,
        timeout: float = 5.0,
    ) -> None:
        self.options = WandbOptions(
            project=project,
            entity=entity,
            run_name=run_name,
            group=group,
            tags=tags,
            notes=notes,
            mode=mode,
            artifacts=artifacts,
            timeout=timeout,
        )
        if mode == "online":  # refused before any data is read
            from plugformer.track.wandb_opening import check_online  # noqa: PLC0415  # wandb takes half a second

            check_online()

    def open(self, run: RunDir, config: Config) -> LightningLogger:
        if (os.environ.get("WANDB_MODE") if self.options.mode == "auto" else self.options.mode) == "disabled":
            return DummyLogger()
        from plugformer.track.wandb_run import WandbRun  # noqa: PLC0415  # wandb takes half a second

        return WandbLogger(WandbRun(run, config, self.options))


class WandbLogger(LightningLogger, Tracker):
    """What Lightning logs, told to a run of wandb's."""

    def __init__(self, run: "WandbRun") -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run.id

    @rank_zero_only
    def begin(self, monitor: Monitor) -> None:
        self.run.begin(monitor)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The composition is the run's configuration already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.run.log_metrics(metrics, 0 if step is None else step)

    @rank_zero_only
    def log_media(self, media: Media) -> None:
        self.run.log_media(media)

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        self.run.close(failed=failed)
