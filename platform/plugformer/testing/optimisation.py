"""Laws of optimisers and schedules."""

import copy
import pickle
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from plugformer.interfaces import ParameterGroups, Schedule
from plugformer.registry import build, find
from plugformer.testing.common import Suite, randomise
from plugformer.testing.comparing import applies_if, noise


class OptimizerSuite(Suite):
    kind = "optimizer"

    def start(self) -> tuple[Any, torch.optim.Optimizer]:
        """A model of one matrix, which is decayed, and one bias, which is not."""
        model: Any = nn.Linear(6, 4)
        randomise(model)
        return model, self.build().build(ParameterGroups([model.weight], [model.bias]))

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        def loss() -> float:
            optimizer.zero_grad()
            value = (model(noise(32, 6)) - noise(32, 4, seed=1)).square().mean()
            value.backward()
            return value.item()

        return float(optimizer.step(loss))

    def test_holds_every_parameter_once(self) -> None:
        model, optimizer = self.start()
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))

    def test_a_step_moves_every_parameter(self) -> None:
        model, optimizer = self.start()
        before = copy.deepcopy(dict(model.named_parameters()))
        self.step(model, optimizer)
        for name, parameter in model.named_parameters():
            assert parameter.isfinite().all()
            assert not torch.equal(parameter, before[name]), f"the {name} did not move"

    def test_decays_only_what_is_to_be_decayed(self) -> None:
        """Where there is no gradient, an undecayed parameter stays."""
        model, optimizer = self.start()
        before = model.bias.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert torch.equal(model.bias, before)

    def test_lowers_a_loss(self) -> None:
        model, optimizer = self.start()
        losses = [self.step(model, optimizer) for _ in range(100)]
        assert losses[-1] < losses[0]

    def test_goes_on_from_its_state(self) -> None:
        model, optimizer = self.start()
        for _ in range(3):
            self.step(model, optimizer)
        other, resumed = self.start()
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(3):
            assert self.step(other, resumed) == self.step(model, optimizer)

    def test_takes_models_without_one_of_the_groups(self) -> None:
        model, _ = self.start()
        for groups in (ParameterGroups([model.weight], []), ParameterGroups([], [model.bias])):
            self.step(model, self.build().build(groups))


class ScheduleSuite(Suite):
    """
    Attributes:
        totals: lengths of training that the laws look at.
    """

    kind = "schedule"
    totals: ClassVar[tuple[int, ...]] = (1, 2, 7, 100)

    def factors(self, schedule: Schedule, total: int) -> list[float]:
        """At every step, and after the last, which torch asks for as well."""
        return [schedule.factor(step, total) for step in range(total + 1)]

    def test_is_a_factor_at_every_step(self) -> None:
        for total in self.totals:
            factors = self.factors(self.build(), total)
            assert all(0 <= factor <= 1 for factor in factors), factors
            assert factors[0] > 0, "the first step learns nothing"
            assert any(factors[:-1])

    def test_reaches_the_full_rate(self) -> None:
        assert max(self.factors(self.build(), 100)) == 1

    def test_depends_on_the_step_alone(self) -> None:
        """Whatever was asked before, and in another process."""
        schedule = self.build()
        forth = self.factors(schedule, 20)
        assert [schedule.factor(step, 20) for step in reversed(range(21))] == forth[::-1]
        assert self.factors(pickle.loads(pickle.dumps(schedule)), 20) == forth

    def test_warms_up(self) -> None:
        """In as many steps as it is told to, or a share of them, rising at each."""
        applies_if("warmup" in find(self.kind, self.name).options, "has no warm-up")
        in_steps, as_share, without = (self.factors(self.with_warmup(value), 100) for value in (10, 0.1, 0))
        assert in_steps == as_share
        assert all(a < b for a, b in pairwise(in_steps[:11]))
        assert in_steps[10] == without[0] == 1

    def with_warmup(self, warmup: Any) -> Schedule:
        return build(self.kind, {"name": self.name, **self.options, "warmup": warmup})
