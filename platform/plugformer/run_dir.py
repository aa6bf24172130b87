"""The folder that holds everything a run made."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from plugformer.errors import UserError


class RunDir:
    """Where things stand in a run directory.

    config.yaml       the resolved composition
    plugins.json      for every plugin used: entry point, package, version, options
    environment.json  Python, packages, machine, git revision; git.diff beside it
    data.json         labels, sizes of the splits, fingerprint
    model.json        parameters, what a training step costs, and which metric says which checkpoint is best
    job.json          which job of a sweep it is, if it is one
    init_from.json    whose weights the run began with, if it didn't begin anew, and which of them it took
    tokenizer/        what the tokenizer learned; target_tokenizer/ beside it, if what is written has its own
    checkpoints/      best.ckpt by the task's monitor, last.ckpt
    metrics.csv       every logged metric by step
    non_finite.json   metrics that became NaN or infinite, and when first; missing if none did
    bad_batches.jsonl the samples of each batch whose loss was NaN, infinite or a spike; missing if there was none
    media/            what there is to see and hear of validations; index.jsonl says what
    summary.json      final metrics, flat, as `split/metric`
    wandb.json        where a tracker's server or its files in wandb/ hold the run
    pictures/         what `plugformer predict` drew, where there is something to see
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.plugins = self.path / "plugins.json"
        self.environment = self.path / "environment.json"
        self.git_diff = self.path / "git.diff"
        self.data = self.path / "data.json"
        self.model = self.path / "model.json"
        self.job = self.path / "job.json"
        self.init_from = self.path / "init_from.json"
        self.tokenizer = self.path / "tokenizer"
        self.target_tokenizer = self.path / "target_tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.csv"
        self.non_finite = self.path / "non_finite.json"
        self.bad_batches = self.path / "bad_batches.jsonl"
        self.media = self.path / "media"
        self.media_index = self.media / "index.jsonl"
        self.summary = self.path / "summary.json"
        self.tracked = self.path / "wandb.json"
        self.pictures = self.path / "pictures"

    def check_free(self) -> None:
        """
        Raises:
            UserError: it holds a run already, or nothing can be written there.
        """
        if self.config.exists() or self.checkpoints.exists():
            raise UserError(f"run_dir={self.path}: holds a run already. Choose another run_dir or remove it.")
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"run_dir={self.path}: can't be written, because {there} can't. Choose another run_dir.")

    @classmethod
    def create(cls, path: str | Path) -> RunDir:
        """A new run directory.

        Raises:
            UserError: it holds a run already, or can't be written.
        """
        run = cls(path)
        run.check_free()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run.checkpoints.mkdir()  # of two runs that start at once, one gets it
            run.tokenizer.mkdir()
        except FileExistsError:
            raise UserError(f"run_dir={path}: holds a run already. Choose another run_dir or remove it.") from None
        except OSError as error:
            raise UserError(f"run_dir={path}: can't be written ({error.strerror}).") from None
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run directory.

        Raises:
            UserError: it isn't one.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"{path}: no such folder. Expected a run directory, as `plugformer train` makes it.")
        if not run.config.is_file():
            inside = sorted(config.parent for config in run.path.glob("*/config.yaml"))
            hint = f" There are some inside: {', '.join(map(str, inside[:5]))}." if inside else ""
            raise UserError(f"{path}: not a run directory, there is no config.yaml in it.{hint}")
        return run

    def checkpoint(self, name: str) -> Path:
        """
        Raises:
            UserError: there is none of that name.
        """
        path = self.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            there = ", ".join(sorted(found.stem for found in self.checkpoints.glob("*.ckpt"))) or "none"
            raise UserError(
                f"{path}: no such checkpoint; there is {there}. The run may have ended before it saved one."
            )
        return path

    def read_config(self) -> dict[str, Any]:
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{self.config}: can't be read as YAML ({error}).") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.config}: expected a mapping.")
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        with replacing(self.config) as file:
            file.write_text(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        file.write_text(
            json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> Any:
    """
    Raises:
        UserError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing. The run directory is incomplete.") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}).") from None


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` in one step once it is wholly on the disk, or, if
    nobody has to wait for that, once it is written.

    If writing fails, what stood at `path` stays as it was, and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
        if sync:
            _sync(path.parent)
    except OSError as error:  # a full disk doesn't say where
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder`, new or empty, in one step once it is wholly on the disk.

    If filling it fails, nothing is left of it.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _sync(path)
        temporary.replace(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """With tuples as lists, paths as text and numbers that JSON can't hold as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
