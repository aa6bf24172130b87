"""Laws on what a mechanism must agree with: its plain version and exact attention."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from plugformer.interfaces import Attention, Mask
from plugformer.testing.comparing import applies_if, assert_close, noise, note_deviation
from plugformer.testing.heads import HeadsSuite, gradients, way


class AgreementLaws(HeadsSuite):
    # ------------------------------------------------------------------------------------------ the plain version

    def test_equals_its_plain_version(self) -> None:
        """Outputs and gradients, under every part of a mask, as numbers of 64 bits."""
        applies_if(type(self.new()).plain is not Attention.plain, "has no plain version")
        for module, causal in self.ways():
            # The longer sequence under most parts together alone, for what is plain is slow.
            for length, first in ((max(5, self.can.min_length), 0), (self.short, -1)):
                for what, mask in list(self.masks(length, causal=causal).items())[first:]:
                    parts = [part.double() for part in self.heads(length)]
                    where = f"{way(causal)}, {length} tokens, masking {what}"
                    fast = self._with_gradients(module.double(), parts, mask)
                    plain = self._with_gradients(module.plain, parts, mask)
                    for name, one, other in zip(("output", "dq", "dk", "dv"), fast, plain, strict=True):
                        assert_close(one, other, what=f"{where}: {name}")

    def _with_gradients(self, attend: Any, parts: list[Tensor], mask: Mask) -> list[Tensor]:
        """What comes out, without that of padding, and gradients of a weighted sum of it."""
        parts = self.wanting(parts)
        out = attend(*parts, mask)
        if mask.valid is not None:
            out = out.masked_fill(~mask.valid[:, None, :, None], 0.0)
        return [out, *gradients((out * noise(*out.shape, seed=7)).sum(), parts)]

    # ------------------------------------------------------------------------------------------ exact attention

    def test_is_exact_with_its_exact_options(self) -> None:
        """One bucket, all blocks, a window over everything: then it computes what it approximates."""
        options = type(self.new()).exact_options
        applies_if(options is not None, "names no options with which it is exact")
        for module, causal in self.ways(**(options or {})):
            for length in sorted({max(length, self.can.min_length) for length in (5, 17, 64)}):
                for what, mask in self.masks(length, causal=causal).items():
                    parts = self.heads(length)
                    out, exact = module(*parts, mask), module.exact(*parts, mask)
                    if mask.valid is not None:
                        out, exact = (each.masked_fill(~mask.valid[:, None, :, None], 0.0) for each in (out, exact))
                    assert_close(out, exact, what=f"{way(causal)}, {length} tokens, masking {what}")

    def test_comes_ever_closer_to_exact(self) -> None:
        """From coarse options to fine ones the error falls, to less than half of the first."""
        options = type(self.new()).finer_options
        applies_if(len(options) > 1, "names no options along which it comes closer to exact attention")
        for causal in [way_causal for _, way_causal in self.ways()]:
            errors = [self._error(causal, finer) for finer in options]
            told = f"{way(causal)}, the mean errors along finer_options are {[f'{error:.3g}' for error in errors]}"
            note_deviation(errors[-1])
            falls = all(later < sooner for sooner, later in pairwise(errors))
            assert falls, f"{told}: they must fall at each step"
            assert errors[-1] < errors[0] / 2, f"{told}: the last must be less than half of the first"

    def _error(self, causal: bool, options: Any) -> float:
        """Mean absolute error over draws."""
        length, seeds = max(64, self.can.min_length), 4
        parts, mask = self.heads(length), self.mask(length, causal=causal)
        modules = [self.make(seed, causal=causal, **options) for seed in range(seeds)]
        return sum((m(*parts, mask) - m.exact(*parts, mask)).abs().mean().item() for m in modules) / seeds

    def test_its_kernel_is_unbiased(self) -> None:
        """The mean over seeds lies within 4 standard errors of exp(q·k / √head_dim)."""
        applies_if(type(self.new()).kernel is not Attention.kernel, "estimates no kernel")
        q, k = (noise(1, self.num_heads, 3, self.head_dim, seed=seed).mul(0.5).double() for seed in (0, 1))
        draws = torch.stack([self.make(seed).double().kernel(q, k) for seed in range(100)])
        exact = (q @ k.transpose(-1, -2) / self.head_dim**0.5).exp()
        standard_error = draws.std(0) / len(draws) ** 0.5
        off = ((draws.mean(0) - exact).abs() / (standard_error + 1e-9)).max().item()
        note_deviation((draws.mean(0) - exact).abs().max().item())
        assert off <= 4, f"the mean of {len(draws)} estimates is {off:.1f} standard errors off"
