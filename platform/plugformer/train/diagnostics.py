"""What mechanisms have to say of themselves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.seed import isolate_rng

from plugformer.interfaces import Attention, Batch, Features
from plugformer.model import Model, mechanisms
from plugformer.train.divided import whole
from plugformer.train.listening import Call, listening

SAMPLES = 4  # on which mechanisms are looked at


class Diagnostics(Callback):
    """Logs as `diagnostics/NAME` what `Attention.diagnose` tells, the mean over layers.

    Once a validation, on the first samples of its first batch, of each process. It changes nothing of the training.
    """

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx or trainer.state.fn != TrainerFn.FITTING:
            return
        model = cast("Model", module.model)
        if not telling(model):
            return
        with isolate_rng(), torch.no_grad():
            with whole(model), trainer.precision_plugin.forward_context():
                calls = calls_of(model, first_samples(batch, SAMPLES))
            found = diagnose(calls)
        told = {f"diagnostics/{name}": value for name, value in found.items()}
        module.log_dict(told, batch_size=1, sync_dist=trainer.world_size > 1)


def first_samples(batch: Batch, count: int) -> Batch:
    def cut(features: Features) -> Features:
        return {name: value[:count] for name, value in features.items()}

    return {"inputs": cut(batch["inputs"]), "targets": cut(batch["targets"]), "index": batch["index"][:count]}


def diagnose(calls: Sequence[tuple[Attention, Call]]) -> Mapping[str, float]:
    """What mechanisms tell of how they work on these, by name: the mean of those that tell it."""
    told = defaultdict(list)
    for mechanism, (q, k, v, mask, *_) in calls:
        for name, value in mechanism.diagnose(q, k, v, mask).items():
            told[name].append(value)
    return {name: fmean(values) for name, values in told.items()}


def calls_of(model: Model, batch: Batch) -> list[tuple[Attention, Call]]:
    """What is given to each mechanism that has something to tell."""
    told = telling(model)
    with listening(told) as calls:
        if told:
            model.forward(batch)  # not as it was compiled, for hooks are no part of that
    return [(mechanism, calls[id(mechanism)]) for mechanism in told if id(mechanism) in calls]


def telling(model: Model) -> list[Attention]:
    """Mechanisms that have something to tell."""
    return [each for each in mechanisms(model) if type(each).diagnose is not Attention.diagnose]
