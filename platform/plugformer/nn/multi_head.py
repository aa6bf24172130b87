"""From the residual stream to a mechanism's heads and back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Cache, Mask, Memory, Position
from plugformer.nn.initialise import ResidualLinear
from plugformer.nn.norms import LayerNorm, RMSNorm

QkNorm = Literal["none", "layer", "rms"]


NORMS: dict[QkNorm, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "layer": lambda dim: LayerNorm(dim=dim),
    "rms": lambda dim: RMSNorm(dim=dim),
}


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) around any mechanism.

    Args:
        dim: width of the residual stream.
        num_heads: query heads; divides `dim`.
        num_kv_heads: heads of keys and values, each shared by a group of queries (Shazeer 2019; Ainslie et al. 2023);
            divides `num_heads`. None for as many.
        qk_norm: normalisation of each query and key head (Henry et al. 2020; Dehghani et al. 2023, section 2).
        bias: whether the four projections have one.
        mechanism: what happens on the heads.
        position: rotates queries and keys and biases the logits, if it is of such a kind.

    Attributes:
        enter: what is done to sequences before they are projected; nothing, unless heads are divided among processes.

    Raises:
        UserError: the numbers don't divide, or keys that are the queries are to be fewer.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        mechanism: Attention,
        position: Position,
        num_kv_heads: int | None = None,
        qk_norm: QkNorm = "none",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.head_dim = divide_heads(dim, num_heads)
        num_kv_heads = _kv_heads(num_heads, num_kv_heads, mechanism)
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias)
        self.query_norm = NORMS[qk_norm](self.head_dim)
        shared = mechanism.capabilities.shared_query_key
        self.key = None if shared else nn.Linear(dim, num_kv_heads * self.head_dim, bias)
        self.key_norm = NORMS["none" if shared else qk_norm](self.head_dim)
        self.value = nn.Linear(dim, num_kv_heads * self.head_dim, bias)
        self.output = ResidualLinear(dim, dim, bias)
        self.mechanism = mechanism
        # In a tuple, so that it is not registered here too: the backbone owns it, and a checkpoint holds it once.
        self._position = (position,)
        self.enter: Callable[[Tensor], Tensor] = _as_it_is

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Self-attention over `x` under `mask`, or attention to `memory` under its own mask.

        With a `cache`, `x` holds only the new tokens, and `mask` and its layout speak of all tokens so far; keys and
        values of a memory are then made once.
        """
        x = self.enter(x)
        if memory is not None:
            return self.output(self._cross(x, memory, remember=cache is not None).transpose(1, 2).flatten(2))
        q = self.query_norm(self._heads(self.query(x)))
        k = q if self.key is None else self.key_norm(self._heads(self.key(x)))
        v = self._heads(self.value(x))
        bias = None
        if mask.layout is not None:
            (position,), new = self._position, mask.queries(x.shape[1])
            q, k = position.rotate(q, new), position.rotate(k, new)
            bias = position.bias(new, mask.layout)
        out = self._attend(q, k, v, mask, bias, cache)
        return self.output(out.transpose(1, 2).flatten(2))

    def _cross(
        self, x: Float[Tensor, "batch queries dim"], memory: Memory, *, remember: bool
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """Queries of sequences that share a memory are one sequence to it: a query is nothing to another."""
        assert self.key is not None, "keys of another sequence are never the queries"
        key = self.key

        def keys_values() -> tuple[Tensor, Tensor]:
            hidden = self.enter(memory.hidden)
            k, v = self.key_norm(self._heads(key(hidden))), self._heads(self.value(hidden))
            return self._repeat(k), self._repeat(v)

        k, v = memory.once(id(self), keys_values) if remember else keys_values()
        q, copies = self.query_norm(self._heads(self.query(x))), memory.copies
        q = rearrange(q, "(memory copies) heads length dim -> memory heads (copies length) dim", copies=copies)
        # A mask that held what was made of it at one step would tell a compiled step from the next.
        mask = replace(memory.mask) if remember and torch.compiler.is_compiling() else memory.mask
        out = self.mechanism(q, k, v, mask)
        return rearrange(out, "memory heads (copies length) dim -> (memory copies) heads length dim", copies=copies)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None, cache: Cache | None) -> Tensor:
        if cache is not None and self.mechanism.capabilities.decoding == "state":
            assert bias is None and mask.prefix is None and mask.segments is None, "a step knows of padding alone"
            # Where room follows the queries, only the first step, which has none, can hold padding.
            valid = None if mask.valid is None or mask.start is not None else mask.valid[:, -q.shape[2] :]
            out, cache.state = self.mechanism.step(q, self._repeat(k), self._repeat(v), cache.state, valid)
            return out
        if cache is not None:
            assert self.mechanism.capabilities.decoding == "cache", "a mechanism that can't go on token by token"
            k, v = cache.extend(k, v)
        k, v = self._repeat(k), self._repeat(v)
        return self.mechanism(q, k, v, mask) if bias is None else self.mechanism(q, k, v, mask, bias)

    def _heads(self, x: Tensor) -> Tensor:
        """From `[batch, length, heads · head_dim]` to `[batch, heads, length, head_dim]`: a view, made often."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        """To one head a query head, unless the mechanism takes groups."""
        if self.mechanism.capabilities.grouped_query or x.shape[1] == self.num_heads:
            return x
        group = self.num_heads // x.shape[1]
        return repeat(x, "batch heads length dim -> batch (heads group) length dim", group=group)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def divide_heads(dim: int, num_heads: int) -> int:
    """Width of one head.

    Raises:
        UserError: `num_heads` doesn't divide `dim`.
    """
    if dim % num_heads:
        possible = [number for number in range(1, min(dim, 64) + 1) if dim % number == 0]
        raise UserError(
            f"backbone.dim={dim} is not divisible by backbone.num_heads={num_heads}.\n"
            f"  Heads that divide it: {', '.join(map(str, possible))}"
        )
    return dim // num_heads


def _kv_heads(num_heads: int, num_kv_heads: int | None, mechanism: Attention) -> int:
    if num_kv_heads is None or num_kv_heads == num_heads:
        return num_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        possible = [number for number in range(1, num_heads + 1) if num_heads % number == 0]
        raise UserError(
            f"backbone.num_heads={num_heads} is not a multiple of num_kv_heads={num_kv_heads}.\n"
            f"  backbone.num_kv_heads can be: {', '.join(map(str, possible))}"
        )
    if mechanism.capabilities.shared_query_key:
        raise UserError(
            f"backbone.num_kv_heads={num_kv_heads}: {type(mechanism).__name__} takes queries for keys, so there "
            f"must be as many of both.\n  Set backbone.num_kv_heads=null."
        )
    return num_kv_heads
