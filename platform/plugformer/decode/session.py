"""A model that goes on with sequences token by token."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Attention, DecodingState, Features, Layout, Memory, Tokens
from plugformer.model import Model, remembering
from plugformer.nn.cache import Fixed, Growing, rounded

CacheKind = Literal["growing", "fixed", "none"]
Logits = Float[Tensor, "batch new vocab"]
COMPILED_STEPS = 64  # that may be told apart by their model and shapes; beyond these torch.compile raises an error

DROPPED = 8  # a sequence in so many has to be done for the batch to go on without those that are


class Session:
    """What a model says comes next, for a batch of sequences that only ever grow.

    Prompts of several lengths are padded on the left, so that all sequences grow at one end. Each token keeps its place
    in its own sequence, so that padding changes nothing.

    Args:
        model: in evaluation mode; its task generates.
        source: collated features of what is read, where the task writes one sequence for another.
        room: tokens that may follow the prompts.
        cache: what is remembered between steps: `growing`, what there is; `fixed`, in memory of a fixed size, so that
            every step is the same to torch.compile; `none`, every step reads the whole sequence anew.
        compile: whether steps are compiled by torch.compile: once for all of the same number of sequences and tokens in
            memory of the same size, over all sessions. Prompts and sources, which come in every length, are read
            uncompiled.
        backend: of torch.compile.

    Raises:
        UserError: a mechanism that can't remember so, or steps that can't be compiled.
    """

    def __init__(
        self,
        model: Model,
        *,
        room: int,
        source: Features | None = None,
        cache: CacheKind = "growing",
        compile: bool = False,
        backend: str = "inductor",
    ) -> None:
        assert model.task.generates, "a task that can't go on with a sequence"
        if compile and cache != "fixed":
            raise UserError(f"compile=true: needs steps of one shape, and cache={cache} has none. Set cache=fixed.")
        for mechanism in remembering(model):
            _check_remembers(mechanism, cache)
        self.model, self.room, self.cache, self.source = model, room, cache, source
        self.state: DecodingState | None = None
        self._next = _compiled(backend) if compile else _next

    @torch.inference_mode()
    def start(self, ids: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"] | None = None) -> Logits:
        """Read the prompts; the logits of what follows them, `[batch, 1, vocab]`.

        Args:
            ids: the prompts, padded on the left.
            valid: which tokens are real; None if all are.
        """
        backbone = self.model.trunk.backbone
        self.memory = None if self.source is None else self._read(self.source)
        self.ids, self.valid, self.prompt_length = ids, valid, ids.shape[1]
        self.left = self.room
        if valid is None:
            positions = torch.arange(self.prompt_length, device=ids.device).expand_as(ids)
        else:
            positions = (valid.cumsum(1) - 1).clamp(min=0)
        self.positions = positions
        self.next = positions[:, -1:] + 1  # [batch, 1]
        if self.cache != "none":
            make = Growing if self.cache == "growing" else Fixed
            self.state = make(backbone.num_caches, room=self.room)
        tokens = self.model.task.prompted(self._embed(ids, positions, valid), self.prompt_length)
        return self._logits(backbone(tokens, memory=self.memory, state=self.state)[:, -1:])

    @torch.inference_mode()
    def step(self, ids: Int[Tensor, "batch new"]) -> Logits:
        """Go on with these tokens; the logits of what follows each of them."""
        new = ids.shape[1]
        self.left -= new
        assert self.cache != "fixed" or self.left >= 0, "more tokens than there is room for"
        positions = self.next + torch.arange(new, device=ids.device)
        self.next = self.next + new
        if self.state is not None:
            return self._next(self.model, self.memory, self.state, ids, positions)
        self.ids = torch.cat([self.ids, ids], 1)
        self.positions = torch.cat([self.positions, positions], 1)
        if self.valid is not None:
            self.valid = torch.cat([self.valid, torch.ones_like(ids, dtype=torch.bool)], 1)
        tokens = self.model.task.prompted(self._embed(self.ids, self.positions, self.valid), self.prompt_length)
        return self._logits(self.model.trunk.backbone(tokens, memory=self.memory)[:, -new:])

    @torch.inference_mode()
    def drop(self, count: int) -> None:
        """Forget the last tokens."""
        self.left += count
        self.next = self.next - count
        if self.state is not None:
            self.state.drop(count)
            return
        kept = self.ids.shape[1] - count
        self.ids, self.positions = self.ids[:, :kept], self.positions[:, :kept]
        self.valid = None if self.valid is None else self.valid[:, :kept]

    def drops(self, done: int, *, of: int) -> bool:
        """Whether it pays to go on without so many sequences: what is remembered of the others is copied then.

        Memory of a fixed size stays as large; what stands there of those that are done is never read.
        """
        return self.cache != "fixed" and done * DROPPED >= of

    @torch.inference_mode()
    def repeat(self, copies: int) -> None:
        """Go on with each sequence so many times, one copy after the other."""
        self.memory = None if self.memory is None else self.memory.repeat(copies)
        self._select(torch.arange(len(self.next), device=self.next.device).repeat_interleave(copies))

    @torch.inference_mode()
    def select(self, rows: Int[Tensor, "chosen"]) -> None:
        """Go on with these sequences, some perhaps several times."""
        self.memory = None if self.memory is None else self.memory.select(rows)
        self._select(rows)

    @torch.inference_mode()
    def regroup(self, rows: Int[Tensor, "chosen"], groups: Int[Tensor, "kept"] | None = None) -> None:
        """Go on with these sequences, each of which takes the place of one of its own group: copies of one that were
        made by `repeat`.

        Args:
            rows: their numbers, in the order of their groups.
            groups: the numbers of those that are left; None for all.
        """
        if self.memory is not None and groups is not None:
            copies = self.memory.copies
            self.memory = self.memory.select(groups * copies).repeat(copies)
        self._select(rows)

    def _read(self, source: Features) -> Memory:
        memory = self.model.trunk.backbone.encode(self.model.trunk.embed(source))
        return _padded(memory) if self.cache == "fixed" else memory

    def _select(self, rows: Tensor) -> None:
        """All but the memory of sources."""
        self.next = self.next[rows]
        if self.state is not None:
            self.state.select(rows)
            return
        self.ids, self.positions = self.ids[rows], self.positions[rows]
        self.valid = None if self.valid is None else self.valid[rows]

    def _embed(self, ids: Tensor, positions: Tensor, valid: Tensor | None) -> Tokens:
        features = {"ids": ids, "positions": positions}
        return self.model.trunk.embed_target(features if valid is None else features | {"valid": valid})

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.task.logits(self.model.trunk, hidden)


def _padded(memory: Memory) -> Memory:
    """Of one of the sizes of fixed memory; nobody sees what it is padded with, which lies on no grid."""
    hidden, mask = memory.hidden, memory.mask
    more = rounded(hidden.shape[1]) - hidden.shape[1]
    valid = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask.valid is None else mask.valid
    layout = mask.layout
    if layout is not None:
        coordinates = F.pad(layout.coordinates, (0, 0, 0, more))
        layout = Layout(coordinates, F.pad(layout.grid_index, (0, more), value=-1), layout.grids, layout.leading)
    padded = replace(mask, valid=F.pad(valid, (0, more)), layout=layout)
    return Memory(F.pad(hidden, (0, 0, 0, more)), padded)


def _next(
    model: Model,
    memory: Memory | None,
    state: DecodingState,
    ids: Int[Tensor, "batch new"],
    positions: Int[Tensor, "batch new"],
) -> Logits:
    """A step: of no session, so that what is compiled for one serves others."""
    tokens = model.trunk.embed_target({"ids": ids, "positions": positions})
    return model.task.logits(model.trunk, model.trunk.backbone(tokens, memory=memory, state=state))


@lru_cache
def _compiled(backend: str) -> Callable[..., Tensor]:
    options = {"backend": backend, "recompile_limit": COMPILED_STEPS}  # the latter is missing from torch's overloads
    return torch.compile(_next, fullgraph=True, dynamic=False, **options)  # type: ignore[call-overload]


def _check_remembers(mechanism: Attention, cache: CacheKind) -> None:
    """
    Raises:
        UserError: it doesn't, as this cache would have it.
    """
    name, can = type(mechanism).__name__, mechanism.capabilities
    if cache != "none" and can.decoding == "none":
        raise UserError(f"cache={cache}: {name} can't go on token by token here. Set cache=none.")
    if cache == "fixed" and not keeps_size(mechanism):
        raise UserError(
            f"cache=fixed: {name} can't work in memory of a fixed size, with room for later tokens.\n"
            "  Set cache=growing."
        )


def keeps_size(mechanism: Attention) -> bool:
    """Whether what it remembers can have one size from the first step to the last."""
    can = mechanism.capabilities
    return not can.state_grows if can.decoding == "state" else can.room
