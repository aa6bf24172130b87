"""Laws on the other parts of a mask, and on what is asked for and not declared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plugformer.interfaces import Mask
from plugformer.testing.comparing import applies_if, noise
from plugformer.testing.heads import HeadsSuite, after, until


class VisibilityLaws(HeadsSuite):
    def test_every_query_sees_the_prefix(self) -> None:
        """And nothing that comes after it, if it comes after the query as well."""
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
        """Documents packed into one sequence come out whatever their neighbours are."""
        applies_if(self.can.segments, "declares that it can't honour segments")
        borders = (6, 2 * self.length // 3)
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            segments = (torch.arange(self.length) >= torch.tensor([[border] for border in borders])).long()
            mask = self.mask(self.length, causal=causal, segments=segments)
            before = module(q, k, v, mask)
            for sample, border in enumerate(borders):
                for change, own, what in ((after, slice(border), "behind"), (until, slice(border, None), "before")):
                    others = self._other_keys(q, k, v, border, change)
                    out = module(*others, mask)[sample, :, own]
                    self.assert_still(out, before[sample, :, own], f"the segment {what}")

    def _other_keys(
        self, q: Tensor, k: Tensor, v: Tensor, border: int, change: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        k = change(k, border)
        return (k if self.can.shared_query_key else q), k, change(v, border)

    def test_refuses_what_it_does_not_declare(self) -> None:
        """A part of a mask, a bias or another sequence's keys: ignored is worse than refused."""
        asked: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {
            "key_padding": ({"valid": torch.arange(self.length).expand(2, -1) < self.length // 2}, {}),
            "prefix": ({"causal": True, "prefix": torch.tensor([2, 3])}, {}),
            "segments": ({"segments": (torch.arange(self.length) > 5).long().expand(2, -1)}, {}),
            "room": ({"causal": self.can.causality != "none", "start": torch.tensor(self.length // 2)}, {}),
            "additive_bias": ({}, {"bias": noise(2, self.num_heads, self.length, self.length)}),
        }
        undeclared = [part for part in asked if not getattr(self.can, part)]
        for part in undeclared:
            parts, extra = asked[part]
            try:
                module = self.make(causal=bool(parts.get("causal")))
                module(*self.heads(self.length), self.mask(self.length, **parts), **extra)
            except Exception:  # in whichever words
                continue
            raise AssertionError(f"does not declare {part} and takes it without a word: declare it, or refuse it")
        if not self.can.cross_attention:
            self._refuses_another_sequence()
        applies_if(bool(undeclared) or not self.can.cross_attention, "declares everything")

    def _refuses_another_sequence(self) -> None:
        (q, _, _), (_, k, v) = self.heads(max(7, self.can.min_length)), self.heads(self.length, seed=1)
        try:
            self.make()(q, k, v, Mask())
        except Exception:  # in whichever words
            return
        raise AssertionError("does not declare cross_attention and takes keys of another sequence without a word")
