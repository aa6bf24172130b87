"""`plugformer bench attention=a,b,c length=…`: time and memory of mechanisms against the length."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugformer.bench.asked import Mechanism, make_mechanisms, read_lengths, split_mechanisms, split_peers
from plugformer.bench.settings import DEFAULT_LENGTHS, BenchSettings
from plugformer.cli.compose import parse, register_files
from plugformer.cli.values import help_line, read_value, type_and_default
from plugformer.errors import UserError, unknown
from plugformer.options import check_options
from plugformer.registry import offers
from plugformer.signatures import read_class

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from plugformer.bench.layers import Candidate
    from plugformer.bench.points import Cost, Growth, Point

DESCRIPTION = """\
One attention layer of each mechanism, with its projections: forward, and forward and backward pass, time and peak
memory at growing lengths, all taking turns; the powers of the length they grow with, and from which length on each is
faster than full. Written as a table, as JSON, and as a plot of both against the length.

  plugformer bench attention=full,local,linear length=512,...,8192
  plugformer bench attention=full,performer performer.num_features=64 causal=true
  plugformer bench 'attention=performer(num_features=64),performer(num_features=256)'
  plugformer bench attention=full,bigbird peers=benchmarks/peers.py
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer bench",
        description=DESCRIPTION,
        epilog=_options_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what to measure; see below")
    settings, mechanisms, peers = read(parser.parse_args(argv).overrides)

    import torch  # heavy, like all that follows: not for --help or a misspelt option

    from plugformer.bench.layers import flash_candidate, mechanism_candidate, peer_candidate
    from plugformer.bench.measuring import measure, settle
    from plugformer.bench.peers import load_peers
    from plugformer.bench.plot import draw
    from plugformer.bench.report import find_growths, report
    from plugformer.run_dir import write_json

    settings = settle(settings)
    candidates = [mechanism_candidate(mechanism, settings) for mechanism in mechanisms]
    if settings.device == "cuda" and settings.dtype in ("bfloat16", "float16"):
        candidates.append(flash_candidate(settings))
    if peers is not None:
        candidates += [peer_candidate(name, peer, settings) for name, peer in load_peers(*peers).items()]
    out = _make_folder(settings)
    with _shown() as console:
        console.print(_setting(settings, torch.__version__), style="dim", highlight=False)
        points: list[Point] = []
        for length in settings.length:
            with _live(console) as show:
                points += measure(candidates, replace(settings, length=[length]), before=points, heed=show)
            growths = find_growths(points, candidates, settings)
            write_json(out / "bench.json", report(points, growths, candidates, settings))  # what is there stays
        console.print(growth_table(growths, candidates))
        paths = draw(points, growths, candidates, out, _subtitle(settings))
        console.print("\n".join(map(str, [out / "bench.json", *paths])), soft_wrap=True, highlight=False)
    ours = {candidate.label for candidate in candidates if not candidate.is_peer}
    return int(any(point.failed and point.label in ours for point in points))


def _subtitle(settings: BenchSettings) -> str:
    return (
        f"one {'causal' if settings.causal else 'bidirectional'} layer, batch {settings.batch}, "
        f"{settings.num_heads} heads of {settings.dim // settings.num_heads}, {settings.dtype}"
    )


# ---------------------------------------------------------------------------------------------- what is asked


