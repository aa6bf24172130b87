"""Residual branches that leave nothing behind for the backward pass: it finds their inputs again from their outputs.

Where y = x + f(z), the backward pass gets x back as y - f(z), and on its way what f would have kept (Gomez et al. 2017,
section 3.2). The graph that autograd records is the ordinary one, only that each tensor which a branch saves in it is
replaced by a number, and made anew when asked for, as in torch.utils.checkpoint. So gradients reach all that a branch
touches, whoever owns it, once and by the ordinary way: hooks, distributed wrappers and autograd.grad see no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from plugformer.errors import UserError
from plugformer.nn.replay import Replay

Part = Callable[[Float[Tensor, "batch piece dim"]], Float[Tensor, "batch piece dim"]]


@dataclass
class Branch:
    """What is added to one stream, computed from the other.

    Attributes:
        part: computes it.
        drop_path: comes last, for whole samples.
        chunks: pieces of the sequence that `part` is applied to one after the other; more than one if it takes each
            token alone.
    """

    part: Part
    drop_path: nn.Module
    chunks: int = 1

    def pieces(self, x: Float[Tensor, "batch length dim"]) -> tuple[Tensor, ...]:
        return x.chunk(self.chunks, dim=1) if self.chunks > 1 else (x,)

    def join(self, pieces: list[Tensor]) -> Float[Tensor, "batch length dim"]:
        return self.drop_path(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))

    def __call__(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.join([self.part(piece) for piece in self.pieces(x)])


class Tape:
    """The steps y = x + branch(z) of a chain, in each of which x is the z, and z the y of the step before.

    tape = Tape()
    y1 = tape.add(x1, attend, x2)
    y2 = tape.add(x2, transform, y1)
    out = tape.mean(y1, y2)

    Only the last y1 and y2 are kept.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._undone = 0  # how many of the steps have yet to be undone
        self._streams: tuple[Tensor, Tensor] | None = None  # z and y of the last of them
        self._weights: list[tuple[Tensor, int]] = []

    def add(self, x: Tensor, branch: Branch, z: Tensor) -> Tensor:
        step, number = _Step(branch, z), len(self._steps)
        self._steps.append(step)
        return x + step.first(z, lambda: self._input(number))

    def heed(self, weights: Iterable[Tensor]) -> None:
        """These must not change before the backward pass, as autograd asks of what it keeps."""
        self._weights = [(weight, weight._version) for weight in weights]

    def mean(self, y1: Tensor, y2: Tensor) -> Tensor:
        return _Mean.apply(self, y1, y2)

    def rewind(self, y1: Tensor, y2: Tensor) -> None:
        """A backward pass begins."""
        if torch.is_grad_enabled():
            raise UserError(
                "block=reversible: gradients of gradients (create_graph=True) can't be had, for what the backward pass "
                "recomputes carries no gradient.\n  Set block=pre_norm."
            )
        if any(weight._version != version for weight, version in self._weights):
            raise RuntimeError(
                "block=reversible: a weight was changed in place between the forward and the backward pass, which "
                "computes with it once more"
            )
        self._streams, self._undone = (y1.detach(), y2.detach()), len(self._steps)
        torch.autograd.Variable._execution_engine.queue_callback(self._forget)

    def _input(self, number: int) -> Tensor:
        """The z of a step, from those after it, which are undone."""
        # Autograd runs what was recorded later first, so it never asks for a step that is undone already.
        assert self._streams is not None and number < self._undone, "steps are undone in another order"
        while self._undone > number + 1:
            z, y = self._streams
            self._undone -= 1
            self._streams = y - self._steps[self._undone].again(z), z
        return self._streams[0]

    def _forget(self) -> None:
        self._streams = None
        for step in self._steps:
            step.forget()


class _Mean(torch.autograd.Function):
    """Of both streams, which are kept."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, y1: Tensor, y2: Tensor) -> Tensor:
        ctx.tape = tape
        ctx.save_for_backward(y1, y2)
        return (y1 + y2) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        ctx.tape.rewind(*ctx.saved_tensors)
        return None, gradient / 2, gradient / 2


class _Step:
    """One branch on one input."""

    def __init__(self, branch: Branch, z: Tensor) -> None:
        self.branch = branch
        self.calls = [_Call(branch.part, Replay(z.device), z.requires_grad) for _ in branch.pieces(z)]
        self.joining = Replay(z.device)

    def first(self, z: Tensor, find: Callable[[], Tensor]) -> Tensor:
        """
        Args:
            find: finds `z` again in the backward pass.
        """
        pieces = [self._piece(number, piece, find) for number, piece in enumerate(self.branch.pieces(z))]
        with self.joining.first():
            return self.branch.join(pieces)

    def _piece(self, number: int, piece: Tensor, find: Callable[[], Tensor]) -> Tensor:
        def find_piece() -> Tensor:
            for call in self.calls[number + 1 :]:  # autograd is done with them
                call.recomputed = []
            return self.branch.pieces(find())[number]

        return self.calls[number].first(piece, find_piece)

    def again(self, z: Tensor) -> Tensor:
        """The same; what was recomputed for it is done with."""
        pieces = [call.again(piece) for call, piece in zip(self.calls, self.branch.pieces(z), strict=True)]
        with self.joining.again():
            out = self.branch.join(pieces)
        self.forget()
        return out

    def forget(self) -> None:
        for call in self.calls:
            call.forget()


@dataclass
class _Call:
    """One piece through one branch: what its graph asks for is computed all at once, when the first of it is."""

    part: Part
    replay: Replay
    wants_gradient: bool
    saved: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    recomputed: list[Tensor] = field(default_factory=list)
    out: Tensor | None = None

    def first(self, x: Tensor, find: Callable[[], Tensor]) -> Tensor:
        def number(tensor: Tensor) -> int:
            self.saved.append((tensor.shape, tensor.dtype))
            return len(self.saved) - 1

        def make_anew(number: int) -> Tensor:
            if not self.recomputed:
                self._recompute(find())
            return self.recomputed[number]

        with self.replay.first(), saved_tensors_hooks(number, make_anew):
            return self.part(x)

    def _recompute(self, x: Tensor) -> None:
        def keep(tensor: Tensor) -> None:
            self.recomputed.append(tensor.detach())  # not the graph, which is not needed

        x = x.detach().requires_grad_(self.wants_gradient)  # for autograd saves what it needs, no more
        with torch.enable_grad(), self.replay.again(), saved_tensors_hooks(keep, lambda nothing: nothing):
            self.out = self.part(x).detach()
        if [(tensor.shape, tensor.dtype) for tensor in self.recomputed] != self.saved:
            raise UserError(
                "block=reversible: a part of it did something else when it was run once more in the backward pass.\n"
                "  It may draw from torch's generators only, and decide by plugformer.nn.replay.decide."
            )

    def again(self, x: Tensor) -> Tensor:
        if self.out is not None:
            return self.out
        with self.replay.again():
            return self.part(x)

    def forget(self) -> None:
        self.recomputed, self.out = [], None
