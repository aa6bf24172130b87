"""Laws on padding."""

import torch
from torch import Tensor

from plugformer.testing.comparing import applies_if, assert_close, noise
from plugformer.testing.heads import HeadsSuite, gradients, way


class PaddingLaws(HeadsSuite):
    def test_padding_changes_nothing(self) -> None:
        """A sequence comes out as it does alone, whatever longer one it shares a batch with and whatever it is padded
        with."""
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        for module, causal in self.ways():
            long = self.heads(self.length, batch=1, seed=1)
            whole = module(*long, self.mask(self.length, causal=causal))
            for real in self.lengths(self.length - 1)[::-2]:
                short = self.heads(real, batch=1)
                alone = module(*short, self.mask(real, causal=causal))
                padding = 10 * noise(1, self.num_heads, self.length - real, self.head_dim, seed=2)
                batch = [torch.cat([torch.cat([a, padding], 2), b]) for a, b in zip(short, long, strict=True)]
                valid = torch.arange(self.length) < torch.tensor([[real], [self.length]])
                together = module(*batch, self.mask(self.length, causal=causal, valid=valid))
                where = f"{way(causal)}, {real} tokens padded to {self.length}"
                assert_close(together[:1, :, :real], alone, what=where)
                assert_close(together[1:], whole, what=f"{where}: the longer sequence beside them")

    def test_padding_in_front_changes_nothing(self) -> None:
        """However much of it, a part of a block too: as prompts of several lengths are padded."""
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        real, fronts = self.short, torch.tensor([0, 1, 3, self.block + 5])
        longest = real + int(fronts.max())
        begun = torch.arange(longest) - fronts[:, None]
        valid = (begun >= 0) & (begun < real)  # those with less in front have more behind
        for options in self.grains():
            for module, causal in self.ways(**options):
                short = self.heads(real, batch=1)
                alone = module(*short, self.mask(real, causal=causal))
                padding = 10 * noise(1, self.num_heads, longest, self.head_dim, seed=2)
                batch = [self._put(part, padding, fronts) for part in short]
                batch[1] = batch[0] if self.can.shared_query_key else batch[1]
                together = module(*batch, self.mask(longest, causal=causal, valid=valid))
                for row, front in enumerate(fronts.tolist()):
                    where = f"{way(causal)}, {real} tokens behind {front} of padding"
                    assert_close(together[row : row + 1, :, front : front + real], alone, what=where)

    def _put(self, part: Tensor, padding: Tensor, fronts: Tensor) -> Tensor:
        """One sequence behind each of these numbers of padding tokens."""
        rows, real = [], part.shape[2]
        for front in fronts.tolist():
            rows.append(torch.cat([padding[:, :, :front], part, padding[:, :, front + real :]], 2))
        return torch.cat(rows)

    def test_padding_is_not_seen_wherever_it_stands(self) -> None:
        """In front and in the midst, what it is filled with changes nothing."""
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        n, place = self.length, torch.arange(self.length)
        stands = {
            "in front": place >= torch.tensor([[3], [n // 2]]),
            "in the midst": (place < torch.tensor([[2], [n // 3]])) | (place >= n // 2),
        }
        for module, causal in self.ways():
            for where, valid in stands.items():
                mask, real = self.mask(n, causal=causal, valid=valid), valid[:, None, :, None]
                filled = [
                    [part.where(real, 10 * noise(*part.shape, seed=seed + number)) for number, part in enumerate(heads)]
                    for seed in (50, 60)
                    for heads in (self.heads(n),)
                ]
                if self.can.shared_query_key:
                    filled = [[q, q, v] for q, _, v in filled]
                one, other = (module(*parts, mask).masked_fill(~real, 0.0) for parts in filled)
                self.assert_still(one, other, f"{way(causal)}, padding {where}")

    def test_no_visible_key_gives_zeros(self) -> None:
        """A query that may see no key comes out as zeros, with finite gradients."""
        applies_if(self.can.key_padding, "declares that it can't honour padding")
        for module, causal in self.ways():
            parts = self.wanting(self.heads(self.length))
            valid = torch.tensor([[True], [False]]).expand(2, self.length)
            with_bias = {"bias": noise(1, self.num_heads, self.length, self.length)} if self.can.additive_bias else {}
            for extra in ({}, with_bias):
                out = module(*parts, self.mask(self.length, causal=causal, valid=valid), **extra)
                assert out[0].any()
                assert not out[1].any(), f"{way(causal)}, a query without a visible key must get zeros"
                for gradient in gradients(out.square().sum(), parts):
                    assert gradient.isfinite().all()
