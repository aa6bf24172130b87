"""Metrics in MLflow."""

from importlib.util import find_spec
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.run_dir import RunDir, plain
from plugformer.track.logger import Logger, Tracker
from plugformer.track.media import Media, MediaFile
from plugformer.track.names import Names
from plugformer.track.secrets import redact


class MLflow(Logger):
    """A run of MLflow's, with the composition as its parameters.

    Args:
        experiment: that the run belongs to.
        tracking_uri: of the server or store; by default a database of its own in the run directory's mlflow/.
        run_name: of the run; by default its folder's or, in a sweep, its overrides.
    """

    def __init__(
        self, *, experiment: str = "plugformer", tracking_uri: str | None = None, run_name: str | None = None
    ) -> None:
        if find_spec("mlflow") is None:
            raise UserError("logger=mlflow needs the package mlflow: pip install 'plugformer[mlflow]'")
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.run_name = run_name

    def open(self, run: RunDir, config: Config) -> LightningLogger:
        folder = run.path.absolute() / "mlflow"
        if self.tracking_uri is None:
            folder.mkdir(exist_ok=True)
        return MLflowTracker(
            config,
            experiment_name=self.experiment,
            run_name=self.run_name or Names.of(run).name,
            tracking_uri=self.tracking_uri or f"sqlite:///{folder / 'mlflow.db'}",
            artifact_location=None if self.tracking_uri else folder.as_uri(),
        )


class MLflowTracker(MLFlowLogger, Tracker):
    """Lightning's, with the composition as parameters, and media as the run's files."""

    def __init__(self, config: Config, **options: Any) -> None:
        super().__init__(**options)
        self._config = config

    @rank_zero_only
    def begin(self, monitor: Any) -> None:
        self.log_hyperparams(redact(plain(self._config)))

    @rank_zero_only
    def log_media(self, media: Media) -> None:
        for cell in (cell for row in media.rows for cell in row):
            if isinstance(cell, MediaFile):
                self.experiment.log_artifact(self.run_id, str(cell.path), f"{media.name}/{media.step:08d}")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Lightning calls it after each of fit and test; the run ends once, in `close`."""

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        self.experiment.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")
