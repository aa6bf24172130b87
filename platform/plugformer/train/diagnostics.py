"""What mechanisms have to say of themselves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import fmean
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from plugformer.interfaces import Attention, Batch, Features, Mask
from plugformer.model import Model, mechanisms

Call = tuple[Attention, tuple[Tensor, Tensor, Tensor, Mask]]

SAMPLES = 4  # on which mechanisms are looked at


class Diagnostics(Callback):
    """Logs as `diagnostics/NAME` what `Attention.diagnose` tells, the mean over layers.

    Once a validation, on the first samples of its first batch. It changes nothing of the training.
    """

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx or trainer.state.fn != TrainerFn.FITTING:
            return
        with isolate_rng(), torch.no_grad():
            with trainer.precision_plugin.forward_context():
                calls = calls_of(cast("Model", module.model), first_samples(batch, SAMPLES))
            found = diagnose(calls)
        module.log_dict({f"diagnostics/{name}": value for name, value in found.items()}, batch_size=1)


def first_samples(batch: Batch, count: int) -> Batch:
    def cut(features: Features) -> Features:
        return {name: value[:count] for name, value in features.items()}

    return {"inputs": cut(batch["inputs"]), "targets": cut(batch["targets"]), "index": batch["index"][:count]}


def diagnose(calls: Sequence[Call]) -> Mapping[str, float]:
    """What mechanisms tell of how they work on these, by name: the mean of those that tell it."""
    told = defaultdict(list)
    for mechanism, given in calls:
        for name, value in mechanism.diagnose(*given).items():
            told[name].append(value)
    return {name: fmean(values) for name, values in told.items()}


def calls_of(model: Model, batch: Batch) -> list[Call]:
    """What is given to each mechanism that has something to tell."""
    calls: list[Call] = []
    telling = [each for each in mechanisms(model) if type(each).diagnose is not Attention.diagnose]
    with ExitStack() as hooks:
        for mechanism in telling:
            hook = mechanism.register_forward_pre_hook(lambda module, given: calls.append((module, given[:4])))
            hooks.callback(hook.remove)
        if telling:
            model.forward(batch)  # not as it was compiled, for hooks are no part of that
    return calls
