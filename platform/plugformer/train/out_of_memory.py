"""Says what would take less memory, where there is too little."""

import gc
import os
import re
import resource
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from plugformer.assemble import preview
from plugformer.budget import Budget, estimate
from plugformer.compatibility import plugins_that
from plugformer.config import Config
from plugformer.errors import RunFailed, UserError
from plugformer.registry import build, check, find
from plugformer.settings import LoaderSettings, TrainerSettings
from plugformer.train.callbacks import check_callbacks

SPACE = 0.9  # of a device's memory; some is always taken by others, or in pieces
LESS = 0.9  # of what it takes now, for a change to be worth a mention
SMALLER = {"64-true": "32-true", "32-true": "bf16-true", "bf16-mixed": "bf16-true", "16-mixed": "bf16-true"}
_MESSAGES = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED")


class OutOfMemory(Callback):
    """Ends a run that runs out of memory with a message that says what takes less of it.

    Args:
        config: its composition.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._evaluating = False
        self._device = torch.device("cpu")
        self._step = 0

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._evaluating, self._device, self._step = bool(trainer.evaluating), module.device, trainer.global_step

    @contextmanager
    def explained(self) -> Iterator[None]:
        """
        Raises:
            RunFailed: within it, there was too little memory.
        """
        try:
            yield
        except Exception as error:
            if not ran_out(error):
                raise
            traceback.clear_frames(error.__traceback__)  # which hold all that was to be kept for the backward pass
            asked = _asked_for(error)
        else:
            return
        gc.collect()
        total = memory_of(self._device)
        told = f"Out of memory {'in evaluation' if self._evaluating else 'in training'} at step {self._step}"
        told += f" on {self._device.type}, which has {readable(total)}" + (
            f": {readable(asked)} more." if asked else "."
        )
        lines = _evaluation_levers(self._config) if self._evaluating else training_levers(self._config, total)
        raise RunFailed("\n  ".join([told, *lines]))


def ran_out(error: BaseException) -> bool:
    """Whether it says that there is too little memory on the device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def memory_of(device: torch.device) -> int:
    """Bytes that there are for a process, whoever has them."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)


def training_levers(config: Config, total: int) -> list[str]:
    """What a training step takes, and what it would take with one thing changed, where that can be and is less.

    Args:
        config: a checked composition.
        total: bytes that the device has.
    """
    now = estimate(config)
    lines = [
        f"A step of {now.batch_size} samples at once, of {now.length} tokens, takes about {readable(now.memory)} = "
        f"weights {readable(now.weights)} + gradients {readable(now.gradients)} + optimiser {readable(now.optimizer)} "
        f"+ activations {readable(now.activations)}. It would with"
    ]
    found = [
        _more_rounds(config, now, total),
        *_with_plugins(config, "block", plugins_that("block", lambda cls: cls.recomputes)),
        *_with_plugins(config, "attention", _leaner_mechanisms(config)),
        _in_fewer_bits(config),
    ]
    for choice, budget in (each for each in found if each is not None):
        if budget.memory <= LESS * now.memory:
            few = f", {budget.batch_size} samples at once" if budget.batch_size < now.batch_size else ""
            lines.append(f"  {choice:<28} about {readable(budget.memory)}{few}")
    if len(lines) == 1:
        lines[0] = lines[0].removesuffix(" It would with") + " Make the model smaller, as with backbone.num_layers."
    return lines


def _evaluation_levers(config: Config) -> list[str]:
    size = LoaderSettings(**config["loader"]).eval_batch_size
    if size == 1:
        return ["It takes one sample at a time; make the model or the samples smaller."]
    return [
        f"It takes {size} samples at once: set loader.eval_batch_size={size // 2} or less, which changes no metric."
    ]


Found = tuple[str, Budget]


def _more_rounds(config: Config, now: Budget, total: int) -> Found | None:
    """The fewest rounds with which a step fits, or the most there can be. Activations grow with the samples at once."""
    settings, loading = TrainerSettings(**config["trainer"]), LoaderSettings(**config["loader"])
    share = loading.batch_size // (settings.devices * settings.num_nodes)
    possible = [number for number in range(settings.accumulate + 1, share + 1) if share % number == 0]
    if not possible:
        return None
    room = SPACE * total - (now.memory - now.activations)
    fitting = [number for number in possible if now.activations * settings.accumulate / number <= room]
    rounds = fitting[0] if fitting else possible[-1]
    budget = _estimate_with(config, trainer={"accumulate": rounds})
    return None if budget is None else (f"trainer.accumulate={rounds}", budget)


def _in_fewer_bits(config: Config) -> Found | None:
    smaller = SMALLER.get(config["trainer"]["precision"])
    budget = None if smaller is None else _estimate_with(config, trainer={"precision": smaller})
    return None if budget is None else (f"trainer.precision={smaller}", budget)


def _with_plugins(config: Config, kind: str, names: list[str]) -> Iterator[Found]:
    """Each in place of the one there is, with the options that they share."""
    for name in names:
        if name == config[kind]["name"]:
            continue
        shared = {key: value for key, value in config[kind].items() if key in find(kind, name).options}
        try:
            node = check(kind, {**shared, "name": name})
        except UserError:
            continue
        if (budget := _estimate_with(config, **{kind: node})) is not None:
            yield f"{kind}={name}", budget


def _leaner_mechanisms(config: Config) -> list[str]:
    """Those whose memory grows less with the length than that of the one there is."""
    _, model = preview(config, source=build("data", config["data"]))
    exponents = [
        mechanism.capabilities.memory_exponent
        for alike in model.trunk.backbone.mechanisms().values()
        for mechanism in alike
    ]
    return plugins_that("attention", lambda cls: cls.capabilities.memory_exponent < max(exponents, default=0))


def _estimate_with(config: Config, **changes: Mapping[str, Any]) -> Budget | None:
    """Of a composition with these options changed; None if its parts don't go together."""
    changed = deepcopy(config)
    for key, options in changes.items():
        changed[key] = dict(options) if "name" in options else {**changed[key], **options}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what could be, not of what is
            callbacks = [build("callback", node) for node in changed.get("callback", {}).values()]
            check_callbacks(callbacks, TrainerSettings(**changed["trainer"]))
            return estimate(changed)
    except UserError:
        return None


def _asked_for(error: Exception) -> int | None:
    """Bytes that there weren't."""
    found = re.search(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", str(error), re.IGNORECASE)
    if found is None:
        return None
    powers = {"bytes": 0, "kib": 1, "mib": 2, "gib": 3, "tib": 4}
    return int(float(found[1]) * 1024 ** powers[found[2].lower()])


def readable(count: int) -> str:
    """As in 1.5 GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
