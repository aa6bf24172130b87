"""Laws of attention mechanisms.

A law asks for nothing but what the mechanism declares in its capabilities; but what it declares, it is held to.
"""

import math

import torch
from torch import Tensor

from plugformer.interfaces import Attention, Grid, Layout, Mask
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.testing.agreement import AgreementLaws
from plugformer.testing.causality import CausalityLaws
from plugformer.testing.common import assert_same_dtypes
from plugformer.testing.comparing import applies_if, assert_close, assert_same, draws_nothing, noise, poisoned
from plugformer.testing.complexity import ComplexityLaws
from plugformer.testing.decoding import DecodingLaws
from plugformer.testing.heads import gradients
from plugformer.testing.padding import PaddingLaws
from plugformer.testing.precision import PrecisionLaws
from plugformer.testing.randomness import RandomnessLaws
from plugformer.testing.visibility import VisibilityLaws


class AttentionSuite(
    CausalityLaws,
    PaddingLaws,
    VisibilityLaws,
    AgreementLaws,
    DecodingLaws,
    RandomnessLaws,
    PrecisionLaws,
    ComplexityLaws,
):
    """All laws of a mechanism: here those on shapes, lengths and its wrapper, the others by what they are about."""

    # ------------------------------------------------------------------------------------------ shapes and lengths

    def test_keeps_shape_and_dtype(self) -> None:
        """What goes in as one floating-point type comes out as it."""
        assert_same_dtypes(self)

    def test_takes_every_length(self) -> None:
        """Odd ones, one token, and those around the borders of blocks; gradients are finite, memory is initialised."""
        for module, causal in self.ways():
            for length in self.lengths(self.length):
                q, k, v = self.wanting(self.heads(length))
                with poisoned():
                    out = module(q, k, v, self.mask(length, causal=causal))
                    found = gradients(out.square().sum(), (q, k, v))
                assert out.shape == q.shape
                assert all(tensor.isfinite().all() for tensor in (out, *found)), f"not finite at length {length}"

    def test_remembers_no_other_length(self) -> None:
        """A shorter and a longer batch in between change nothing."""
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            first = module(q, k, v, self.mask(self.length, causal=causal))
            for length in (self.can.min_length, 2 * self.length):
                module(*self.heads(length), self.mask(length, causal=causal))
                again = module(q, k, v, self.mask(self.length, causal=causal))
                assert_same(again, first, what=f"what comes out after a batch of {length} tokens")

    def test_takes_tokens_of_a_plane_and_of_none(self) -> None:
        """A class token and patches of an image."""
        rows = max(4, -(-(self.can.min_length - 1) // 4))
        plane = Layout.of(Grid(("row", "column"), (rows, 4)))
        nowhere = Layout(torch.zeros(1, 1, 2, dtype=torch.long), torch.full((1, 1), -1), plane.grids)
        q, k, v = self.heads(1 + 4 * rows)
        out = self.make()(q, k, v, Mask(layout=Layout.concatenate([nowhere, plane])))
        assert out.shape == q.shape
        assert out.isfinite().all()

    # ------------------------------------------------------------------------------------------ gradients

    def test_gradients_are_finite_and_reach_every_weight(self) -> None:
        """And values, and queries and keys if what comes out depends on them."""
        module = self.make()
        q, k, v = parts = self.wanting(self.heads(self.length))
        out = module(q, k, v, Mask())
        inputs, weights = {"queries": q, "keys": k, "values": v}, dict(module.named_parameters())
        assert out.requires_grad, "no gradient reaches queries, keys or values"
        wanted = {**inputs, **weights}
        found = torch.autograd.grad(out.square().sum(), list(wanted.values()), allow_unused=True)
        for name, gradient in zip(wanted, found, strict=True):
            if gradient is None and name in ("queries", "keys"):
                others = [other(part, slice(None)) if part is wanted[name] else part for part in parts]
                assert torch.equal(module(*others, Mask()), out), f"no gradient reaches {name}, and they matter"
                continue
            assert gradient is not None, f"no gradient reaches {name}"
            assert gradient.isfinite().all(), f"the gradient of {name} is not finite"
            assert name in inputs or gradient.any(), f"the gradient of {name} is zero"

    # ------------------------------------------------------------------------------------------ what it tells

    def test_diagnoses_without_a_trace(self) -> None:
        """Finite numbers, the same each time, of whatever mask; nothing is drawn and nothing changes."""
        applies_if(type(self.new()).diagnose is not Attention.diagnose, "has nothing to tell")
        for module, causal in self.ways():
            for what, mask in self.masks(self.length, causal=causal).items():
                parts = self.heads(self.length)
                state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
                before = module(*parts, mask)
                with draws_nothing(but="Python"):  # from which type checkers of tests draw
                    told, again = (module.diagnose(*parts, mask) for _ in range(2))
                for name, value in told.items():
                    assert name.isidentifier(), f"{name!r} is no part of a metric's name"
                    assert type(value) is float and math.isfinite(value), f"{name} is {value} with {what}"
                assert told == again, f"{told} and then {again} with {what}"
                assert_same(module(*parts, mask), before, what="what comes out once it was diagnosed")
                for name, tensor in module.state_dict().items():
                    assert torch.equal(tensor, state[name]), f"to diagnose it changes {name}"

    # ------------------------------------------------------------------------------------------ in the wrapper

    def test_needs_nothing_that_it_does_not_declare(self) -> None:
        """As the wrapper calls it: with grouped queries and a mask, without a bias."""
        dim = self.num_heads * self.head_dim
        for module, causal in self.ways():
            kv_heads = None if self.can.shared_query_key else 1
            wrapper = MultiHeadAttention(
                dim=dim, num_heads=self.num_heads, num_kv_heads=kv_heads, mechanism=module, position=NoPosition()
            )
            out = wrapper(noise(2, self.length, dim), self.mask(self.length, causal=causal))
            assert out.shape == (2, self.length, dim)
            assert out.isfinite().all()

    def test_groups_queries(self) -> None:
        """Shared keys and values do what repeated ones do."""
        applies_if(self.can.grouped_query, "takes as many key-value heads as query heads")
        for module, causal in self.ways():
            mask = self.mask(self.length, causal=causal)
            for kv_heads in (1, 2):
                q, k, v = self.heads(self.length)
                k, v = k[:, :kv_heads], v[:, :kv_heads]
                repeated = (part.repeat_interleave(self.num_heads // kv_heads, dim=1) for part in (k, v))
                assert_close(module(q, k, v, mask), module(q, *repeated, mask), what=f"{kv_heads} key-value heads")

    def test_takes_a_bias(self) -> None:
        """It is added to the logits: zeros change nothing, very negative numbers hide a key, others matter."""
        applies_if(self.can.additive_bias, "declares that it takes no bias")
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            mask = self.mask(self.length, causal=causal)
            without = module(q, k, v, mask)
            bias = noise(1, self.num_heads, self.length, self.length)
            assert_close(module(q, k, v, mask, torch.zeros_like(bias)), without)
            biased = module(q, k, v, mask, bias)
            assert (biased - without).abs().max() > 1e-3
            assert_close(biased, module(q, k, v, mask, bias.expand(2, -1, -1, -1)), what="a bias of batch 1")
            bias[..., 1:9] = -1e6
            assert_close(module(q, k, other(v, slice(1, 9)), mask, bias), module(q, k, v, mask, bias))

    def test_attends_to_another_sequence(self) -> None:
        """With more and with fewer keys than queries, and each query by itself."""
        applies_if(self.can.cross_attention, "declares that queries and keys are of one sequence")
        module = self.make()
        fewer, more = max(5, self.can.min_length), max(17, self.can.min_length + 1)
        for queries, keys in ((fewer, more), (more, fewer)):
            q, (_, k, v) = self.heads(queries)[0], self.heads(keys, seed=1)
            together = module(q, k, v, Mask())
            assert together.shape == q.shape
            alone = torch.cat([module(query, k, v, Mask()) for query in q.split(1, dim=2)], dim=2)
            assert_close(together, alone)


def other(tensor: Tensor, places: slice) -> Tensor:
    """With other numbers at these places of the sequence."""
    changed = tensor.clone()
    changed[:, :, places] = noise(*changed[:, :, places].shape, seed=99)
    return changed
