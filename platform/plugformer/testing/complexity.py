"""Laws and the certificate on how cost grows with the length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import nn

from plugformer.interfaces import Grid, Layout, Mask
from plugformer.measure import Exponent, crossover, fit_exponent, interleaved_times, peak_memory
from plugformer.nn.full_attention import Full
from plugformer.nn.initialise import initialise
from plugformer.registry import build
from plugformer.testing.comparing import noise, note_deviation
from plugformer.testing.heads import HeadsSuite, way

MARGIN = 1.05  # what costs less by less than this is no cheaper: timing isn't finer
SLACK = 0.3  # short lengths, rounding up to blocks and caches bend a line a little


@dataclass(frozen=True)
class Growth:
    """How one cost of forward and backward together grows.

    Attributes:
        quantity: `memory`: bytes at the worst moment, exact. `time`: seconds, median of interleaved repeats.
        causal: which of the two ways.
        lengths: that it was measured at.
        costs, exact: of the mechanism, and of exact attention by the fused kernels beside it.
        claimed: the exponent that the mechanism's capabilities claim.
        measured: the exponent fitted to `costs`.
        crossover: from which length on it costs less than exact attention; None if not within `lengths`.
    """

    quantity: Literal["memory", "time"]
    causal: bool
    lengths: tuple[int, ...]
    costs: tuple[float, ...]
    exact: tuple[float, ...]
    claimed: float
    measured: Exponent
    crossover: float | None

    @property
    def limit(self) -> float:
        """What may be measured at most: the claim and a slack, for time with twice the standard error."""
        return self.claimed + SLACK + (2 * self.measured.standard_error if self.quantity == "time" else 0.0)

    @property
    def holds(self) -> bool:
        return self.measured.value <= self.limit

    def __str__(self) -> str:
        return (
            f"{way(self.causal)}, claims {self.quantity}_exponent={self.claimed:g} and is found to grow with the power "
            f"{self.measured} from {self.lengths[0]} to {self.lengths[-1]} tokens"
        )


class ComplexityLaws(HeadsSuite):
    def test_memory_grows_no_faster_than_claimed(self) -> None:
        """The peak of forward and backward, every allocation counted."""
        lengths = _at_least(self.can.min_length, (512, 1024, 2048))
        node = {"name": self.name, **self.options}
        for _, causal in self.ways():
            grown = _grow("memory", node, causal, lengths, repeats=1, heads=(1, self.head_dim), exact=False)
            note_deviation(max(0.0, grown.measured.value - grown.claimed))
            assert grown.holds, f"{grown}, more than {SLACK} above it"


def certify(
    node: Mapping[str, Any],
    *,
    lengths: Sequence[int] = (512, 1024, 2048, 4096),
    repeats: int = 3,
    num_heads: int = 4,
    head_dim: int = 32,
) -> list[Growth]:
    """The complexity certificate of a mechanism, on one thread of the CPU, float32, a batch of 1.

    Args:
        node: `{"name": ..., **options}`.
        lengths: at least two, rising; doubled from one to the next. All become longer if the first is shorter than what
            the mechanism takes.
        repeats: rounds of timing.
        num_heads, head_dim: with which the mechanism is built.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        can = build("attention", node, **_context(False, max(lengths), num_heads, head_dim)).capabilities
        lengths = _at_least(can.min_length, lengths)
        return [
            _grow(quantity, node, causal, lengths, repeats=repeats, heads=(num_heads, head_dim), exact=True)
            for causal in ([False] if can.causality == "none" else [False, True])
            for quantity in ("memory", "time")
        ]
    finally:
        torch.set_num_threads(threads)


def _at_least(shortest: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """As many times as long as it takes for the first."""
    return tuple(-(-length * max(shortest, lengths[0]) // lengths[0]) for length in lengths)


def _grow(
    quantity: Literal["memory", "time"],
    node: Mapping[str, Any],
    causal: bool,
    lengths: Sequence[int],
    *,
    repeats: int,
    heads: tuple[int, int],
    exact: bool,
) -> Growth:
    module = build("attention", node, **_context(causal, max(lengths), *heads))
    initialise(module, seed=0)
    can, costs, beside = module.capabilities, [], []
    for length in lengths:
        calls = {"own": _train(module.train(), length, causal, *heads)}
        if exact:
            calls["exact"] = _train(Full(), length, causal, *heads)
        if quantity == "memory":
            found = {name: float(peak_memory(call)) for name, call in calls.items()}
        else:
            times = interleaved_times(calls, repeats=repeats, at_least=0.01)
            found = {name: median(each) for name, each in times.items()}
        costs.append(found["own"])
        beside.append(found.get("exact", 0.0))
    return Growth(
        quantity=quantity,
        causal=causal,
        lengths=tuple(lengths),
        costs=tuple(costs),
        exact=tuple(beside) if exact else (),
        claimed=can.memory_exponent if quantity == "memory" else can.time_exponent,
        measured=fit_exponent(lengths, costs),
        crossover=crossover(lengths, [MARGIN * cost for cost in costs], beside) if exact else None,
    )


def _context(causal: bool, max_length: int, num_heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "num_heads": num_heads,
        "head_dim": head_dim,
        "causal": causal,
        "max_length": max_length,
        "layer": 0,
        "seed": 0,
    }


def _train(module: nn.Module, length: int, causal: bool, num_heads: int, head_dim: int) -> Callable[[], Any]:
    """Forward and backward as in training, with a mask of its own each time, or what it caches would be missed."""
    q, k, v = (noise(1, num_heads, length, head_dim, seed=seed).requires_grad_() for seed in range(3))
    shared = module.capabilities.shared_query_key  # type: ignore[union-attr]
    wanted = [q, v, *([] if shared else [k]), *module.parameters()]
    layout = Layout.of(Grid(("position",), (length,)))

    def call() -> Any:
        out = module(q, q if shared else k, v, Mask(causal=causal, layout=layout))
        return torch.autograd.grad(out, wanted, out.detach(), allow_unused=True)

    return call
