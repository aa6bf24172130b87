"""Weights by what a user calls them: a run directory, a checkpoint of one, a folder of Hugging Face's form, a name."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from plugformer.assemble import load_data_spec, read_checkpoint
from plugformer.errors import UserError
from plugformer.run_dir import RunDir
from plugformer.weights.artifact import chosen_checkpoint, local
from plugformer.weights.huggingface import fetch, read_folder
from plugformer.weights.source import Weights
from plugformer.weights.tensors import PICKLES

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def find_weights(where: str) -> Weights:
    """
    Args:
        where: a run directory, whose best checkpoint is taken; a file of its `checkpoints`; an artifact of a run, as
            `wandb:ENTITY/PROJECT/NAME:ALIAS`; a folder with config.json and *.safetensors; or, where there is no such
            path, a name on Hugging Face's hub.

    Raises:
        UserError: nothing of that kind, damaged, or a pickle, which could run code.
    """
    path = local(where)
    if path.is_file():
        return _read_file(path)
    if not path.exists():
        return _fetch(where)
    if (path / "config.yaml").is_file() or (path / "checkpoints").is_dir():
        return read_run_checkpoint(RunDir(path).checkpoint(chosen_checkpoint(where, RunDir(path))))
    if (path / "config.json").is_file():
        return _read_folder(path)
    inside = ", ".join(sorted(each.name for each in path.iterdir())[:10]) or "nothing"
    raise UserError(
        f"init_from={where}: no weights. Expected a run directory (with checkpoints/best.ckpt), or a folder with "
        f"config.json and *.safetensors.\n  In it: {inside}"
    )


def read_run_checkpoint(path: Path) -> Weights:
    """Weights from a checkpoint of a run of ours; what lies beside it is taken along if it is there.

    Raises:
        UserError: no checkpoint of Plugformer, or a damaged one.
    """
    checkpoint = read_checkpoint(path)
    record, tensors = checkpoint.get("plugformer"), checkpoint.get("state_dict")
    composition = record.get("config") if isinstance(record, dict) else None
    if not isinstance(composition, dict) or not isinstance(tensors, dict):
        raise UserError(f"{path}: not a checkpoint of Plugformer; it doesn't say of which composition its weights are.")
    run = RunDir(path.parent.parent)
    return Weights(
        origin=str(path),
        tensors={name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        composition=composition,
        tokenizer=_filled(run.tokenizer),
        target_tokenizer=_filled(run.target_tokenizer),
        labels=load_data_spec(run).labels if run.data.is_file() else None,
        fingerprint=_fingerprint([path]),
    )


def _filled(folder: Path) -> Path | None:
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def _read_file(path: Path) -> Weights:
    if path.suffix == ".ckpt":
        return read_run_checkpoint(path)
    if path.suffix == ".safetensors":
        raise UserError(
            f"init_from={path}: tensors alone don't say of which model they are.\n  Give the folder: {path.parent}"
        )
    raise _refusal(path)


def _refusal(path: Path) -> UserError:
    what = "a pickle, which could run code as it is read" if path.suffix in PICKLES else "no file of weights"
    return UserError(
        f"init_from={path}: {what}, so it is refused.\n"
        "  Give a run directory, a checkpoint of one (*.ckpt), or a folder with config.json and *.safetensors."
    )


def _fetch(name: str) -> Weights:
    nothing = f"init_from={name}: no such file or folder"
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"{nothing}.\n  Give a run directory, a folder with config.json and *.safetensors, or a name on Hugging "
            "Face's hub, such as gpt2."
        )
    try:
        folder = fetch(name)
    except UserError as error:
        raise UserError(f"{nothing}, and as a name on Hugging Face's hub: {error}") from None
    return _read_folder(folder)


def _read_folder(folder: Path) -> Weights:
    return replace(read_folder(folder), fingerprint=_fingerprint(sorted(folder.glob("*.safetensors"))))


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