def read(overrides: Sequence[str]) -> tuple[BenchSettings, list[Mechanism], tuple[Path, list[str] | None] | None]:
    """The settings, the mechanisms with their options, and the file and names of the peers. Imports no plugin.

    Raises:
        UserError: anything that is wrong with them, with the nearest names.
    """
    texts: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"{text}: expected KEY=VALUE.")
        if key in texts:
            raise UserError(f"{text}: {key} is set already, to {texts[key]}.")
        texts[key] = value
    plugins = texts.pop("plugins", None)
    if plugins is not None:
        register_files(parse([f"plugins={plugins}"]))
    peers = split_peers(texts.pop("peers")) if "peers" in texts else None
    listed = texts.pop("attention", None)
    options = {key: text for key, text in texts.items() if "." in key}
    signature = read_class(BenchSettings)
    known = [*signature.parameters, "attention", "peers", "plugins"]
    for key in texts.keys() - options.keys():
        if key not in signature.parameters:
            raise unknown(f"{key}: no such option of plugformer bench", key, known)
    if not listed:
        raise UserError(
            f"attention has no default: set attention=NAME,NAME,...\n  Installed: {', '.join(offers('attention'))}"
        )
    mechanisms = _read_mechanisms(listed, options)
    values = {key: _value(key, text) for key, text in texts.items() if key not in options and key != "length"}
    lengths = read_lengths(texts["length"]) if "length" in texts else list(DEFAULT_LENGTHS)
    checked = check_options(signature, {"length": lengths, **values}, "", "plugformer bench")
    return BenchSettings(**checked), mechanisms, peers


def _read_mechanisms(listed: str, options: Mapping[str, str]) -> list[Mechanism]:
    asked = split_mechanisms(listed)
    names = {each.name for each in asked}
    shared: dict[str, dict[str, Any]] = {}
    for key, text in options.items():
        name, _, option = key.partition(".")
        if name not in names and name in offers("attention"):
            raise UserError(f"{key}: {name} is not among the mechanisms. Add it: attention={listed},{name}")
        if name not in names and name != "attention":
            choices = [f"{each}.{option}" for each in ("attention", *names)]
            raise unknown(f"{key}: {name} is not among the mechanisms", key, choices)
        shared.setdefault(name, {})[option] = _value(key, text)
    own = []
    for each in asked:
        for text in each.options:
            if "=" not in text:
                raise UserError(f"attention={each.label}: {text}: expected OPTION=VALUE.")
        own.append({text.partition("=")[0]: _value(*_halves(text)) for text in each.options})
    return make_mechanisms(list(zip(asked, own, strict=True)), shared)


