"""What a training step costs, counted on a model without storage."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from plugformer.assemble import preview
from plugformer.config import Config
from plugformer.data.collate import Collate
from plugformer.data.encoded import Encoded
from plugformer.data.loaders import check_divides
from plugformer.interfaces import Batch, Optimizer, ParameterGroups, Targets, Tokenizer
from plugformer.measure.tokens import EmbeddedTokens
from plugformer.model import Model
from plugformer.nn.parameters import count_parameters, group_parameters, weights_dtype
from plugformer.registry import build
from plugformer.settings import LoaderSettings, TrainerSettings

_FUSED = {  # the one attention kernel that torch doesn't count itself
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}

QUICK = 10**8  # parameters times tokens, of which a pass on a CPU takes a fraction of a second


@dataclass(frozen=True)
class Budget:
    """Sizes in bytes, for one training step; for mixed precision, what it would take without.

    Attributes:
        parameters: how many numbers are trained.
        length: tokens of one sample.
        written: tokens of what is written for it at most; 0 where nothing is.
        batch_size: samples that pass through the model at once.
        flops: floating-point operations of forward and backward together.
        weights, gradients, optimizer: bytes of each.
        activations: bytes that the forward pass keeps for the backward pass.
    """

    parameters: int
    length: int
    written: int
    batch_size: int
    flops: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def memory(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(config: Config) -> Budget:
    """
    Args:
        config: a checked composition. No data is read.

    Raises:
        UserError: parts that can't be combined.
    """
    tokenizer, model = preview(config, source=build("data", config["data"]))
    settings, loading = TrainerSettings(**config["trainer"]), LoaderSettings(**config["loader"])
    model = model.to(weights_dtype(settings.precision)).train()
    world = settings.devices * settings.num_nodes
    check_divides(loading.batch_size, accumulate=settings.accumulate, world=world)
    batch_size = loading.batch_size // (settings.accumulate * world)
    # Fake tensors have no numbers, but take the kernels that a CPU would: on meta, attention is never fused.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        flops, activations = _measure(model, example_batch(tokenizer, model.task.targets, batch_size))
        states = _optimizer_states(build("optimizer", config["optimizer"]), group_parameters(model))
    target = model.task.target_tokenizer
    return Budget(
        parameters=count_parameters(model),
        length=len(tokenizer.spec.grid),
        written=0 if target is None else len(target.spec.grid),
        batch_size=batch_size,
        flops=flops,
        weights=_bytes(model.parameters()),
        gradients=_bytes(p.grad for p in model.parameters() if p.grad is not None),
        optimizer=_bytes(states),
        activations=activations,
    )


@dataclass(frozen=True)
class PassCost:
    """Of one of the longest samples there can be.

    Attributes:
        flops: floating-point operations of forward and backward together.
        tokens: that are embedded for it.
    """

    flops: int
    tokens: int


def pass_cost(model: Model, tokenizer: Tokenizer) -> PassCost | None:
    """What training on a sample costs; None, with a warning, where a plugin's operations can't be counted.

    It is counted on a copy: of a small model by running it, which is quicker than to pretend to.

    Args:
        model: on the CPU, with gradients for what is to be trained. It stays as it is, and so do torch's generators.
        tokenizer: fitted.
    """
    length, batch_size = len(tokenizer.spec.grid), 2  # some norms want more than one
    runs = length <= 1024 and count_parameters(model) * length <= QUICK
    try:
        copy = deepcopy(model) if runs else _without_storage(model)
        with torch.random.fork_rng(devices=[]), nullcontext() if runs else FakeTensorMode(allow_non_fake_inputs=True):
            copy = copy if runs else copy.to_empty(device="cpu")
            tokens = EmbeddedTokens(copy.trunk.embeddings)
            tokens.counting = True
            flops, _ = _measure(copy.train(), example_batch(tokenizer, model.task.targets, batch_size))
    except Exception as error:  # whatever a plugin raises where it isn't trained but measured
        reason = str(error).partition("\n")[0]
        warnings.warn(f"What a step costs can't be counted: {type(error).__name__}: {reason}", stacklevel=2)
        return None
    return PassCost(flops // batch_size, tokens.take().places // batch_size)


def _without_storage(model: Model) -> Model:
    copies: dict[int, Any] = {id(tensor): tensor.to("meta") for tensor in model.buffers()}
    for weight in model.parameters():
        copies[id(weight)] = nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
    return deepcopy(model, copies)


def _measure(model: Model, batch: Batch) -> tuple[int, int]:
    """Operations of a pass forward and back, and the bytes kept between the two."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False, custom_mapping=_FUSED) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(batch).loss
        assert loss is not None, "a batch with targets has no loss"
        loss.backward()
    return counter.get_total_flops(), sum(kept.values())


def _optimizer_states(optimizer: Optimizer, groups: ParameterGroups) -> list[Tensor]:
    """What an optimiser keeps after its first step.

    It is made a group at a time: each gets an optimiser of its own, for one whose updates depend on the numbers, which
    fake tensors don't have, gets no further than the state of its first group.
    """
    states: list[Tensor] = []
    for part in (replace(groups, undecayed=[]), ParameterGroups([], groups.undecayed)):
        if part.decayed or part.undecayed:
            made = optimizer.build(part)
            with suppress(DataDependentOutputException):
                made.step()
            states += [value for state in made.state.values() for value in state.values() if isinstance(value, Tensor)]
    return states


def example_batch(tokenizer: Tokenizer, targets: Targets, batch_size: int) -> Batch:
    """Of the longest samples there can be, made up."""
    example = tokenizer.example()
    encoded: Encoded = {"inputs": example, "targets": targets.example(example), "index": 0, "seed": 0}
    one = Collate(tokenizer=tokenizer, targets=targets)([encoded])
    inputs, expected = (
        {key: value.expand(batch_size, *value.shape[1:]) for key, value in features.items()}
        for features in (one["inputs"], one["targets"])
    )
    return {"inputs": inputs, "targets": expected, "index": one["index"].expand(batch_size)}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
