"""Laws of what joins Lightning's trainer: loggers and callbacks, in a fit of seconds."""

import os
import time
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from plugformer.assemble import read_checkpoint
from plugformer.interfaces import Monitor
from plugformer.run_dir import RunDir
from plugformer.settings import TrainerSettings
from plugformer.testing.common import Suite
from plugformer.testing.comparing import noise
from plugformer.train.run import tracking
from plugformer.train.trainer import make_trainer

MONITOR = Monitor("val/loss", "min")
PATIENCE = 2.0  # seconds; a tracker may write in a process of its own


class Line(pl.LightningModule):
    """A straight line through points, which logs what every task logs."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self._log("train", batch)

    def validation_step(self, batch: list[Tensor]) -> Tensor:
        return self._log("val", batch)

    def _log(self, split: str, batch: list[Tensor]) -> Tensor:
        x, y = batch
        loss = (self.line(x) - y).square().mean()
        self.log(f"{split}/loss", loss)
        self.log(f"{split}/accuracy", 1 / (1 + loss))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    run: RunDir, *, loggers: list[Any], callbacks: list[Any], max_epochs: int = 2, go_on: bool = False
) -> pl.Trainer:
    """Train as a run would."""
    settings = TrainerSettings(max_epochs=max_epochs, accelerator="cpu", progress=False, log_every=1, media=0)
    batches = DataLoader(TensorDataset(noise(8, 1), 3 * noise(8, 1)), batch_size=2)
    trainer = make_trainer(settings, run=run, monitor=MONITOR, loggers=loggers, callbacks=callbacks, training=batches)
    checkpoint = str(run.checkpoint("last")) if go_on else None
    trainer.fit(Line(), batches, batches, ckpt_path=checkpoint, weights_only=True)
    return trainer


class CallbackSuite(Suite):
    kind = "callback"

    def test_goes_through_a_fit_and_on_from_its_checkpoint(self) -> None:
        """Its state is data and nothing else, or the checkpoint couldn't be loaded safely."""
        run = RunDir.create(self.folder / "run")
        fit(run, loggers=[], callbacks=[self.build()])
        read_checkpoint(run.checkpoint("last"))
        trainer = fit(run, loggers=[], callbacks=[self.build()], max_epochs=3, go_on=True)
        assert trainer.current_epoch == 3 or trainer.should_stop


class LoggerSuite(Suite):
    kind = "logger"
    config: ClassVar[dict[str, Any]] = {
        "seed": 0,
        "tokenizer": {"name": "made_up", "size": (3, 4), "augmentation": None},
        "run_dir": "runs/a",
    }

    def open(self, run: RunDir) -> Logger:
        return self.build().open(run, self.config)

    def written(self, run: RunDir) -> str:
        """What can be read after a run. A logger that writes to a server, or in numbers that are not text, says it in
        its own way."""
        files = [path for path in run.path.rglob("*") if path.is_file()]
        return "\n".join(path.read_bytes().decode(errors="replace") for path in files)

    def test_opens_a_logger_of_lightning(self) -> None:
        logger = self.open(RunDir.create(self.folder / "run"))
        assert isinstance(logger, Logger)
        assert isinstance(logger.name, str)

    def test_goes_through_a_fit(self) -> None:
        """And leaves nothing outside the run directory, and the rest of it alone."""
        run, here = RunDir.create(self.folder / "run"), set(os.listdir())
        run.write_config(self.config)
        before = run.config.read_bytes()
        with tracking([self.open(run)], MONITOR) as loggers:
            fit(run, loggers=loggers, callbacks=[])
        assert set(os.listdir()) == here
        assert os.listdir(self.folder) == ["run"]
        assert run.config.read_bytes() == before
        read_checkpoint(run.checkpoint("last"))

    def test_writes_every_row(self) -> None:
        """Of metrics that come late too, and of what is not a number."""
        run = RunDir.create(self.folder / "run")
        with tracking([self.open(run)], MONITOR) as (logger,):
            logger.log_metrics({"train/loss": 0.8125}, step=0)
            logger.save()
            logger.log_metrics({"train/loss": 0.40625, "val/loss": 2.15625}, step=1)
            logger.log_metrics({"val/loss": float("nan")}, step=2)
            logger.save()
            logger.log_metrics({"test/loss": 1.28125}, step=3)
            logger.finalize("success")
        logged = ("train/loss", "0.8125", "0.40625", "val/loss", "2.15625", "test/loss", "1.28125")
        deadline = time.monotonic() + PATIENCE
        while (missing := [each for each in logged if each not in self.written(run)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not missing, f"{missing[0]} was logged and isn't written"
