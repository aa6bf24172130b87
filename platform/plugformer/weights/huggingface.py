"""Folders in Hugging Face's form: config.json beside safetensors."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from plugformer.errors import UserError, unknown
from plugformer.interfaces import Family
from plugformer.registry import build, check, offers
from plugformer.run_dir import read_json
from plugformer.weights.own_form import CONFIG, MODEL_TYPE, read_own_form
from plugformer.weights.source import Weights
from plugformer.weights.tensors import read_tensors

# Nothing that could run: no pickles and no Python.
_FETCHED = ["*.safetensors", "*.json"]


def read_folder(folder: Path) -> Weights:
    """Weights of a family that is installed, or as `plugformer export` wrote them; in the dtype of the files.

    Raises:
        UserError: no such folder, nothing of that kind in it, a model of another family, or damaged files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    if not (folder / CONFIG).is_file():
        tensors = read_tensors(folder)  # which says what is wrong if there are none
        raise UserError(f"{folder}: there are {len(tensors)} tensors, but no {CONFIG} that says what they are of.")
    said = read_json(folder / CONFIG)
    if not isinstance(said, dict):
        raise UserError(f"{folder / CONFIG}: expected a mapping.")
    if said.get("model_type") == MODEL_TYPE:
        return read_own_form(folder, said)
    try:
        family = _family_of(said)
        composition = family.composition(said)
        for kind, node in composition.items():
            check(kind, node)
        tensors = family.read(read_tensors(folder), said)
    except UserError as error:
        raise error if str(error).startswith(str(folder)) else UserError(f"{folder}: {error}") from None
    return Weights(
        origin=f"{folder} ({said['model_type']})",
        tensors=tensors,
        composition=composition,
        tokenizer=folder if (folder / "tokenizer.json").is_file() else None,
    )


def families() -> Iterator[tuple[str, Family]]:
    """Those installed, by name; one that is broken is told of, and harms no other."""
    for name in offers("family"):
        try:
            family = build("family", {"name": name})
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        yield name, family


def _family_of(said: dict[str, Any]) -> Family:
    found = {model_type: family for _, family in families() for model_type in family.model_types}
    model_type = said.get("model_type")
    if model_type not in found:
        raise unknown(
            f"{CONFIG}: model_type={model_type}: no family of models that is installed here",
            str(model_type),
            [*found, MODEL_TYPE],
            "Known",
        )
    return found[model_type]


def fetch(name: str) -> Path:
    """The folder of a model on Hugging Face's hub, downloaded unless it is there already; no pickles and no code.

    Args:
        name: as in `gpt2` or `openai-community/gpt2`.

    Raises:
        UserError: no such model, or it can't be reached.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=_FETCHED))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UserError(f"{name}: no such model on the hub, or it is not open to you ({_first_line(error)}).") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name}: the hub can't be reached, and the model was not downloaded before ({_first_line(error)}).\n"
            "  Without a network, give a local folder with its config.json and *.safetensors."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:200] or type(error).__name__
