"""Cross-entropy over a vocabulary in chunks of tokens, against PyTorch's on all logits at once: memory and time.

Memory is what a pass forward and back takes at its peak besides its inputs: on a CPU the growth of the process, each
way in a process of its own; on a GPU what its allocator counts. Times are of both ways in turn, the first round left
out. Ratios are chunked over plain.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from plugformer.nn.cross_entropy import cross_entropy

Way = Callable[[Tensor, Tensor, Tensor, int], Tensor]
WAYS: dict[str, Way] = {
    "chunked": lambda hidden, weight, target, chunk: cross_entropy(hidden, weight, target, chunk=chunk).loss,
    "plain": lambda hidden, weight, target, chunk: F.cross_entropy(F.linear(hidden, weight).float(), target),
}


def make_inputs(sizes: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    kind = {"device": sizes["device"], "dtype": getattr(torch, sizes["dtype"])}
    hidden = torch.randn(sizes["tokens"], sizes["dim"], **kind).requires_grad_()
    weight = torch.randn(sizes["vocab"], sizes["dim"], **kind).mul(0.02).requires_grad_()
    return hidden, weight, torch.randint(sizes["vocab"], (sizes["tokens"],), device=sizes["device"])


def step(way: str, inputs: tuple[Tensor, Tensor, Tensor], chunk: int) -> float:
    """Forward and back, without a trace."""
    loss = WAYS[way](*inputs, chunk)
    loss.backward()
    inputs[0].grad = inputs[1].grad = None
    return loss.item()


def seconds(way: str, inputs: tuple[Tensor, Tensor, Tensor], chunk: int) -> float:
    started = time.perf_counter()
    step(way, inputs, chunk)  # waits for the loss
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_memory(way: str, sizes: dict[str, Any]) -> int:
    """Bytes at the peak of one step besides its inputs."""
    torch.set_num_threads(sizes["threads"])
    step(way, make_inputs(sizes | {"tokens": 2, "vocab": 4}), 2)  # libraries take memory at their first call
    inputs = make_inputs(sizes)
    if sizes["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(way, inputs, sizes["chunk"])
        return torch.cuda.max_memory_allocated() - before
    before = _peak()
    step(way, inputs, sizes["chunk"])
    return _peak() - before


def _peak() -> int:
    """Of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"tokens": 8192, "dim": 384, "vocab": 16384, "chunk": 1024, "rounds": 5}
    for name, default in (defaults | {"threads": torch.get_num_threads()}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    sizes = vars(parser.parse_args())
    torch.set_num_threads(sizes["threads"])

    memory = {}
    for way in WAYS:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            memory[way] = alone.apply(measure_memory, (way, sizes))
    inputs, chunk = make_inputs(sizes), sizes["chunk"]
    torch.testing.assert_close(step("chunked", inputs, chunk), step("plain", inputs, chunk), rtol=1e-3, atol=1e-3)
    measured = []
    for number in range(sizes["rounds"] + 1):
        order = list(WAYS)[:: 1 if number % 2 else -1]
        measured.append({way: seconds(way, inputs, chunk) for way in order})
    times = {way: [1000 * each[way] for each in measured[1:]] for way in WAYS}
    ratios = [one / other for one, other in zip(times["chunked"], times["plain"], strict=True)]

    table = Table("", *WAYS, "ratio")
    mebibytes = {way: memory[way] / 2**20 for way in WAYS}
    table.add_row("peak, MiB", *(f"{mebibytes[way]:.0f}" for way in WAYS), f"{memory['chunked'] / memory['plain']:.3f}")
    table.add_row("median, ms", *(f"{median(times[way]):.1f}" for way in WAYS), f"{median(ratios):.3f}")
    Console().print(table)
    result = {"benchmark": "cross_entropy", **sizes, "peak_bytes": memory, "ms": times, "time_ratio": ratios}
    print(
        json.dumps(result | {"memory_ratio": memory["chunked"] / memory["plain"], "median_time_ratio": median(ratios)})
    )


if __name__ == "__main__":
    main()
