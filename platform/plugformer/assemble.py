"""From a checked composition to its parts; torch and the registry, no Hydra, no Lightning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugformer.compatibility import check_compatible
from plugformer.config import Config, check_config
from plugformer.errors import UserError
from plugformer.interfaces import Backbone, DataSource, DataSpec, Tokenizer, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.nn.depth import check_layer_decay, freeze
from plugformer.nn.initialise import initialise
from plugformer.nn.parameters import group_parameters
from plugformer.registry import build, offers
from plugformer.run_dir import RunDir, read_json


def build_backbone(config: Config, tokens: TokenSpec) -> Backbone:
    """The backbone of a composition, with its blocks, mechanism, norms, feed-forwards and positions."""
    attention_context = {"seed": config["seed"], "max_length": len(tokens.grid) + 1}  # and a class token
    return build(
        "backbone",
        config["backbone"],
        make_block=partial(build, "block", config["block"]),
        make_attention=partial(build, "attention", config["attention"], **attention_context),
        make_norm=partial(build, "norm", config["norm"]),
        make_feed_forward=partial(build, "feed_forward", config["feed_forward"]),
        make_position=partial(build, "position", config["position"], grids=(tokens.grid,)),
    )


def build_model(config: Config, *, tokenizer: Tokenizer, data: DataSpec) -> Model:
    """A new model for these tokens and this data, its weights drawn from the composition's seed.

    Args:
        config: a checked composition.
        tokenizer: fitted, loaded, or with assumed shapes.
        data: of which only the labels matter.
    """
    backbone = build_backbone(config, tokenizer.spec)
    trunk = Trunk(embedding=tokenizer.embedding(dim=backbone.dim), backbone=backbone)
    task = build("task", config["task"], dim=backbone.dim, tokens=tokenizer.spec, data=data)
    model = Model(trunk=trunk, task=task)
    initialise(model, seed=config["seed"])
    return model


def preview(config: Config, *, source: DataSource) -> tuple[Tokenizer, Model]:
    """The tokenizer with assumed shapes and the model without storage, once all parts are known to go together.

    No sample is read and no weight is made.

    Raises:
        UserError: parts that can't be combined.
    """
    tokenizer: Tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    with torch.device("meta"):
        model = build_model(config, tokenizer=tokenizer, data=source.spec)
    check_compatible(config, source=source.spec, tokenizer=tokenizer, model=model)
    freeze(model.trunk, model.task, config["trainer"]["freeze"])
    check_layer_decay(model.trunk, model.task, config["trainer"]["layer_decay"])
    build("optimizer", config["optimizer"]).build(group_parameters(model))
    build("schedule", config["schedule"])
    return tokenizer, model


# ---------------------------------------------------------------------------------------------- back from a run


def load_config(path: str | Path) -> Config:
    """The composition of a run, checked: it can but name plugins that are installed (or were registered before).

    Raises:
        UserError: not a run directory, or its composition can't be used here.
    """
    run = RunDir.open(path)
    config = run.read_config()
    try:
        return check_config(config)
    except UserError as error:
        raise UserError("\n  ".join([f"{run.config}: {error}", *_missing_plugins(run)])) from None


def _missing_plugins(run: RunDir) -> list[str]:
    """For each plugin that the run used and that isn't here: where it came from."""
    try:
        used = read_json(run.plugins)
        return [
            f"The run used {place}={its['name']}: {its['entry_point']} of {its['package']} {its['version']}."
            for place, its in used.items()
            if its["name"] not in offers(place.partition(".")[0])
        ]
    except (UserError, AttributeError, KeyError, TypeError):  # the record can but help
        return []


_COPY_TOKENIZER = "Copy the folder tokenizer/ from where the run was trained: a model is of no use without its own."


def load_run(path: str | Path, config: Config | None = None, *, checkpoint: str = "best") -> tuple[Tokenizer, Model]:
    """A trained tokenizer and model as a run directory holds them, in evaluation mode on the CPU.

    Nothing in the directory is executed: weights are loaded as data only.

    Args:
        path: the run directory.
        config: its composition, if it is loaded already.
        checkpoint: `best` or `last`.

    Raises:
        UserError: not a run directory, a damaged file, or a plugin that isn't installed.
    """
    run = RunDir.open(path)
    config = config or load_config(path)
    tokenizer: Tokenizer = build("tokenizer", config["tokenizer"])
    try:
        tokenizer.load(run.tokenizer)
    except UserError as error:
        raise UserError(f"{error}\n  {_COPY_TOKENIZER}") from None
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{run.tokenizer}: what the tokenizer learned can't be loaded ({error}).\n  {_COPY_TOKENIZER}"
        ) from None
    model = build_model(config, tokenizer=tokenizer, data=load_data_spec(run))
    load_weights(model, run.checkpoint(checkpoint))
    return tokenizer, model.eval()


def load_data_spec(run: RunDir) -> DataSpec:
    labels = read_json(run.data).get("labels", [])
    return DataSpec(keys=frozenset(), labels=tuple(labels))


def load_weights(model: Model, path: Path) -> None:
    """
    Raises:
        UserError: a file that is truncated, foreign or unsafe, or weights of another model.
    """
    weights = read_checkpoint(path).get("state_dict")
    if not isinstance(weights, dict):
        raise UserError(f"{path}: not a checkpoint of Plugformer, it holds no weights.")
    try:
        model.to(_precision(weights)).load_state_dict(
            {key.removeprefix("model."): value for key, value in weights.items()}
        )
    except RuntimeError as error:
        raise UserError(f"{path}: the weights are of another model.\n  {error}") from None


def _precision(weights: Mapping[str, Tensor]) -> torch.dtype:
    """That of most: there may be statistics that keep a finer one."""
    kinds = Counter(value.dtype for value in weights.values() if value.is_floating_point())
    return kinds.most_common(1)[0][0] if kinds else torch.float32


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, as data only: a file that would run code is refused.

    Raises:
        UserError: truncated, foreign or unsafe.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"{path}: can't be loaded as a checkpoint; it is truncated, foreign, or holds more than data.\n"
            f"  {type(error).__name__}: {_first_sentence(error)}"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: not a checkpoint, it holds a {type(checkpoint).__name__}.")
    return checkpoint


def _first_sentence(error: Exception) -> str:
    """What went wrong, without torch's advice on how to read an unsafe file all the same."""
    return re.split(r"\.\s|\n", str(error), maxsplit=1)[0][:200].rstrip(".") + "."
