"""Heads and hidden layers divided among processes (Shoeybi et al. 2019, Megatron-LM, section 3).

What goes into a sublayer is the same on all of them. Queries, keys, values and the hidden layer of a feed-forward are
made by columns, so that each process has some heads and some hidden units; what they write to the residual stream is
made by rows and summed. All else is the same everywhere, and so is what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from plugformer.interfaces import Backbone, Block, Position
from plugformer.nn.initialise import ResidualLinear
from plugformer.nn.multi_head import MultiHeadAttention


@dataclass(frozen=True)
class Part:
    """Which of several processes that share a layer this one is."""

    number: int
    world: int

    def of(self, size: int) -> tuple[int, int]:
        """The first of so many that are this one's, and how many are."""
        assert size % self.world == 0
        return self.number * (size // self.world), size // self.world


def divide(backbone: Backbone, part: Part) -> dict[str, int]:
    """Keep this process's part of every block, in place.

    Returns:
        Along which axis each tensor of the backbone's state is divided, by its name; all others are whole. The same
        stands on parameters, as `divided_along`.
    """
    before = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    attentions = list(dict.fromkeys(attentions_of(backbone)))
    for position in {id(each): each for each in map(_position, attentions)}.values():
        _keep_heads(position, attentions[0].num_heads, part, sums=position.adds_bias)
    for attention in attentions:
        _divide_attention(attention, part)
    for feed_forward in feed_forwards_of(backbone):
        _divide_feed_forward(feed_forward, part)
    after = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    divided = {
        name: next(axis for axis, (old, new) in enumerate(zip(shape, after[name], strict=True)) if old != new)
        for name, shape in before.items()
        if shape != after[name]
    }
    for name, parameter in backbone.named_parameters():
        if name in divided:
            parameter.divided_along = divided[name]  # type: ignore[attr-defined]
    return divided


def blocks_of(backbone: nn.Module) -> list[Block]:
    return [module for module in backbone.modules() if isinstance(module, Block)]


def attentions_of(backbone: nn.Module) -> list[MultiHeadAttention]:
    return [part for block in blocks_of(backbone) for part in block.modules() if isinstance(part, MultiHeadAttention)]


def feed_forwards_of(backbone: nn.Module) -> list[Any]:
    """Those that say which of their linear maps are which."""
    return [part for block in blocks_of(backbone) for part in block.modules() if hasattr(part, "by_columns")]


def _position(attention: MultiHeadAttention) -> Position:
    (position,) = attention._position
    return position


def _divide_attention(attention: MultiHeadAttention, part: Part) -> None:
    _keep_heads(attention.mechanism, attention.num_heads, part, sums=True)
    _sum_gradients([*attention.query_norm.parameters(), *attention.key_norm.parameters()])
    for linear in (attention.query, attention.key, attention.value):
        if linear is not None:
            _keep_columns(linear, part)
    attention.num_heads //= part.world
    attention.output = SummedLinear(attention.output, part)
    attention.enter = _Shared.apply


def _divide_feed_forward(feed_forward: Any, part: Part) -> None:
    for name in feed_forward.by_columns:
        _keep_columns(getattr(feed_forward, name), part)
    for name, module in list(feed_forward.named_children()):
        if isinstance(module, nn.Dropout):
            setattr(feed_forward, name, DividedDropout(module.p, part))
    setattr(feed_forward, feed_forward.by_rows, SummedLinear(getattr(feed_forward, feed_forward.by_rows), part))
    feed_forward.register_forward_pre_hook(_enter)


def _enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, *others = inputs
    return (_Shared.apply(x), *others)


def _keep_heads(holder: Any, num_heads: int, part: Part, *, sums: bool) -> None:
    """Of a mechanism or a position. What it holds for all heads together gets a gradient from each process's, if it
    is told the heads."""
    shapes = {name: parameter.shape for name, parameter in holder.named_parameters()}
    holder.keep_heads(*part.of(num_heads))
    if sums:
        _sum_gradients(each for name, each in holder.named_parameters() if each.shape == shapes[name])


def _keep_columns(linear: nn.Linear, part: Part) -> None:
    first, count = part.of(linear.out_features)
    linear.weight = kept(linear.weight, 0, first, count)
    if linear.bias is not None:
        linear.bias = kept(linear.bias, 0, first, count)
    linear.out_features = count


def kept(parameter: Tensor, axis: int, first: int, count: int) -> nn.Parameter:
    """Some of it alone, in memory of its own."""
    return nn.Parameter(parameter.detach().narrow(axis, first, count).clone(), parameter.requires_grad)


class SummedLinear(ResidualLinear):
    """The rows of a linear map that meet this process's columns; what it makes is summed over all."""

    def __init__(self, whole: nn.Linear, part: Part) -> None:
        nn.Module.__init__(self)
        first, self.in_features = part.of(whole.in_features)
        self.out_features = whole.out_features
        self.weight = kept(whole.weight, 1, first, self.in_features)
        self.bias = whole.bias

    def forward(self, input: Tensor) -> Tensor:
        out = _Summed.apply(nn.functional.linear(input, self.weight))
        return out if self.bias is None else out + self.bias


class DividedDropout(nn.Dropout):
    """Draws for the whole hidden layer, as one process would, and drops in this one's part of it."""

    def __init__(self, p: float, part: Part) -> None:
        super().__init__(p)
        self.part = part

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        *axes, width = input.shape
        scale = nn.functional.dropout(input.new_ones(*axes, width * self.part.world), self.p)
        return input * scale.narrow(-1, *self.part.of(scale.shape[-1]))


class _Shared(torch.autograd.Function):
    """The same for all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


class _Summed(torch.autograd.Function):
    """The sum of what all processes have; each has its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _sum(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x)
    return x


def _sum_gradients(parameters: Iterable[nn.Parameter] | Iterator[nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_hook(_sum)
