"""How a mechanism is made and called."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.interfaces import Capabilities, Grid, Layout, Mask
from plugformer.registry import build
from plugformer.testing.common import Inputs, ModuleSuite, randomise
from plugformer.testing.comparing import applies_if, noise, note_deviation


class HeadsSuite(ModuleSuite):
    """
    Attributes:
        num_heads, head_dim: with which the mechanism is built.
        length: of the sequences, unless a law is about other lengths; a few blocks and a part of one.
        exact: how far outputs may move that must not move at all.
    """

    kind = "attention"
    num_heads: ClassVar[int] = 4
    head_dim: ClassVar[int] = 8
    exact: ClassVar[float] = 1e-6

    @cached_property
    def length(self) -> int:
        return max(17, 4 * self.block + 1, self.can.min_length + 1)

    # ------------------------------------------------------------------------------------------ the mechanism

    def new(
        self, *, causal: bool = False, layer: int = 0, seed: int = 0, max_length: int = 1024, **options: Any
    ) -> Any:
        """A mechanism with the suite's options, or with others."""
        return build(
            self.kind,
            {"name": self.name, **self.options, **options},
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            causal=causal,
            max_length=max_length,
            layer=layer,
            seed=seed,
        )

    @cached_property
    def can(self) -> Capabilities:
        return self.new().capabilities

    def make(self, seed: int = 0, *, causal: bool = False, **options: Any) -> Any:
        return randomise(self.new(causal=causal, seed=seed, **options), seed).eval()

    def make_causal(self) -> Any:
        applies_if(self.can.causality != "none", "declares that it can't be causal")
        return self.make(causal=True)

    def grains(self) -> list[Mapping[str, Any]]:
        """No other options, and the coarsest: what they cut off is much of a short sequence already."""
        return [{}, *type(self.new()).finer_options[:1]]

    def ways(self, **options: Any) -> list[tuple[Any, bool]]:
        """The mechanism, bidirectional and, if it can be that, causal."""
        causalities = [False] if self.can.causality == "none" else [False, True]
        return [(self.make(causal=causal, **options), causal) for causal in causalities]

    # ------------------------------------------------------------------------------------------ what it is given

    @property
    def block(self) -> int:
        return self.can.block_length or 0

    def lengths(self, longest: int) -> list[int]:
        """Every short one, and those around the borders of blocks."""
        borders = [number * self.block + off for number in (1, 2) for off in (-1, 0, 1)] if self.block else []
        return sorted({n for n in (*range(18), *borders, longest) if self.can.min_length <= n <= longest})

    @property
    def short(self) -> int:
        """A block and a part of one, for laws that look at each token."""
        return max(17, self.block + 3, self.can.min_length + 1)

    def cuts(self) -> list[int]:
        """Places to cut a sequence of `length` at."""
        n, block = self.length, self.block
        return sorted({cut for cut in (1, 2, n // 2, 3 * n // 4, n - 1, block, 2 * block + 1) if 0 < cut < n})

    def heads(self, length: int, *, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up queries, keys and values `[batch, heads, length, head_dim]`."""
        q, k, v = (noise(batch, self.num_heads, length, self.head_dim, seed=3 * seed + part) for part in range(3))
        return q, (q if self.can.shared_query_key else k), v

    def wanting(self, parts: Any) -> list[Tensor]:
        """The same, for gradients; shared queries and keys stay one tensor."""
        q, k, v = (part.detach().clone().requires_grad_() for part in parts)
        return [q, q if self.can.shared_query_key else k, v]

    def mask(self, length: int, **parts: Any) -> Mask:
        """A mask of a text of this length."""
        return Mask(layout=Layout.of(Grid(("position",), (length,))), **parts)

    def masks(self, length: int, *, causal: bool) -> dict[str, Mask]:
        """None, one for each part that the mechanism declares, and last most of them together; for a batch of 2."""
        places = torch.arange(length)
        parts: dict[str, dict[str, Tensor]] = {}
        if self.can.prefix and causal:
            parts["a prefix"] = {"prefix": torch.tensor([length // 4, length // 2])}
        if self.can.key_padding:
            parts["padding"] = {"valid": places < torch.tensor([[length], [max(1, 2 * length // 3)]])}
        if self.can.segments:
            parts["segments"] = {"segments": (places >= torch.tensor([[length // 3], [length // 2]])).long()}
        if self.can.key_padding and self.can.segments:
            parts["padding and segments"] = parts["padding"] | parts["segments"]
        return {what: self.mask(length, causal=causal, **its) for what, its in {"nothing": {}, **parts}.items()}

    def inputs(self, batch: int) -> Inputs:
        q, k, v = self.heads(self.length, batch=batch)
        return {"x": q, "k": k, "v": v}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return module(inputs["x"], inputs["k"], inputs["v"], Mask())

    def assert_still(self, after: Tensor, before: Tensor, what: str) -> None:
        moved = (after - before).abs().max().item()
        note_deviation(moved)
        assert moved <= self.exact, f"{what} moves outputs by {moved:.1e}"


def after(tensor: Tensor, cut: int, *, scale: float = 1.0) -> Tensor:
    """`tensor [batch, heads, length, head_dim]` with other numbers from `cut` on."""
    return torch.cat([tensor[:, :, :cut], scale * noise(*tensor[:, :, cut:].shape, seed=99)], dim=2)


def until(tensor: Tensor, cut: int) -> Tensor:
    """The same with other numbers before `cut`."""
    return torch.cat([noise(*tensor[:, :, :cut].shape, seed=98), tensor[:, :, cut:]], dim=2)


def gradients(loss: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Of each part, zeros where none reaches it: a mechanism may go without one of them, though not without all."""
    assert loss.requires_grad, "no gradient reaches queries, keys or values"
    found = torch.autograd.grad(loss, parts, allow_unused=True)
    return [torch.zeros_like(part) if its is None else its for part, its in zip(parts, found, strict=True)]


def way(causal: bool) -> str:
    return "causal" if causal else "bidirectional"