def _halves(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _value(key: str, text: str) -> Any:
    """A value in the notation of all commands."""
    if key == "out":
        return text or None
    return read_value(f"{key}={text}")


def _options_help() -> str:
    entries = [
        ("attention", "required", "mechanisms, as NAME or NAME(OPTION=VALUE,...)"),
        ("NAME.OPTION", "", "an option of that mechanism; attention.OPTION sets it for all"),
        ("peers", "", "other projects' layers: a file of adapters, as FILE.py or FILE.py:NAME,NAME; it is run"),
        ("plugins", "", "Python files whose registered classes join, as [FILE.py]; they are run"),
    ]
    for option in read_class(BenchSettings).parameters.values():
        default = DEFAULT_LENGTHS if option.name == "length" else option.default
        entries.append((option.name, type_and_default(option, default), option.help))
    return "\n".join(["keys:", *(help_line(*entry, indent=15, width=100) for entry in entries)])


def _make_folder(settings: BenchSettings) -> Path:
    out = Path(settings.out or time.strftime("runs/bench/%Y-%m-%d_%H-%M-%S"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: can't be written ({error}).") from None
    return out


# ---------------------------------------------------------------------------------------------- what is shown


@contextmanager
def _shown() -> Iterator[Console]:
    from rich.console import Console  # not for --help

    console = Console(highlight=False)
    if not console.is_terminal:  # what reads it has no width to keep to
        console = Console(highlight=False, width=160)
    yield console


@contextmanager
def _live(console: Console) -> Iterator[Any]:
    """Shows the points of one length as a table: while they come in on a terminal, elsewhere once they are there."""
    from rich.live import Live

    shown: list[list[Point]] = []
    if not console.is_terminal:
        yield shown.append
        if shown:
            console.print(cost_table(shown[-1]))
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(points: list[Point]) -> None:
            live.update(cost_table(points), refresh=True)

        yield show


def _setting(settings: BenchSettings, version: str) -> str:
    rounds = "one round" if settings.repeats == 1 else f"median of {settings.repeats}, and the quartiles"
    threads = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    return (
        f"{'causal' if settings.causal else 'bidirectional'} · batch {settings.batch} · dim {settings.dim} · "
        f"{settings.num_heads} heads · {settings.dtype} · {settings.device}, {threads} · torch {version}"
        f"{' · compiled' if settings.compile else ''} · {rounds}"
    )


def cost_table(points: Sequence[Point]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from plugformer.bench.points import BASELINE, PASSES

    exact = next((point for point in points if point.label == BASELINE), None)
    rates = any(cost.flops is not None for point in points for cost in point.costs.values())
    table = Table(title=f"{points[0].length:,} tokens", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("layer")
    for title in PASSES.values():
        table.add_column(f"{title}, ms", justify="right")
        table.add_column("MiB", justify="right")
        if exact is not None:
            table.add_column("× full", justify="right")
        if rates:
            table.add_column("TFLOP/s", justify="right")
            table.add_column("GB/s", justify="right")
    table.add_column("")
    for point in points:
        cells: list[str] = []
        for which in PASSES:
            cost = point.costs.get(which)
            cells += _cost_cells(cost, rates=rates)
            if exact is not None:
                cells.insert(len(cells) - 2 * rates, _speedup(cost, exact.costs.get(which)))
        style = "red" if point.failed else "dim" if point.note else ""
        table.add_row(escape(point.label), *cells, escape(point.note), style=style)
    return table


def _cost_cells(cost: Cost | None, *, rates: bool) -> list[str]:
    if cost is None:
        return ["–"] * (4 if rates else 2)
    took = "…"
    if cost.median is not None:
        digits = ",.3g" if cost.median < 1 else ",.0f"
        took = f"{1e3 * cost.median:{digits}}"
        if cost.quartiles is not None:
            low, high = cost.quartiles
            took += f" [dim]\\[{1e3 * low:{digits}}–{1e3 * high:{digits}}][/]"
    cells = [took, f"{cost.peak / 2**20:,.1f}"]
    if rates:
        for amount, unit in ((cost.flops, 1e12), (cost.bytes, 1e9)):
            rate = cost.rate(amount)
            cells.append(f"{rate / unit:,.3g}" if rate else "")
    return cells


def _speedup(cost: Cost | None, theirs: Cost | None) -> str:
    if cost is None:
        return "–"
    return f"{theirs.median / cost.median:.2f}" if theirs and theirs.median and cost.median else ""


def growth_table(growths: Sequence[Growth], candidates: Sequence[Candidate]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from plugformer.bench.points import BASELINE, PASSES

    compared = any(growth.label == BASELINE for growth in growths)
    table = Table(title="Growth with the length", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("layer", "pass"):
        table.add_column(title)
    against = ("faster than full from", "× full at the last") if compared else ()
    for title in ("time exponent", "memory exponent", "declared", *against):
        table.add_column(title, justify="right")
    declared = {candidate.label: candidate.capabilities for candidate in candidates}
    for growth in growths:
        can = declared[growth.label]
        table.add_row(
            escape(growth.label),
            PASSES[growth.which],
            _exponent(growth.time),
            _exponent(growth.memory),
            f"{can.time_exponent:g}, {can.memory_exponent:g}" if can else "",
            *((_crossing(growth), "" if growth.speedup is None else f"{growth.speedup:.2f}") if compared else ()),
        )
    return table


def _exponent(fit: Any) -> str:
    if fit is None:
        return "–"
    return str(fit) if fit.standard_error < float("inf") else f"{fit.value:.2f}"


def _crossing(growth: Growth) -> str:
    if growth.speedup is None:
        return ""
    if growth.crossover is None:
        return f"> {growth.speedup_at:,}"
    return f"{'≤ ' * growth.crossover_is_bound}{growth.crossover:,.0f}"
