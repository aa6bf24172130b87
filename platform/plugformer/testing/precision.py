"""Laws on numbers of few bits."""

import torch

from plugformer.testing.heads import HeadsSuite, gradients, way


class PrecisionLaws(HeadsSuite):
    def test_stays_finite_with_large_logits(self) -> None:
        """Outputs and gradients, with logits from -50 to 50, in 16 bits and in 32."""
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for module, causal in self.ways():
                q, k, v = self.heads(self.length)
                logits = (q @ k.transpose(-1, -2)).abs().amax() / self.head_dim**0.5
                scale = (50 / logits).sqrt()
                q, k, v = self.wanting(part.to(dtype) for part in (scale * q, scale * k, v))
                out = module.to(dtype)(q, k, v, self.mask(self.length, causal=causal))
                where = f"{way(causal)}, {dtype}"
                assert out.isfinite().all(), f"{where}: the output is not finite"
                for gradient in gradients(out.float().square().sum(), (q, k, v)):
                    assert gradient.isfinite().all(), f"{where}: a gradient is not finite"
