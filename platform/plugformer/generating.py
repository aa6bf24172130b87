"""A run whose model can go on with sequences, or write one for another: loaded, and put where it is to work."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plugformer.assemble import load_run
from plugformer.compatibility import plugins_that
from plugformer.config import Config
from plugformer.decode.session import CacheKind, keeps_size
from plugformer.errors import UserError
from plugformer.interfaces import Backbone, Features, Task, Tokenizer
from plugformer.model import Model, decodes_in_steps, remembering
from plugformer.prompts import Prompt, count_places, encode_prompt, read_source
from plugformer.recorded import load_config
from plugformer.registry import find
from plugformer.run_dir import RunDir
from plugformer.settings import GenerateSettings

PRECISIONS = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


@dataclass(frozen=True)
class Generating:
    """
    Attributes:
        run: its directory.
        config: its composition.
        tokenizer, model: as they were trained.
        target: the tokenizer of what is written.
        places: tokens that a sequence can have, or a text for a source; None where positions go on without end.
        cache: what is remembered between tokens.
    """

    run: RunDir
    config: Config
    tokenizer: Tokenizer
    model: Model
    target: Tokenizer
    places: int | None
    cache: CacheKind

    @property
    def has_sources(self) -> bool:
        """Whether it writes one sequence for another, in place of going on with it."""
        return self.model.trunk.backbone.direction == "encoder_decoder"

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that it was trained to write."""
        return len(self.target.spec.grid)

    def read(self, given: str) -> Prompt:
        """
        Args:
            given: the beginning of a text or, where texts have sources, a path or a text to write one for.

        Raises:
            UserError: it is none, or it can't be read.
        """
        if self.has_sources:
            return Prompt(given, torch.tensor([self.model.task.start]), read_source(given, tokenizer=self.tokenizer))
        return Prompt(
            given, encode_prompt(given, tokenizer=self.tokenizer, name=self.config["tokenizer"]["name"])["ids"]
        )

    def collate(self, sources: Sequence[Features]) -> Features:
        """A batch of them, where the model is, with numbers of its kind."""
        weights = next(self.model.parameters())

        def bring(part: Tensor) -> Tensor:
            return part.to(weights.device, weights.dtype if part.is_floating_point() else None)

        return self.model.task.source({key: bring(part) for key, part in self.tokenizer.collate(sources).items()})

    def name(self, kind: str) -> str:
        """A part of its composition, as in `attention=full`."""
        return f"{kind}={self.config[kind]['name']}"


def load_generating(path: str | Path, settings: GenerateSettings) -> Generating:
    """
    Raises:
        UserError: not a run directory, a task that generates nothing, a device that isn't there, or a cache that a
            mechanism can't work with.
    """
    device = find_device(settings.accelerator)
    config = load_config(path)
    task = config["task"]["name"]
    kind_of_task: type[Task] = find("task", task).load()
    if not kind_of_task.generates:
        able = ", ".join(f"task={name}" for name in plugins_that("task", lambda cls: cls.generates))
        raise UserError(f"{path}: task={task} can't go on with a sequence.\n  A run of one of these could: {able}")
    tokenizer, model = load_run(path, config, checkpoint=settings.checkpoint)
    if not model.task.generates:
        kind = f"{tokenizer.spec.token_kind} tokens, as tokenizer={config['tokenizer']['name']} makes them"
        raise UserError(f"{path}: task={task} can't go on with a sequence of {kind}.")
    dtype = None if settings.precision is None else PRECISIONS[settings.precision.removesuffix("-true")]
    cache = _choose_cache(settings, model, config)
    target = model.task.target_tokenizer or tokenizer
    places = count_places(model, target)
    return Generating(RunDir(path), config, tokenizer, model.to(device, dtype), target, places, cache)


def has_sources(config: Config) -> bool:
    """Whether a run of this composition writes one sequence for another."""
    task: type[Task] = find("task", config["task"]["name"]).load()
    backbone: type[Backbone] = find("backbone", config["backbone"]["name"]).load()
    return task.generates and backbone.direction == "encoder_decoder"


def find_device(accelerator: str) -> torch.device:
    """
    Raises:
        UserError: there is none here.
    """
    there = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        chosen = next(name for name, is_there in there.items() if is_there)
    elif there[accelerator]:
        chosen = accelerator
    else:
        raise UserError(f"accelerator={accelerator}: torch sees none here. Leave it out, or set accelerator=cpu.")
    return torch.device("cuda" if chosen == "gpu" else chosen)


def _choose_cache(settings: GenerateSettings, model: Model, config: Config) -> CacheKind:
    """
    Raises:
        UserError: the one that is asked for can't be.
    """
    attention, cache = f"attention={config['attention']['name']}", settings.cache
    steps = decodes_in_steps(model)
    keeps_room = all(keeps_size(mechanism) for mechanism in remembering(model))
    if settings.compile and cache in ("growing", "none"):
        raise UserError(f"compile=true: needs steps of one shape, and cache={cache} has none. Set cache=fixed.")
    wanted = cache if cache != "auto" else "fixed" if settings.compile else "growing"
    if wanted == "none" or (steps and (wanted == "growing" or keeps_room)):
        return wanted
    if cache == "auto" and not settings.compile:
        warnings.warn(
            f"{attention} can't go on token by token in this run: each token reads all before it anew, which is slow.",
            stacklevel=4,
        )
        return "none"
    asked = "compile=true" if cache == "auto" else f"cache={cache}"
    if not steps:
        raise UserError(f"{asked}: {attention} can't go on token by token in this run. Set cache=none, compile=false.")
    raise UserError(
        f"{asked}: {attention} can't work in memory of a fixed size, with room for later tokens.\n"
        "  Set cache=growing, compile=false."
    )
