"""Runs that are interrupted, and what there is to compare with one that isn't."""

import csv
from pathlib import Path
from typing import Any

import torch

from plugformer.assemble import read_checkpoint
from plugformer.config import Config
from plugformer.resuming import plan
from plugformer.train.callbacks import Callback
from plugformer.train.run import train

OF_THE_CLOCK = ("time/", "speed/", "memory/")  # never the same twice


class Interrupted(Exception):
    """What stands for whatever ends a run."""


class Watched(Callback):
    """Writes down what each step learned from, and ends the run at a moment that a test chose."""

    steps: list[dict[str, Any]] = []  # noqa: RUF012
    fails: tuple[str, int] | None = None  # a hook, and the optimiser steps before it

    def __init__(self) -> None:
        self.steps = type(self).steps

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        index = batch["index"].tolist()
        noise = torch.rand(1).item()  # as dropout draws
        self.steps.append(
            {"step": trainer.global_step, "epoch": trainer.current_epoch, "index": index, "noise": noise}
            | {"loss": float(outputs["loss"]), "batch": batch_idx}
        )
        self._perhaps("batch", trainer)

    def on_validation_batch_end(self, trainer, *_):
        if trainer.training or trainer.validating:
            self._perhaps("validation", trainer)

    def on_test_start(self, trainer, module):
        self._perhaps("test", trainer)

    def _perhaps(self, hook, trainer):
        if type(self).fails == (hook, trainer.global_step):
            type(self).fails = None
            raise Interrupted


def steps_of(config: Config, *, fails: tuple[str, int] | None = None) -> list[dict[str, Any]]:
    """Train, perhaps until something fails, and tell what was learned from."""
    Watched.steps, Watched.fails = [], fails
    try:
        train(plan(config).config)
    except Interrupted:
        assert fails is not None
    else:
        assert fails is None, "it never came there"
    return Watched.steps


def checkpoint_of(path: Path) -> dict[str, Any]:
    return read_checkpoint(path / "checkpoints" / "last.ckpt")


def batches_of(path: Path) -> int:
    """Small ones that were learned from before the last checkpoint; 0 if there is none."""
    if not (path / "checkpoints" / "last.ckpt").exists():
        return 0
    return checkpoint_of(path)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]


def learned(path: Path) -> dict[str, Any]:
    """Weights, buffers, the optimiser's state and the schedule's, at the end of a run."""
    held = checkpoint_of(path)
    return {name: held[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")}


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def rows(path: Path) -> list[dict[str, str]]:
    """Of metrics.csv, but for what the clock says."""
    with (path / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [
        {name: value for name, value in sorted(row.items()) if value and not name.startswith(OF_THE_CLOCK)}
        for row in found
    ]
