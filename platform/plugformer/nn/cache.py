"""What is remembered of the tokens so far while decoding step by step."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from plugformer.interfaces import Cache, DecodingState, Layout, Mask, Tokens

New = Float[Tensor, "batch kv_heads new head_dim"]
Seen = Float[Tensor, "batch kv_heads seen head_dim"]


ROUNDED = 64  # sizes of fixed memory are multiples of it, so that sequences of like lengths share a compiled step


def rounded(length: int) -> int:
    """The size of fixed memory for so many tokens."""
    return -(-length // ROUNDED) * ROUNDED


class Spare:
    """Memory between uses: where rows are chosen anew at each step, what one leaves serves the next.

    To get it from the system takes longer than to fill it.
    """

    def __init__(self) -> None:
        self._left: dict[Any, Tensor] = {}

    def take(self, like: Tensor, count: int) -> Tensor:
        """For so many rows of this kind; what stands there is of no use."""
        left = self._left.pop(self._kind(like), None)
        return like.new_empty(count, *like.shape[1:]) if left is None or len(left) < count else left[:count]

    def leave(self, memory: Tensor) -> None:
        self._left[self._kind(memory)] = memory

    def _kind(self, memory: Tensor) -> Any:
        return memory.shape[1:], memory.dtype, memory.device


class Row:
    """A tensor that grows along an axis, in memory got ahead: what stands there is never copied for one token more.

    Args:
        axis: along which it grows.
        room: what is got ahead at least, beyond what is first put there.
        spare: what it takes memory from when sequences are chosen, and leaves its own to; one of its own by default.
    """

    def __init__(self, axis: int, *, room: int = 0, spare: Spare | None = None) -> None:
        self.axis, self.room, self.length = axis, room, 0
        self.spare = Spare() if spare is None else spare
        self.memory: Tensor | None = None

    def extend(self, new: Tensor) -> Tensor:
        """All so far."""
        start, self.length = self.length, self.length + new.shape[self.axis]
        if self.memory is None or self.length > self.memory.shape[self.axis]:
            self._get_memory(start, new)
        assert self.memory is not None
        self.memory.narrow(self.axis, start, new.shape[self.axis]).copy_(new)
        return self.memory.narrow(self.axis, 0, self.length)

    def _get_memory(self, start: int, new: Tensor) -> None:
        shape = list(new.shape)
        shape[self.axis] = self.length + max(self.room, start)  # at least doubled
        memory = new.new_empty(shape)
        if self.memory is not None:
            memory.narrow(self.axis, 0, start).copy_(self.memory.narrow(self.axis, 0, start))
        self.memory = memory

    def drop(self, count: int) -> None:
        assert count <= self.length, "there aren't as many"
        self.length -= count

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        if self.memory is not None:
            memory = self.spare.take(self.memory, len(rows))
            old, new = (each.narrow(self.axis, 0, self.length) for each in (self.memory, memory))
            torch.index_select(old, 0, rows, out=new)  # the room behind it holds nothing
            self.spare.leave(self.memory)
            self.memory = memory


class LayerCache(Cache):
    """What both caches do with the state of a mechanism that decodes from one."""

    def drop(self, count: int) -> None:
        assert self.state is None, "a mechanism that decodes from a state can't go back"

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        self.state = select_state(self.state, rows)


class KeyValueCache(LayerCache):
    """Keys and values of all tokens so far; keys after rotation.

    Args:
        room: tokens for which there is memory ahead, beyond those of the first step.
        spare: as in Row, for several caches.
    """

    def __init__(self, *, room: int = 0, spare: Spare | None = None) -> None:
        spare = Spare() if spare is None else spare
        self.k, self.v = Row(2, room=room, spare=spare), Row(2, room=room, spare=spare)

    def extend(self, k: New, v: New) -> tuple[Seen, Seen]:
        return self.k.extend(k), self.v.extend(v)

    def drop(self, count: int) -> None:
        super().drop(count)
        for row in (self.k, self.v):
            row.drop(count)

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        super().select(rows)
        for row in (self.k, self.v):
            row.select(rows)


class Growing(DecodingState):
    """Remembers as much as there is: a step sees keys of the tokens so far, and nothing else.

    Args:
        num_layers: blocks that remember.
        room: tokens for which there is memory ahead, beyond those of the first step.
    """

    def __init__(self, num_layers: int, *, room: int = 0) -> None:
        self.length, self.room, self._spare = 0, room, Spare()
        self.caches: Sequence[KeyValueCache] = [KeyValueCache(room=room, spare=self._spare) for _ in range(num_layers)]
        self._rows: dict[str, Row] = {}
        self._grids: tuple[Any, ...] = ()
        self._leading = 0

    def extend(self, new: Tokens, *, causal: bool) -> Mask:
        assert not self.begun or new.layout.grids == self._grids, "later tokens lie on the grids of the first"
        if not self.begun:
            self.begun, self._grids, self._leading = True, new.layout.grids, new.layout.leading
        valid, segments = self._extend("valid", new.valid, new, fill=True), None
        if new.segments is not None:
            segments = self._extend("segments", new.segments, new)
        coordinates = self._extend("coordinates", new.layout.coordinates, new)
        grid_index = self._extend("grid_index", new.layout.grid_index, new)
        self.length += new.embeddings.shape[1]
        return Mask(
            valid=valid,
            causal=causal,
            prefix=new.prefix if causal else None,
            segments=segments,
            layout=Layout(coordinates, grid_index, self._grids, self._leading),
            query_layout=new.layout,
        )

    def _extend(self, name: str, part: Tensor | None, new: Tokens, *, fill: Any = None) -> Any:
        """All so far; a part that was never there stays away, and begins late with `fill` where it was not."""
        if part is None and name not in self._rows:
            return None
        batch, length = new.embeddings.shape[:2]
        if part is None:
            part = torch.full((batch, length), fill, device=new.embeddings.device)
        if name not in self._rows:
            self._rows[name] = Row(1, room=self.room, spare=self._spare)
            if self.length:
                self._rows[name].extend(torch.full((batch, self.length), fill, device=part.device))
        return self._rows[name].extend(part.expand(batch, *part.shape[1:]))

    def drop(self, count: int) -> None:
        self.length -= count
        for row in self._rows.values():
            row.drop(count)
        for cache in self.caches:
            cache.drop(count)

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        for row in self._rows.values():
            row.select(rows)
        for cache in self.caches:
            cache.select(rows)


class FixedCache(LayerCache):
    """Memory of a fixed size for keys and values; the first step sees its own alone, later ones all, filled or not.

    Args:
        place: where in it the tokens of a step stand.
    """

    def __init__(self, place: "FixedPlace") -> None:
        self.place = place
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def extend(self, k: New, v: New) -> tuple[Seen, Seen]:
        if self.k is None or self.v is None:
            self.k, self.v = self.place.new(k, 2), self.place.new(v, 2)
            return k, v
        return self.place.write(self.k, k, 2), self.place.write(self.v, v, 2)

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        super().select(rows)
        if self.k is not None and self.v is not None:
            self.k, self.v = _chosen(self.k, rows), _chosen(self.v, rows)


class FixedPlace:
    """Where in memory for `length` tokens those of a step stand.

    Attributes:
        start: int scalar, the place of the first; a tensor, so that a compiled step is the same for all.
    """

    def __init__(self) -> None:
        self.length = 0

    def begin(self, length: int, device: torch.device) -> None:
        self.length = rounded(length)
        self.start = torch.zeros((), dtype=torch.long, device=device)
        self._end = torch.zeros((), dtype=torch.long, device=device)

    def advance(self, count: int) -> None:
        self.start.copy_(self._end)
        self._end.add_(count)

    def drop(self, count: int) -> None:
        self._end.sub_(count)

    def new(self, first: Tensor, axis: int) -> Tensor:
        """Memory whose beginning holds this."""
        shape = list(first.shape)
        assert shape[axis] <= self.length, "more than there is memory for"
        shape[axis] = self.length
        memory = first.new_zeros(shape)
        memory.narrow(axis, 0, first.shape[axis]).copy_(first)
        return memory

    def write(self, memory: Tensor, new: Tensor, axis: int) -> Tensor:
        place = self.start + torch.arange(new.shape[axis], device=new.device)
        return memory.index_copy_(axis, place, new)


class Fixed(DecodingState):
    """Remembers in memory of a fixed size, so that all steps after the first have the same shapes.

    Args:
        num_layers: blocks that remember.
        room: tokens that may follow the first step, at least.
    """

    def __init__(self, num_layers: int, *, room: int) -> None:
        self.place, self.room = FixedPlace(), room
        self.caches: Sequence[FixedCache] = [FixedCache(self.place) for _ in range(num_layers)]
        self._memory: dict[str, Tensor] = {}
        self._leading = 0

    def extend(self, new: Tokens, *, causal: bool) -> Mask:
        assert new.segments is None, "documents share no sequence while decoding"
        if not self.begun:
            self._begin(new)
            return new.mask(causal=causal)
        self.place.advance(new.embeddings.shape[1])
        assert new.valid is None, "padding stands in the first step alone"
        batch, memory = new.embeddings.shape[0], self._memory
        for name in ("coordinates", "grid_index"):
            part = getattr(new.layout, name)
            self.place.write(memory[name], part.expand(batch, *part.shape[1:]), 1)
        return Mask(
            valid=memory.get("valid"),
            causal=causal,
            layout=Layout(memory["coordinates"], memory["grid_index"], new.layout.grids, self._leading),
            query_layout=new.layout,
            start=self.place.start,
        )

    def _begin(self, new: Tokens) -> None:
        self.begun, self._leading = True, new.layout.leading
        batch, length = new.embeddings.shape[:2]
        self.place.begin(length + self.room, new.embeddings.device)
        self.place.advance(length)
        parts = {"coordinates": new.layout.coordinates, "grid_index": new.layout.grid_index}
        self._memory = {name: self.place.new(part.expand(batch, *part.shape[1:]), 1) for name, part in parts.items()}
        if new.valid is not None:
            later = new.valid.new_ones(batch, self.place.length - length)
            self._memory["valid"] = torch.cat([new.valid, later], 1)

    def drop(self, count: int) -> None:
        for cache in self.caches:
            cache.drop(count)
        self.place.drop(count)

    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        self._memory = {name: _chosen(part, rows) for name, part in self._memory.items()}
        for cache in self.caches:
            cache.select(rows)


def _chosen(memory: Tensor, rows: Int[Tensor, "chosen"]) -> Tensor:
    """These sequences; in the same memory where they are as many as there were."""
    return memory.copy_(memory[rows]) if len(rows) == len(memory) else memory[rows]


def select_state(state: Any, rows: Int[Tensor, "chosen"]) -> Any:
    """These sequences of a mechanism's state."""
    return tree_map(lambda part: part[rows] if isinstance(part, Tensor) else part, state)
