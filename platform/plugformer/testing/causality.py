"""Laws on the future and the past."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plugformer.interfaces import Causality, Mask
from plugformer.testing.comparing import note_deviation
from plugformer.testing.heads import HeadsSuite, after, gradients, until, way
from plugformer.testing.randomness import generator

GRADES: tuple[Causality, ...] = ("none", "gradient", "strict")


class Measured(NamedTuple):
    """How causal a mechanism was found to be, and by what."""

    causality: Causality
    evidence: str
    moved: float


class CausalityLaws(HeadsSuite):
    def test_is_as_causal_as_it_declares(self) -> None:
        """Neither more nor less causal than declared, by gradients and by other and larger tokens in the future, in
        evaluation and in training, under each part of a mask.

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
                if made_causal and not self.block and found.causality == "strict":
                    found = self._measure_at_usual_borders(self.make(causal=True))
                if made_causal and declared == "gradient" and found.causality == "strict":
                    # What is made for short sequences is coarser, and so leaks sooner.
                    found = self._measure(self.make(causal=True, max_length=self.block or 64), self.cuts())
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
        """The worst that is found in evaluation and in training, under each part of a mask."""
        masks = self.masks(self.length, causal=True)
        masks.pop("a prefix", None)  # is seen by those before its end
        found = []
        for training in (False, True):
            module.train(training)
            for what, mask in masks.items():
                found.append(self._measure_under(mask, module, cuts))
                if found[-1].causality != "strict":
                    where = "in training" * training + ", " * (training and what != "nothing")
                    where += f"masking {what}" * (what != "nothing")
                    found[-1] = found[-1]._replace(evidence=found[-1].evidence + f" ({where})" * bool(where))
                if found[-1].causality == "none":
                    return found[-1]
        return min(found, key=lambda each: GRADES.index(each.causality))

    def _measure_under(self, mask: Mask, module: Any, cuts: list[int]) -> Measured:
        worst, evidence = 0.0, ""
        for cut in cuts:
            moved, where = self._move_the_future(module, cut, mask)
            reaching = self._gradient_to_the_future(module, cut, mask)
            if reaching:
                return Measured("none", f"outputs before {cut} have a gradient to what stands from {cut} on", moved)
            if moved > max(worst, self.exact):
                worst, evidence = moved, where
        if worst:
            return Measured("gradient", f"{evidence}, though they have no gradient to it", worst)
        return Measured("strict", f"nothing that was put behind {cuts} moved what stands before", 0.0)

    def _measure_at_usual_borders(self, module: Any) -> Measured:
        """Those of blocks that it may have and doesn't declare."""
        length = max(200, self.can.min_length)
        mask, cuts = self.mask(length, causal=True), [63, 64, 65, 127, 128, 129]
        for cut in cuts:
            moved, where = self._move_the_future(module, cut, mask, length=length, scales=(4.0,))
            if moved > self.exact:
                return Measured("gradient", f"of {length} tokens, {where}", moved)
        return Measured("strict", f"nothing that was put behind {cuts} of {length} moved what stands before", 0.0)

    def _move_the_future(
        self,
        module: Any,
        cut: int,
        mask: Mask,
        *,
        length: int | None = None,
        scales: Sequence[float] = (0.0, 1.0, 4.0, 30.0),
    ) -> tuple[float, str]:
        q, k, v = self.heads(length or self.length)
        before, worst, where = _past(module, (q, k, v), mask, cut), 0.0, ""
        for scale in scales:
            changed = [after(part, cut, scale=scale) for part in (q, k, v)]
            changed[1] = changed[0] if self.can.shared_query_key else changed[1]
            change = (_past(module, changed, mask, cut) - before).abs()
            moved = change.nan_to_num(nan=torch.inf).max().item()
            if moved > worst:
                what = f"other tokens from {cut} on, {scale:g} times as large," if scale else f"zeros from {cut} on"
                worst, where = moved, f"{what} move outputs before them by {moved:.1e}"
        return worst, where

    def _gradient_to_the_future(self, module: Any, cut: int, mask: Mask) -> bool:
        parts = self.wanting(self.heads(self.length))
        found = gradients(_past(module, parts, mask, cut).square().sum(), parts)
        return any(bool(gradient[:, :, cut:].any()) for gradient in found)

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


def _past(module: Any, parts: Sequence[Tensor], mask: Mask, cut: int) -> Tensor:
    """What comes out before `cut`, zeros at padding; whatever is drawn is drawn alike each time."""
    with generator(0):
        out = module(*parts, mask)[:, :, :cut]
    return out if mask.valid is None else out.masked_fill(~mask.valid[:, None, :cut, None], 0.0)
