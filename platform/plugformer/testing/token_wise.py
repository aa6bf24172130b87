"""Laws of what is applied to each token alone: norms and feed-forwards."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.registry import find
from plugformer.testing.common import Inputs, ModuleSuite, assert_same_dtypes
from plugformer.testing.comparing import applies_if, assert_close, noise


class _TokenWiseSuite(ModuleSuite):
    dim: ClassVar[int] = 12

    def inputs(self, batch: int) -> Inputs:
        return {"x": noise(batch, 7, self.dim)}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return module(inputs["x"])

    def test_keeps_shape_and_dtype(self) -> None:
        assert_same_dtypes(self)

    def test_takes_each_token_alone(self) -> None:
        module, x = self.make(), self.inputs(2)["x"]
        alone = torch.cat([module(token) for token in x.split(1, dim=1)], dim=1)
        assert_close(module(x), alone)


class NormSuite(_TokenWiseSuite):
    kind = "norm"

    def new(self) -> Any:
        return self.build(dim=self.dim)

    def test_stays_finite(self) -> None:
        """For tokens that are zero, constant or huge; and so do the gradients."""
        for x in (torch.zeros(1, 1, self.dim), torch.full((1, 1, self.dim), 3.0), 1e6 * noise(1, 1, self.dim)):
            x.requires_grad_()
            out = self.make()(x)
            (gradient,) = torch.autograd.grad(out.sum(), x)
            assert out.isfinite().all()
            assert gradient.isfinite().all()


class FeedForwardSuite(_TokenWiseSuite):
    kind = "feed_forward"

    def new(self) -> Any:
        return self.build(dim=self.dim, dropout=0.5)

    def test_drops_in_training_only(self) -> None:
        applies_if("dropout" in find(self.kind, self.name).signature.parameters, "takes no dropout")
        module, inputs = self.make(), self.inputs(2)
        assert not torch.equal(self.call(module.train(), inputs), self.call(module.eval(), inputs))
