"""Our mechanisms against the public ones, each beside the bar that it has to reach.

One CPU thread, batch 1, 8 heads of 64, float32; a layer is a mechanism with its projections, a pass goes forward and
back, and those that are compared take turns in one run. Time is CPU time, a ratio the median over the rounds; memory is
the peak. Run nothing else meanwhile: about ten minutes.

    python benchmarks/attention.py [--only bigbird reversible …] [--json FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from plugformer import build
from plugformer.bench.layers import mechanism_candidate, peer_candidate
from plugformer.bench.measuring import measure, settle
from plugformer.bench.passes import Passes
from plugformer.bench.peers import load_peers
from plugformer.bench.points import Point, find_growth
from plugformer.bench.report import describe_machine
from plugformer.bench.settings import BenchSettings
from plugformer.cli.bench import read
from plugformer.environment import describe_environment
from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Tokens
from plugformer.measure import interleaved_times, peak_memory
from plugformer.nn.initialise import initialise

PEERS = Path(__file__).with_name("peers.py")
LSH = "reformer_lsh(num_rounds=8)"
CLASSIC = "reformer_lsh(num_rounds=8, causality=gradient)"  # chunks of the sorted sequence, as the public ones cut it
LSH_ONCE = "reformer_lsh(num_rounds=1)"


@dataclass(frozen=True)
class Result:
    """One figure beside its bar.

    Attributes:
        bar: the least it has to be, or with `at_most` the most.
        measured: None where it could not be measured; then `note` says why.
    """

    what: str
    against: str
    figure: str
    bar: float
    measured: float | None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool:
        if self.measured is None:
            return False
        slack = 1e-4 * self.bar  # a bias of a projection is no missed bar
        return self.measured <= self.bar + slack if self.at_most else self.measured >= self.bar - slack


def run(
    mechanisms: str, peers: Sequence[str] = (), *, length: str = "4096", repeats: int = 5, options: Sequence[str] = ()
) -> list[Point]:
    """The points of mechanisms and peers, as `plugformer bench` measures them."""
    settings, asked, _ = read(
        [f"attention={mechanisms}", f"length={length}", f"repeats={repeats}", "device=cpu", *options]
    )
    settings = settle(settings)
    candidates = [mechanism_candidate(each, settings) for each in asked]
    candidates += [peer_candidate(name, peer, settings) for name, peer in load_peers(PEERS, list(peers)).items()]
    return measure(candidates, settings)


def compare(
    points: Sequence[Point], ours: str, theirs: str, faster: float, smaller: float | None, title: str = ""
) -> Iterator[Result]:
    """How many times faster than theirs ours is, and which part of their memory it takes."""
    mine, other = (next(point for point in points if point.label == label) for label in (ours, theirs))
    note = mine.note or other.note
    what, against = title or ours, f"{theirs}, {mine.length:,} tokens"
    if note:
        yield Result(what, against, "times faster", faster, None, note=note)
        return
    mine_cost, their_cost = mine.costs["training"], other.costs["training"]
    ratio = median(b / a for a, b in zip(mine_cost.seconds, their_cost.seconds, strict=True))
    seconds = f"{mine_cost.median:.3f} s : {their_cost.median:.3f} s"
    yield Result(what, against, "times faster", faster, ratio, note=seconds)
    if smaller is not None:
        part = mine_cost.peak / their_cost.peak
        sizes = f"1/{1 / part:.1f}; {mine_cost.peak / 2**20:.1f} MiB : {their_cost.peak / 2**20:.1f} MiB"
        yield Result(what, against, "of its memory", smaller, part, at_most=True, note=sizes)


def grow(points: Sequence[Point], label: str, title: str) -> Iterator[Result]:
    growth = find_growth(points, label, "training")
    for figure, bar, fit in (("time exponent", 1.10, growth.time), ("memory exponent", 1.05, growth.memory)):
        against = "itself, 2,048 to 16,384 tokens"
        if fit is None:
            note = next((point.note for point in points if point.label == label and point.note), "")
            yield Result(title, against, figure, bar, None, at_most=True, note=note)
        else:
            yield Result(title, against, figure, bar, fit.value, at_most=True, note=f"± {fit.standard_error:.2f}")


def cross(points: Sequence[Point], label: str, title: str, *, length: float, speedup: float) -> Iterator[Result]:
    """From which length on it is faster than exact attention, and by how much at 8192 tokens."""
    growth = find_growth(points, label, "training")
    bound = "or sooner" if growth.crossover_is_bound else ""
    yield Result(title, "full", "faster from", length, growth.crossover, at_most=True, note=bound)
    yield from compare([p for p in points if p.length == 8192], label, "full", speedup, None, title)


# ---------------------------------------------------------------------------------------------- the rows


def bigbird() -> Iterator[Result]:
    points = run("bigbird(block_size=64)", ["transformers_bigbird"])
    yield from compare(points, "bigbird(block_size=64)", "transformers_bigbird", 2.0, 1 / 6, "bigbird")


def reformer() -> Iterator[Result]:
    points = run(f"{LSH},{CLASSIC}", ["transformers_reformer", "reformer_pytorch"], repeats=3, options=["causal=true"])
    for ours, title in ((LSH, "reformer_lsh, 8 rounds, strict"), (CLASSIC, "reformer_lsh, 8 rounds, gradient")):
        for theirs in ("transformers_reformer", "reformer_pytorch"):
            yield from compare(points, ours, theirs, 3.2, 1 / 8, title)


def performer_causal() -> Iterator[Result]:
    title = "performer, causal"
    points = run("performer(num_features=266)", ["performer_pytorch"], options=["causal=true"])
    yield from compare(points, "performer(num_features=266)", "performer_pytorch", 2.0, 1 / 3, title)
    points = run(
        "performer(num_features=266)", ["performer_pytorch_fallback"], length="2048", repeats=3, options=["causal=true"]
    )
    yield from compare(points, "performer(num_features=266)", "performer_pytorch_fallback", 12.0, 1 / 3, title)


def performer() -> Iterator[Result]:
    for compiled, faster in ((False, 1.2), (True, 1.5)):
        points = run("performer(num_features=266)", ["performer_pytorch"], options=[f"compile={compiled}"])
        title = f"performer, bidirectional{', compiled' if compiled else ''}"
        yield from compare(points, "performer(num_features=266)", "performer_pytorch", faster, 1 / 2, title)


def growth() -> Iterator[Result]:
    """Against itself at other lengths, and against exact attention of the same causality."""
    options = ["limit_s=15"]  # exact attention at 16384 tokens tells nothing new
    points = run("full,bigbird,performer", length="2048,...,16384", repeats=3, options=options)
    for label in ("bigbird", "performer"):
        yield from grow(points, label, f"{label}, bidirectional")
    yield from cross(points, "bigbird", "bigbird, bidirectional", length=2048, speedup=5.0)
    yield from cross(points, "performer", "performer, bidirectional", length=4096, speedup=2.9)


def growth_causal() -> Iterator[Result]:
    mechanisms = f"full,performer,{LSH_ONCE},{LSH}"
    points = run(mechanisms, length="2048,...,16384", repeats=3, options=["causal=true", "limit_s=12"])
    titles = {"performer": "performer, causal", LSH_ONCE: "reformer_lsh, 1 round", LSH: "reformer_lsh, 8 rounds"}
    for label, title in titles.items():
        yield from grow(points, label, title)
    yield from cross(points, "performer", "performer, causal", length=4096, speedup=2.9)
    yield from cross(points, LSH_ONCE, "reformer_lsh, 1 round", length=4096, speedup=4.0)


def reversible() -> Iterator[Result]:
    """12 blocks of width 512 with full attention on 1024 tokens; the gradients of the weights don't count."""
    passes = {name: _stack(name) for name in ("reversible", "pre_norm")}
    activations = {}
    for name, each in passes.items():
        weights = sum(4 * parameter.numel() for parameter in each.layer.parameters())
        activations[name] = peak_memory(each.training) - weights
    seconds = interleaved_times({name: each.training for name, each in passes.items()}, repeats=3, warm_up=False)
    ratio = median(a / b for a, b in zip(seconds["reversible"], seconds["pre_norm"], strict=True))
    note = f"{median(seconds['reversible']):.2f} s : {median(seconds['pre_norm']):.2f} s"
    yield Result("12 reversible blocks", "12 plain ones, 1,024 tokens", "times their time", 1.5, ratio, True, note)
    part = activations["reversible"] / activations["pre_norm"]
    note = " : ".join(f"{activations[name] / 2**20:.1f} MiB" for name in passes)
    yield Result("12 reversible blocks", "12 plain ones, 1,024 tokens", "of their activations", 1 / 4, part, True, note)


