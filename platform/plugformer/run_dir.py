"""The folder that holds everything a run made."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import socket
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
    status.json       whether it runs, finished, failed, or was killed or interrupted, and in which process
    launch.json       what its processes were started on, where there were several or it was a job of a sweep
    ranks/            what those but the first of them said
    init_from.json    whose weights the run began with, if it didn't begin anew, and which of them it took
    tokenizer/        what the tokenizer learned; target_tokenizer/ beside it, if what is written has its own
    checkpoints/      best.ckpt by the task's monitor; last.ckpt, and before it last-1.ckpt and so on
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
        self.status = self.path / "status.json"
        self.launch = self.path / "launch.json"
        self.ranks = self.path / "ranks"
        self.init_from = self.path / "init_from.json"
        self.tokenizer = self.path / "tokenizer"
        self.target_tokenizer = self.path / "target_tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.lock = self.path / ".lock"
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
        if self.config.exists() or any(self.checkpoints.glob("*")):
            raise UserError(f"run_dir={self.path}: holds a run already. Choose another run_dir or remove it.")
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"run_dir={self.path}: can't be written, because {there} can't. Choose another run_dir.")

    @classmethod
    def create(cls, path: str | Path, *, again: bool = False) -> RunDir:
        """A new run directory.

        Args:
            path: of the folder.
            again: whether a run may be replaced that stopped before its first checkpoint.

        Raises:
            UserError: it holds a run already, or can't be written.
        """
        run = cls(path)
        if not again:
            run.check_free()
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in (run.tokenizer, run.target_tokenizer, run.media):  # of a run that didn't come far
                shutil.rmtree(folder, ignore_errors=True)
            for file in (run.summary, run.metrics, run.non_finite, run.bad_batches):
                file.unlink(missing_ok=True)
            run.tokenizer.mkdir()
        except OSError as error:
            raise UserError(f"run_dir={path}: can't be written ({error.strerror}).") from None
        return run

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Within, no other process may train here; it ends with the process, however that ends.

        Raises:
            UserError: another process trains here, or nothing can be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"run_dir={self.path}: can't be written ({error.strerror}).") from None
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not held by workers that live on
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise UserError(f"{self.lock}: can't be locked ({error.strerror}). Choose another disk.") from None
                file.seek(0)
                who = file.read().strip() or "another process"
                raise UserError(
                    f"run_dir={self.path}: {who} is training in it. Wait for its end, or choose another run_dir."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

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
        if not path.exists():
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
            onto_disk(temporary)
        temporary.replace(path)
        if sync:
            onto_disk(path.parent)
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
            onto_disk(path)
        temporary.replace(folder)
        onto_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def onto_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are wholly on the disk."""
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
