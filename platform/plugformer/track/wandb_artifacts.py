"""Checkpoints as W&B's artifacts: each version of one is a run directory in small, which a run can begin from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from plugformer.run_dir import RunDir

TYPE = "model"


def artifact_name(run_id: str) -> str:
    return f"model-{run_id}"


def make_artifacts(run: RunDir, run_id: str, metadata: Mapping[str, Any]) -> Iterator[tuple[wandb.Artifact, list[str]]]:
    """The best and the last checkpoint, each with what else of the run it takes to use it, and their aliases.

    Files aren't copied: they are final, and stand in the run directory.
    """
    for alias in ("best", "last"):
        checkpoint = run.checkpoints / f"{alias}.ckpt"
        if checkpoint.is_file():
            artifact = wandb.Artifact(artifact_name(run_id), type=TYPE, metadata={**metadata, "checkpoint": alias})
            for path in [checkpoint, *_needed(run)]:
                name = path.relative_to(run.path).as_posix()
                artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
            yield artifact, [alias]


def _needed(run: RunDir) -> Iterator[Path]:
    yield from (path for path in (run.config, run.plugins, run.data, run.model, run.init_from) if path.is_file())
    for folder in (run.tokenizer, run.target_tokenizer):
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def staging_in(run: RunDir) -> Iterator[None]:
    """Copies that wandb keeps of what it has to send stand in the run directory, if the user wants nothing else."""
    if os.environ.get("WANDB_DATA_DIR"):
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(run.path.absolute() / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
