"""What suites are. They need no pytest: a law is a method that raises, SkipTest where it doesn't apply."""

import io
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.nn.initialise import initialise
from plugformer.registry import build
from plugformer.testing.comparing import assert_close, assert_same, noise, poisoned

Inputs = dict[str, Any]  # tensors that begin with a batch axis, and dicts of such


class Suite:
    """The laws of one kind of plugin.

    Attributes:
        kind: of the plugin.
        name: under which it is registered.
        options: with which it is built; those without a default must stand here or come from `prepare`.
        folder: an empty one of its own for each law.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    options: Mapping[str, Any] = {}
    folder: Path

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        """Make what the plugin needs to exist, such as files, and return the options that lead to it."""
        return {}

    def setup_method(self) -> None:  # pytest's word; whoever runs the laws by hand calls it before each
        self._temporary = TemporaryDirectory()
        self.folder = Path(self._temporary.name, "work")
        prepared = Path(self._temporary.name, "prepared")
        for made in (self.folder, prepared):
            made.mkdir()
        self.options = {**self.options, **self.prepare(prepared)}

    def teardown_method(self) -> None:
        self._temporary.cleanup()

    def build(self, **context: Any) -> Any:
        """The plugin, with what the core knows."""
        return build(self.kind, {"name": self.name, **self.options}, **context)


class ModuleSuite(Suite):
    """The laws of every plugin that is a module. A subclass says how one is made and called."""

    @abstractmethod
    def new(self) -> nn.Module:
        """The plugin as it comes from its constructor, with the suite's context."""

    @abstractmethod
    def inputs(self, batch: int) -> Inputs:
        """The same made-up inputs at each call, float32."""

    @abstractmethod
    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """What the module makes of them; begins with the batch axis."""

    def make(self, seed: int = 0) -> Any:
        """The plugin in evaluation, with weights of which none is zero or one by design."""
        return randomise(self.new(), seed).eval()

    def test_repeats_itself(self) -> None:
        """In evaluation nothing is drawn and nothing remembered."""
        module, inputs = self.make(), self.inputs(2)
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        first = self.call(module, inputs)
        self.call(module, self.inputs(3))
        assert_same(self.call(module, inputs), first)
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, state[name]), f"evaluation changes {name}"

    def test_takes_each_sample_alone(self) -> None:
        module, inputs = self.make(), self.inputs(3)
        together = self.call(module, inputs)
        for number in range(3):
            assert_close(self.call(module, rows(inputs, slice(number, number + 1)))[0], together[number])

    def test_gradients_are_finite_and_reach_every_weight(self) -> None:
        module, inputs = self.make(), wanting_gradients(self.inputs(2))
        self.call(module, inputs).square().sum().backward()
        for key, tensor in inputs.items():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                assert tensor.grad is not None, f"no gradient reaches {key}"
                assert tensor.grad.isfinite().all(), f"the gradient of {key} is not finite"
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero"

    def test_checkpoint_holds_everything(self) -> None:
        """Another module, given the first one's state through a file of nothing but data, does the same."""
        first, second, inputs = self.make(seed=0), self.make(seed=1), self.inputs(2)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert_same(self.call(second, inputs), self.call(first, inputs))

    def test_first_weights_are_the_seeds(self) -> None:
        """All of them are drawn anew from the seed, whatever was drawn before."""
        first, second = self.new(), self.new()
        for module in (first, second):
            for parameter in module.parameters():
                nn.init.constant_(parameter, float("nan"))
        initialise(first, seed=3)
        torch.rand(5)
        initialise(second, seed=3)
        for (name, parameter), other in zip(first.named_parameters(), second.parameters(), strict=True):
            assert parameter.isfinite().all(), f"{name} was not drawn"
            assert torch.equal(parameter, other), f"{name} depends on more than the seed"

    def test_reads_no_uninitialised_memory(self) -> None:
        module, inputs = self.make(), self.inputs(2)
        expected = self.call(module, inputs)
        with poisoned():
            out = self.call(module, inputs)
            out.square().sum().backward() if out.requires_grad else None
        assert_same(out, expected)
        for name, parameter in module.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw the weights, and move all of them off the zeros and ones that hide a mistake."""
    initialise(module, seed=seed)
    for number, parameter in enumerate(module.parameters()):
        parameter.add_(0.3 * noise(*parameter.shape, seed=seed * 1000 + number).to(parameter))
    return module


def rows(inputs: Inputs, which: Any) -> Inputs:
    """Some samples of a batch."""
    return {key: rows(value, which) if isinstance(value, dict) else value[which] for key, value in inputs.items()}


def wanting_gradients(inputs: Inputs) -> Inputs:
    for value in inputs.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.requires_grad_()
    return inputs


def assert_same_dtypes(suite: ModuleSuite, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float64)) -> None:
    """What goes in as one floating-point type comes out as it, in the shape of `x`."""
    for dtype in (torch.float32, *dtypes):
        inputs = suite.inputs(2)
        inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
        out = suite.call(suite.make().to(dtype), inputs)
        assert (out.shape, out.dtype) == (inputs["x"].shape, dtype)
        assert out.isfinite().all()
