"""A trained model by itself, in a form of our own: tensors under our names, and what they are of as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plugformer import __version__
from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.interfaces import Tokenizer
from plugformer.model import Model
from plugformer.run_dir import write_json
from plugformer.weights.source import Weights
from plugformer.weights.tensors import FILE, read_tensors, write_tensors

MODEL_TYPE = "plugformer"
CONFIG, TOKENIZER, TARGET_TOKENIZER = "config.json", "tokenizer", "target_tokenizer"


def write_own_form(
    folder: Path, *, config: Config, tokenizer: Tokenizer, model: Model, labels: tuple[str, ...]
) -> None:
    """model.safetensors, config.json, tokenizer/ and, where what is written has its own, target_tokenizer/ into an
    empty folder."""
    target = None if model.task.target_tokenizer is tokenizer else model.task.target_tokenizer
    write_tensors(folder / FILE, model.state_dict(), plugformer=__version__)
    said = {
        "model_type": MODEL_TYPE,
        "plugformer_version": __version__,
        "labels": labels,
        "tokens": asdict(tokenizer.spec),
        **({} if target is None else {"target_tokens": asdict(target.spec)}),
        "composition": {key: value for key, value in config.items() if key != "run_dir"},
    }
    write_json(folder / CONFIG, said)
    (folder / TOKENIZER).mkdir()
    tokenizer.save(folder / TOKENIZER)
    if target is not None:
        (folder / TARGET_TOKENIZER).mkdir()
        target.save(folder / TARGET_TOKENIZER)


def read_own_form(folder: Path, said: Mapping[str, Any]) -> Weights:
    """
    Args:
        folder: as `write_own_form` leaves it.
        said: its config.json.

    Raises:
        UserError: a file is missing or damaged.
    """
    composition, labels = said.get("composition"), said.get("labels", [])
    if not isinstance(composition, dict) or not isinstance(labels, list):
        raise UserError(f"{folder / CONFIG}: expected a composition and labels, as `plugformer export` writes them.")
    tokenizer, target = folder / TOKENIZER, folder / TARGET_TOKENIZER
    return Weights(
        origin=f"{folder} (exported by Plugformer {said.get('plugformer_version', 'of no version')})",
        tensors=read_tensors(folder),
        composition=composition,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        target_tokenizer=target if target.is_dir() else None,
        labels=tuple(labels),
    )
