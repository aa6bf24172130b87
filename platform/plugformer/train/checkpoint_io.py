"""Checkpoints that are whole or not there."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from plugformer.assemble import read_checkpoint
from plugformer.run_dir import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, syncs and renames, so that a full disk or an interruption leaves the old one
    whole; and reads data only, never code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, where the disk's would say more
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def put(checkpoint: Path, place: Path) -> None:
    """Rename a checkpoint, a file or a folder, to where another may stand."""
    if not place.is_dir():
        checkpoint.replace(place)
        return
    old = place.with_name(f".{place.name}.old.tmp")  # a folder that isn't empty can't be replaced
    shutil.rmtree(old, ignore_errors=True)
    place.rename(old)
    checkpoint.rename(place)
    shutil.rmtree(old)


def also_as(checkpoint: Path, place: Path) -> None:
    """Let a checkpoint stand in another place, too, in one step; without a second copy where the disk can do so."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    remove(temporary)
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, temporary, copy_function=_link)
    else:
        _link(checkpoint, temporary)
    put(temporary, place)


def remove(checkpoint: Path) -> None:
    """If it is there."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every disk can
        shutil.copyfile(source, target)
        with open(target, "rb+") as file:
            os.fsync(file.fileno())
