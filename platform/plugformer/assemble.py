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

from plugformer.compatibility import check_compatible, check_target
from plugformer.config import Config
from plugformer.dividing import check_divides_model
from plugformer.errors import UserError
from plugformer.interfaces import Backbone, DataSource, DataSpec, Tokenizer, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.nn.depth import check_layer_decay, freeze
from plugformer.nn.initialise import initialise
from plugformer.nn.parameters import group_parameters
from plugformer.recorded import load_config
from plugformer.registry import build
from plugformer.run_dir import RunDir, read_json
from plugformer.sharded import read_sharded


def build_backbone(config: Config, tokens: TokenSpec, target: TokenSpec | None = None) -> Backbone:
    """The backbone of a composition, with its blocks, mechanisms, norms, feed-forwards and positions.

    Args:
        config: a checked composition.
        tokens: what it reads.
        target: what its decoder writes, where that is another sequence; the same by default.
    """
    grids = tokens.grid, (tokens if target is None else target).grid
    source_length, target_length = (len(grid) + 1 for grid in grids)  # and a class token
    attention = partial(build, "attention", config["attention"], seed=config["seed"])
    cross = config.get("cross_attention", {"name": "full"})
    return build(
        "backbone",
        config["backbone"],
        make_block=partial(build, "block", config["block"]),
        make_attention=partial(attention, max_length=source_length),
        make_target_attention=partial(attention, max_length=target_length),
        make_cross_attention=partial(
            build, "cross_attention", cross, seed=config["seed"], max_length=max(source_length, target_length)
        ),
        make_norm=partial(build, "norm", config["norm"]),
        make_feed_forward=partial(build, "feed_forward", config["feed_forward"]),
        make_position=partial(build, "position", config["position"], grids=grids[:1]),
        make_target_position=partial(build, "position", config["position"], grids=grids[1:]),
    )


def build_target_tokenizer(config: Config, tokenizer: Tokenizer) -> Tokenizer | None:
    """What makes tokens of texts that are to be written: a tokenizer of their own, or that of the source if it is of
    text, too."""
    if "target_tokenizer" in config:
        return build("target_tokenizer", config["target_tokenizer"], part="target_tokenizer")
    return tokenizer if tokenizer.modality == "text" else None


def build_model(
    config: Config, *, tokenizer: Tokenizer, data: DataSpec, target_tokenizer: Tokenizer | None = None
) -> Model:
    """A new model for these tokens and this data, its weights drawn from the composition's seed.

    Args:
        config: a checked composition.
        tokenizer: fitted, loaded, or with assumed shapes.
        data: of which only the labels matter.
        target_tokenizer: likewise, of texts that are to be written; by default `tokenizer`, if it is of text.
    """
    if target_tokenizer is None:
        assert "target_tokenizer" not in config, "a composition with a target tokenizer, and none is given"
        target_tokenizer = build_target_tokenizer(config, tokenizer)
    own = None if target_tokenizer in (None, tokenizer) else target_tokenizer
    backbone = build_backbone(config, tokenizer.spec, None if own is None else own.spec)
    writes = own is not None and backbone.direction == "encoder_decoder"
    trunk = Trunk(
        embedding=tokenizer.embedding(dim=backbone.dim),
        backbone=backbone,
        target_embedding=own.embedding(dim=backbone.dim) if own is not None and writes else None,
    )
    task = build(
        "task",
        config["task"],
        dim=backbone.dim,
        tokens=tokenizer.spec,
        data=data,
        tokenizer=tokenizer,
        target_tokenizer=target_tokenizer,
    )
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
    target = build_target_tokenizer(config, tokenizer)
    check_target(config, target=target)
    if target not in (None, tokenizer):
        target.assume(source.spec)
    with torch.device("meta"):
        model = build_model(config, tokenizer=tokenizer, data=source.spec, target_tokenizer=target)
    check_compatible(config, source=source.spec, tokenizer=tokenizer, model=model)
    check_divides_model(config, model)
    freeze(model.trunk, model.task, config["trainer"]["freeze"])
    check_layer_decay(model.trunk, model.task, config["trainer"]["layer_decay"])
    build("optimizer", config["optimizer"]).build(group_parameters(model))
    build("schedule", config["schedule"])
    return tokenizer, model


# ---------------------------------------------------------------------------------------------- back from a run


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
    target = build_target_tokenizer(config, tokenizer)
    load_tokenizers(run, tokenizer, target)
    model = build_model(config, tokenizer=tokenizer, data=load_data_spec(run), target_tokenizer=target)
    load_weights(model, run.checkpoint(checkpoint))
    return tokenizer, model.eval()


def load_tokenizers(run: RunDir, tokenizer: Tokenizer, target: Tokenizer | None) -> None:
    """Give them back what they learned in a run; `target` may be `tokenizer`, or None.

    Raises:
        UserError: it is missing or damaged.
    """
    _load_tokenizer(tokenizer, run.tokenizer)
    if target is not None and target is not tokenizer:
        _load_tokenizer(target, run.target_tokenizer)


def _load_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    copy = f"Copy the folder {folder.name}/ from where the run was trained: a model is of no use without its own."
    try:
        tokenizer.load(folder)
    except UserError as error:
        raise UserError(f"{error}\n  {copy}") from None
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder}: what the tokenizer learned can't be loaded ({error}).\n  {copy}") from None


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
    """What a checkpoint holds, as data only: one that would run code is refused. Of a sharded one, whole tensors.

    Raises:
        UserError: truncated, foreign or unsafe.
    """
    try:
        whole = read_sharded if path.is_dir() else partial(torch.load, map_location="cpu", weights_only=True)
        checkpoint = whole(path)
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
