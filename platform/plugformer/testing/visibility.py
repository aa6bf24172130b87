"""Laws on what a query sees."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.interfaces import Capabilities, Grid, Layout, Mask
from plugformer.testing.common import Inputs, ModuleSuite, randomise
from plugformer.testing.comparing import applies_if, assert_close, noise


class HeadsSuite(ModuleSuite):
    """How a mechanism is made and called.

    Attributes:
        num_heads, head_dim: with which the mechanism is built.
        length: of the sequences, unless a law is about other lengths.
        exact: how far outputs may move that must not move at all.
    """

    kind = "attention"
    num_heads: ClassVar[int] = 4
    head_dim: ClassVar[int] = 8
    length: ClassVar[int] = 17
    exact: ClassVar[float] = 1e-6

    def new(self, *, causal: bool = False) -> Any:
        return self.build(
            num_heads=self.num_heads, head_dim=self.head_dim, causal=causal, max_length=64, layer=0, seed=0
        )

    @property
    def can(self) -> Capabilities:
        return self.new().capabilities

    def heads(self, length: int, *, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Made-up queries, keys and values `[batch, heads, length, head_dim]`."""
        q, k, v = (noise(batch, self.num_heads, length, self.head_dim, seed=3 * seed + part) for part in range(3))
        return q, (q if self.can.shared_query_key else k), v

    def mask(self, length: int, **parts: Any) -> Mask:
        """A mask of a text of this length."""
        return Mask(layout=Layout.of(Grid(("position",), (length,))), **parts)

    def inputs(self, batch: int) -> Inputs:
        q, k, v = self.heads(self.length, batch=batch)
        return {"x": q, "k": k, "v": v}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return module(inputs["x"], inputs["k"], inputs["v"], Mask())

    def make_causal(self) -> Any:
        applies_if(self.can.causality != "none", "declares that it can't be causal")
        return randomise(self.new(causal=True)).eval()

    def ways(self) -> list[tuple[Any, bool]]:
        """The mechanism, bidirectional and, if it can be that, causal."""
        bidirectional = (self.make(), False)
        return [bidirectional] if self.can.causality == "none" else [bidirectional, (self.make_causal(), True)]

    def assert_still(self, after: Tensor, before: Tensor, what: str) -> None:
        moved = (after - before).abs().max().item()
        assert moved <= self.exact, f"{what} moves outputs by {moved:.1e}"


