"""Laws on the future and the past."""

from typing import Any, NamedTuple

import torch

from plugformer.interfaces import Causality
from plugformer.testing.comparing import note_deviation
from plugformer.testing.heads import HeadsSuite, after, until, way

GRADES: tuple[Causality, ...] = ("none", "gradient", "strict")


class Measured(NamedTuple):
    """How causal a mechanism was found to be, and by what."""

    causality: Causality
    evidence: str
    moved: float


class CausalityLaws(HeadsSuite):
    def test_is_as_causal_as_it_declares(self) -> None:
        """Neither more nor less causal than declared, by gradients and by other and larger tokens in the future.

        A leak is certain. That there is none is not: it was looked for at the borders of blocks too, but a mechanism
        that leaks now and then, and says so, needs a `length` or `options` of its suite at which it does.
        """
        declared = self.can.causality
        if declared == "none":
            self._refuses_to_be_causal()
            return
        for made_causal in (True, False):
            try:
                found = self._measure(self.make(causal=made_causal), self.cuts() if made_causal else [self.length // 2])
            except Exception:
                if made_causal:
                    raise
                continue  # made bidirectional, it may refuse a causal mask, in whichever words
            note_deviation(found.moved)
            told = f"is found {found.causality!r}: {found.evidence}"
            if made_causal:
                assert found.causality == declared, f"declares causality={declared!r} and {told}"
            else:
                less = GRADES.index(found.causality) < GRADES.index(declared)
                assert not less, f"declares causality={declared!r} and, if made bidirectional, {told}"

    def _refuses_to_be_causal(self) -> None:
        try:
            self.make(causal=True)(*self.heads(self.length), self.mask(self.length, causal=True))
        except Exception:  # in whichever words
            return
        raise AssertionError(
            "declares causality='none' and takes a causal mask all the same: declare what it does, or refuse the mask"
        )

    def _measure(self, module: Any, cuts: list[int]) -> Measured:
        worst, evidence = 0.0, ""
        for cut in cuts:
            moved, where = self._move_the_future(module, cut)
            reaching = self._gradient_to_the_future(module, cut)
            if reaching:
                return Measured("none", f"outputs before {cut} have a gradient to what stands from {cut} on", moved)
            if moved > max(worst, self.exact):
                worst, evidence = moved, where
        if worst:
            return Measured("gradient", f"{evidence}, though they have no gradient to it", worst)
        return Measured("strict", f"nothing that was put behind {cuts} moved what stands before", 0.0)

    def _move_the_future(self, module: Any, cut: int) -> tuple[float, str]:
        q, k, v = self.heads(self.length)
        mask = self.mask(self.length, causal=True)
        before, worst, where = module(q, k, v, mask)[:, :, :cut], 0.0, ""
        for scale in (0.0, 1.0, 4.0, 30.0):
            changed = [after(part, cut, scale=scale) for part in (q, k, v)]
            changed[1] = changed[0] if self.can.shared_query_key else changed[1]
            change = (module(*changed, mask)[:, :, :cut] - before).abs()
            moved = change.nan_to_num(nan=torch.inf).max().item()
            if moved > worst:
                what = f"other tokens from {cut} on, {scale:g} times as large," if scale else f"zeros from {cut} on"
                worst, where = moved, f"{what} move outputs before them by {moved:.1e}"
        return worst, where

    def _gradient_to_the_future(self, module: Any, cut: int) -> bool:
        parts = self.wanting(self.heads(self.length))
        out = module(*parts, self.mask(self.length, causal=True))[:, :, :cut]
        gradients = torch.autograd.grad(out.square().sum(), parts, allow_unused=True)
        return any(gradient is not None and bool(gradient[:, :, cut:].any()) for gradient in gradients)

    def test_sees_other_tokens(self) -> None:
        """The past and, unless causal, the future: other values there move what comes out."""
        last = self.length - 1
        for module, causal in self.ways():
            q, k, v = self.heads(self.length)
            mask = self.mask(self.length, causal=causal)
            before = module(q, k, v, mask)
            for place in (self.length // 2, last):
                moved = (module(q, k, until(v, place), mask) - before)[:, :, place].abs().max()
                assert moved > 1e-3, f"{way(causal)}, token {place} sees nothing of those before it"
            for place in () if causal else (0, self.length // 2):
                moved = (module(q, k, after(v, place + 1), mask) - before)[:, :, place].abs().max()
                assert moved > 1e-3, f"bidirectional, token {place} sees nothing of those behind it"
        if self.can.causality != "none":
            self._sees_the_future_if_the_mask_lets_it()

    def _sees_the_future_if_the_mask_lets_it(self) -> None:
        (q, k, v), mask, half = self.heads(self.length), self.mask(self.length), self.length // 2
        module = self.make(causal=True)
        try:
            before, changed = (module(q, k, value, mask)[:, :, :half] for value in (v, after(v, half)))
        except Exception:  # it may refuse, in whichever words
            return
        assert (changed - before).abs().max() > 1e-3, "made causal, it stays so under a mask that isn't, without a word"
