"""What a run directory needs before its run can go on: a whole checkpoint, and nothing that was recorded after it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugformer.assemble import read_checkpoint
from plugformer.errors import UserError
from plugformer.run_dir import RunDir, read_json, replacing, write_json
from plugformer.train.csv_logger import read_rows, write_rows


@dataclass(frozen=True)
class Progress:
    """How far a run had come.

    Attributes:
        checkpoint: that it goes on from.
        steps: optimiser steps before it.
        epochs: whole ones before it.
        within: whether an epoch after them has begun.
        world: processes that trained.
        record: what the checkpoint says of its origin.
    """

    checkpoint: Path
    steps: int
    epochs: int
    within: bool
    world: int
    record: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> "Progress":
        """
        Raises:
            UserError: truncated, foreign or unsafe, or nothing to go on from.
        """
        checkpoint = read_checkpoint(path)
        try:
            epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            return cls(
                checkpoint=path,
                steps=checkpoint["global_step"],
                epochs=epoch["processed"],
                within=epoch["processed"] != epoch["started"],
                world=len(checkpoint["callbacks"]["Checkpoints"]["generators"]),
                record=checkpoint["plugformer"],
            )
        except (KeyError, TypeError):
            raise UserError(f"{path}: no checkpoint that a run of Plugformer can go on from.") from None


def last_progress(run: RunDir) -> Progress | None:
    """Of the last checkpoint; None if there is none yet.

    Raises:
        UserError: it is damaged; if the one before it is whole, the message says so.
    """
    paths = last_checkpoints(run)
    if not paths:
        return None
    try:
        return Progress.of(paths[0])
    except UserError as error:
        for path in paths[1:]:
            try:
                whole = Progress.of(path)
            except UserError:
                continue
            raise UserError(
                f"{error}\n  {paths[0]} is damaged; the one before it is whole: {path}, of step {whole.steps}.\n"
                f"  To go on from that one, remove {paths[0]} and start again."
            ) from None
        raise


def last_checkpoints(run: RunDir) -> list[Path]:
    """The last one and those before it, in this order."""
    names = ["last", *(f"last-{number}" for number in range(1, 1 + len(list(run.checkpoints.glob("last-*.ckpt")))))]
    return [path for name in names if (path := run.checkpoints / f"{name}.ckpt").exists()]


def rewind(run: RunDir, steps: int) -> None:
    """Drop what was recorded after so many optimiser steps: it is going to be recorded again."""
    for path in [*run.path.glob(".*.tmp"), *run.checkpoints.glob(".*")]:  # of a process that was killed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.summary.unlink(missing_ok=True)
    columns, rows = read_rows(run.metrics)
    if columns:
        write_rows(run.metrics, columns, [row for row in rows if int(row["step"]) < steps])
    _rewind_non_finite(run, steps)
    _keep_lines(run.bad_batches, lambda line: max(batch["step"] for batch in line["batches"]) < steps)
    # Media of a validation bear the number of steps before it; those of the test come after all training.
    _keep_lines(run.media_index, lambda line: line["step"] <= steps and not line["name"].startswith("test/"))
    for folder in run.media.glob("*/*"):
        if folder.name.isdecimal() and (int(folder.name) > steps or folder.parent.name.startswith("test_")):
            shutil.rmtree(folder)


def _rewind_non_finite(run: RunDir, steps: int) -> None:
    if not run.non_finite.exists():
        return
    found = {name: step for name, step in read_json(run.non_finite).items() if step is not None and step < steps}
    if found:
        write_json(run.non_finite, found)
    else:
        run.non_finite.unlink()


def _keep_lines(path: Path, keep: Callable[[Any], bool]) -> None:
    """Of a file of JSON objects, those that are wanted; a last one that was being written isn't."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and keep(json.loads(line))]
    if kept != lines:
        with replacing(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def check_data(run: RunDir, data: Mapping[str, Any]) -> None:
    """
    Args:
        run: that goes on.
        data: what data.json would say now.

    Raises:
        UserError: it says something else.
    """
    then = read_json(run.data)
    changed = [f"{key}: {then.get(key)} then, {data[key]} now" for key in data if then.get(key) != data[key]]
    if changed:
        raise UserError(
            "\n  ".join(
                [
                    f"{run.path}: the data isn't what the run began with, so it can't go on.",
                    *changed,
                    "Bring the data back, or begin another run with another run_dir.",
                ]
            )
        )