class VisibilityLaws(HeadsSuite):
    # ------------------------------------------------------------------------------------------ the past

    def test_the_future_changes_nothing(self) -> None:
        """Neither other tokens there nor larger ones move what is before, not even by a rounding."""
        module = self.make_causal()
        applies_if(self.can.causality == "strict", "declares that future tokens may change past outputs")
        q, k, v = self.heads(self.length)
        mask = self.mask(self.length, causal=True)
        before = module(q, k, v, mask)
        for cut in (1, 2, 8, 13, 16):
            for scale in (0.0, 1.0, 4.0, 30.0):
                changed = [after(part, cut, scale=scale) for part in (q, k, v)]
                changed[1] = changed[0] if self.can.shared_query_key else changed[1]
                out = module(*changed, mask)[:, :, :cut]
                self.assert_still(out, before[:, :, :cut], f"what stands from {cut} on, at scale {scale},")

    def test_no_gradient_reaches_the_future(self) -> None:
        module = self.make_causal()
        for cut in (1, 2, 8, 13, 16):
            parts = [part.requires_grad_() for part in self.heads(self.length)]
            out = module(*parts, self.mask(self.length, causal=True))[:, :, :cut]
            for gradient in torch.autograd.grad(out.square().sum(), parts):
                assert not gradient[:, :, cut:].any(), f"what comes before {cut} has a gradient to what comes after"

    def test_sees_other_tokens(self) -> None:
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            mask = self.mask(self.length, causal=causal)
            other = v.clone()
            other[:, :, :-1] = noise(*v[:, :, :-1].shape, seed=99)
            moved = (module(q, k, other, mask) - module(q, k, v, mask))[:, :, -1].abs().max()
            assert moved > 1e-3, "the last token sees nothing of those before it"

    # ------------------------------------------------------------------------------------------ padding

    def test_padding_changes_nothing(self) -> None:
        """A sequence comes out as it does alone, whatever longer one it shares a batch with and whatever it is padded
        with."""
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        for module, causal in self.ways():
            for real in range(self.can.min_length, self.length):
                short, long = self.heads(real, batch=1), self.heads(self.length, batch=1, seed=1)
                alone = module(*short, self.mask(real, causal=causal))
                padding = 10 * noise(1, self.num_heads, self.length - real, self.head_dim, seed=2)
                batch = [torch.cat([torch.cat([a, padding], 2), b]) for a, b in zip(short, long, strict=True)]
                valid = torch.arange(self.length) < torch.tensor([[real], [self.length]])
                together = module(*batch, self.mask(self.length, causal=causal, valid=valid))
                assert_close(together[:1, :, :real], alone, what=f"{real} tokens padded to {self.length}")
                whole = module(*long, self.mask(self.length, causal=causal))
                assert_close(together[1:], whole, what=f"the longer sequence beside one of {real}")

    def test_no_visible_key_gives_zeros(self) -> None:
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        for module, causal in self.ways():
            parts = [part.requires_grad_() for part in self.heads(self.length)]
            valid = torch.tensor([[True], [False]]).expand(2, self.length)
            with_bias = {"bias": noise(1, self.num_heads, self.length, self.length)} if self.can.additive_bias else {}
            for extra in ({}, with_bias):
                out = module(*parts, self.mask(self.length, causal=causal, valid=valid), **extra)
                assert out[0].any()
                assert not out[1].any(), "a query without a visible key must get zeros"
                for gradient in torch.autograd.grad(out.square().sum(), parts):
                    assert gradient.isfinite().all()

    # ------------------------------------------------------------------------------------------ parts of a sequence

    def test_every_query_sees_the_prefix(self) -> None:
        applies_if(self.can.prefix, "declares that it can't honour a prefix")
        module, (q, k, v), lengths = self.make_causal(), self.heads(self.length), (4, 9)
        mask = self.mask(self.length, causal=True, prefix=torch.tensor(lengths))
        before = module(q, k, v, mask)
        for sample, prefix in enumerate(lengths):
            first = (module(q, k, after(v, 1), mask) - before)[sample, :, 0].abs().max()
            assert first > 1e-3, "the first token sees nothing of the rest of the prefix"
            for cut in (prefix, prefix + 3):
                out = module(q, after(k, cut), after(v, cut), mask)[sample, :, :cut]
                self.assert_still(out, before[sample, :, :cut], f"what stands from {cut} on, behind the prefix,")

    def test_segments_do_not_see_each_other(self) -> None:
        applies_if(self.can.segments, "declares that it can't honour segments")
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            segments = (torch.arange(self.length) >= torch.tensor([[6], [11]])).long()
            mask = self.mask(self.length, causal=causal, segments=segments)
            before = module(q, k, v, mask)
            for sample, border in enumerate((6, 11)):
                out = module(q, after(k, border), after(v, border), mask)[sample, :, :border]
                self.assert_still(out, before[sample, :, :border], "the segment behind")
                flipped = [until(part, border) for part in (k, v)]
                out = module(q, *flipped, mask)[sample, :, border:]
                self.assert_still(out, before[sample, :, border:], "the segment before")


def after(tensor: Tensor, cut: int, *, scale: float = 1.0) -> Tensor:
    """`tensor [batch, heads, length, head_dim]` with other numbers from `cut` on."""
    return torch.cat([tensor[:, :, :cut], scale * noise(*tensor[:, :, cut:].shape, seed=99)], dim=2)


def until(tensor: Tensor, cut: int) -> Tensor:
    """The same with other numbers before `cut`."""
    return torch.cat([noise(*tensor[:, :, :cut].shape, seed=98), tensor[:, :, cut:]], dim=2)