def _stack(block: str, *, length: int = 1024, dim: int = 512) -> Passes:
    grid = Grid(("position",), (length,))
    stack = build(
        "backbone",
        {"name": "encoder", "dim": dim, "num_layers": 12, "num_heads": 8},
        make_block=partial(build, "block", {"name": block}),
        make_attention=partial(build, "attention", {"name": "full"}, seed=0, max_length=length),
        make_norm=partial(build, "norm", {"name": "layer"}),
        make_feed_forward=partial(build, "feed_forward", {"name": "mlp"}),
        make_position=partial(build, "position", {"name": "none"}, grids=(grid,)),
    )
    initialise(stack, seed=0)
    layout = Layout.of(grid)
    stack.register_forward_pre_hook(lambda _, inputs: (Tokens(inputs[0], layout),))
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(1, length, dim, generator=generator) for _ in range(2))
    return Passes(stack, x, gradient)


def full() -> Iterator[Result]:
    for causal in (False, True):
        points = run("full", ["x_transformers"], repeats=7, options=[f"causal={causal}"])
        title = f"full, {'causal' if causal else 'bidirectional'}"
        yield from compare(points, "full", "x_transformers", 1.0, 1.0, title)


ROWS: dict[str, Callable[[], Iterator[Result]]] = {
    each.__name__: each
    for each in (bigbird, reformer, performer_causal, performer, growth, growth_causal, reversible, full)
}


