"""Laws on what is drawn: when, from which seed, and that it can be had once more."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plugformer.nn.replay import Replay
from plugformer.registry import find
from plugformer.testing.comparing import applies_if, assert_close, assert_same, draws_nothing, noise
from plugformer.testing.heads import HeadsSuite, way


class RandomnessLaws(HeadsSuite):
    def test_draws_nothing_in_evaluation(self) -> None:
        """Whatever state the run's generators are in, the same comes out and they stay as they are."""
        for module, causal in self.ways():
            outputs = []
            for seed in (0, 1):
                with generator(seed), draws_nothing(but="Python"):  # from which type checkers of tests draw
                    outputs.append(module(*self.heads(self.length), self.mask(self.length, causal=causal)))
            assert_same(outputs[0], outputs[1])

    def test_random_buffers_are_the_seeds(self) -> None:
        """Equal on every rank, whatever it drew before; others for another layer and another seed."""
        for causal in [causal for _, causal in self.ways()]:
            first, second = (self._buffers(seed, causal=causal) for seed in (0, 1))
            for name, buffer in first.items():
                assert torch.equal(buffer, second[name]), f"{name} depends on more than seed and layer"
            others = {
                "seed": self._buffers(0, causal=causal, own_seed=1),
                "layer": self._buffers(0, causal=causal, layer=1),
            }
            random = {name for its in others.values() for name in first if not equal(first[name], its[name])}
            for what, its in others.items():
                for name in random:
                    assert not equal(first[name], its[name]), f"{name} is the same for another {what}"

    def test_redraws_by_seed_and_step_alone(self) -> None:
        """Two ranks draw the same before a step, in place, and evaluation between steps changes nothing."""
        for causal in [causal for _, causal in self.ways()]:
            with generator(0):
                first = self.new(causal=causal).train()
            with generator(1):
                second = self.new(causal=causal).train()
            for step in (0, 1, 2, 5, 1000):
                places = {name: buffer.data_ptr() for name, buffer in first.named_buffers()}
                with generator(2), draws_nothing(but="Python"):
                    first.before_step(step)
                self._evaluate_twice(first, causal)
                with generator(3):
                    second.before_step(step)
                for name, buffer in first.named_buffers():
                    assert equal(buffer, dict(second.named_buffers())[name]), f"step {step}: {name} differs by rank"
                    assert buffer.data_ptr() == places[name], f"step {step}: {name} is not drawn in place"

    def _evaluate_twice(self, module: Any, causal: bool) -> None:
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.eval()
        mask = self.mask(self.length, causal=causal)
        one, other = (module(*self.heads(self.length), mask) for _ in range(2))
        module.train()
        assert_same(one, other)
        for name, tensor in module.state_dict().items():
            assert equal(tensor, state[name]), f"evaluation changes {name}"

    def _buffers(self, generator_seed: int, *, causal: bool, own_seed: int = 0, layer: int = 0) -> dict[str, Tensor]:
        with generator(generator_seed):
            return dict(self.new(causal=causal, seed=own_seed, layer=layer).named_buffers())

    def test_can_be_replayed(self) -> None:
        """Called again in training it does the same: with the same inputs, dropout included, and with nearly the same,
        its discrete choices kept."""
        applies_if(self.can.replays, "declares that it can't be replayed")
        dropout = {"dropout": 0.3} if "dropout" in find(self.kind, self.name).options else {}
        for module, causal in self.ways(**dropout):
            module.train()
            mask, parts = self.mask(self.length, causal=causal), self.heads(self.length)
            replay = Replay(parts[0].device)
            with replay.first():
                first = module(*parts, mask)
            torch.rand(5)
            with replay.again():
                assert_same(module(*parts, mask), first)
            nearly = [part + 1e-3 * noise(*part.shape, seed=5) for part in parts]
            nearly[1] = nearly[0] if self.can.shared_query_key else nearly[1]
            with replay.again():
                again = module(*nearly, mask)
            assert_close(again, first, tolerance=0.05, what=f"{way(causal)}, replayed with nearly the same inputs")


def equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@contextmanager
def generator(seed: int) -> Iterator[None]:
    """Torch's generator in another state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