# ---------------------------------------------------------------------------------------------- the table


def show(results: Sequence[Result]) -> Table:
    table = Table("layer", "against", "figure", box=None, padding=(0, 2, 0, 0))
    for title in ("bar", "measured"):
        table.add_column(title, justify="right")
    table.add_column("")
    table.add_column("")
    for result in results:
        measured = "–" if result.measured is None else _number(result.measured)
        verdict = "reached" if result.reached else "not measured" if result.measured is None else "MISSED"
        bar = f"{'≤' if result.at_most else '≥'} {_number(result.bar)}"
        style = "" if result.reached else "red" if result.measured is not None else "yellow"
        table.add_row(result.what, result.against, result.figure, bar, measured, verdict, result.note, style=style)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def measure_row(name: str) -> list[Result]:
    torch.set_num_threads(1)
    try:
        return list(ROWS[name]())
    except UserError as error:  # a mechanism that isn't there
        return [Result(name, "", "", float("nan"), None, note=str(error).partition("\n")[0])]


def measure_apart(name: str) -> list[Result]:
    """In a process of its own: what ran before decides how much memory the allocator keeps, and so how fast the next
    row is."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure_row, name).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROWS", help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, help="a file to write everything to")
    chosen = parser.parse_args()
    console, results = Console(highlight=False, width=None if sys.stdout.isatty() else 200), []
    started = time.monotonic()
    for name in chosen.only:
        results += measure_apart(name)
        console.print(f"[dim]{name} done after {time.monotonic() - started:.0f} s[/]")
    console.print(show(results))
    settings = BenchSettings(length=[1], device="cpu")
    found = {
        "benchmark": "attention",
        "machine": describe_machine(settings),
        "environment": describe_environment(),
        "results": [asdict(result) | {"reached": result.reached} for result in results],
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(not all(result.reached for result in results))


if __name__ == "__main__":
    sys.exit(main())
