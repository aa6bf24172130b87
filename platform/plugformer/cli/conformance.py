"""`plugformer conformance KIND=NAME [overrides]`: every law of its kind, tried on one plugin."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plugformer.cli.compose import compose, parse
from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.registry import KINDS, find

if TYPE_CHECKING:
    from rich.console import Console

    from plugformer.testing.complexity import Growth
    from plugformer.testing.judging import Verdict

LENGTHS = (512, 1024, 2048, 4096)
UNITS = {"memory": (2**20, "MiB"), "time": (1e-3, "ms")}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer conformance",
        description="Try every law of its kind on one plugin. For an attention mechanism, certify its complexity too: "
        "how time and peak memory of forward and backward grow with the length, against what it claims. "
        "Exit code 1 if anything fails.",
    )
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="KEY=VALUE",
        help="the plugin and its options, as in attention=full attention.dropout=0.1; plugins=[mine.py] for one in a "
        "file",
    )
    parser.add_argument("--config-dir", "-cd", help="a folder of further configuration files")
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.add_argument("--no-complexity", action="store_true", help="leave out the certificate")
    parser.add_argument(
        "--lengths",
        type=_lengths,
        default=LENGTHS,
        metavar="N,N,…",
        help=f"to certify at, rising; {','.join(map(str, LENGTHS))} if not given",
    )
    arguments = parser.parse_args(argv)
    kind, name = chosen(arguments.overrides)
    node = node_of(compose(arguments.overrides, arguments.config_dir), kind, name)

    from rich.console import Console  # not for --help

    from plugformer.testing.judging import judge  # heavy: torch

    console = Console(highlight=False, stderr=arguments.json)
    verdicts, growths = [], []
    with console.status("") as status:
        for verdict in judge(kind, node):
            verdicts.append(verdict)
            status.update(f"{len(verdicts)} laws tried")
        if kind == "attention" and not arguments.no_complexity:
            from plugformer.testing.complexity import certify

            status.update(f"measuring time and memory at {', '.join(map(str, arguments.lengths))} tokens")
            growths = certify(node, lengths=arguments.lengths)
    passed = all(verdict.outcome != "failed" for verdict in verdicts) and all(growth.holds for growth in growths)
    if arguments.json:
        json.dump(_as_plain(kind, node, verdicts, growths, passed), sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _print(console, kind, node, verdicts, growths, passed)
    return 0 if passed else 1


def chosen(overrides: Sequence[str]) -> tuple[str, str]:
    """The one plugin that is chosen.

    Raises:
        UserError: none or several.
    """
    found = {each.key_or_group: each.value() for each in parse(overrides) if each.key_or_group in KINDS}
    if len(found) != 1:
        said = "no plugin is chosen" if not found else f"{' and '.join(found)} are chosen"
        raise UserError(
            f"conformance: {said}, and one is judged at a time. Choose it as KIND=NAME, as in attention=full.\n"
            f"  Kinds: {', '.join(KINDS)}"
        )
    ((kind, value),) = found.items()
    names = value if isinstance(value, list) else [value]
    if len(names) != 1 or not isinstance(names[0], str):
        raise UserError(f"{kind}={value}: expected the name of one plugin, as in attention=full.")
    return kind, names[0]


def node_of(config: Config, kind: str, name: str) -> dict[str, Any]:
    """The composed part, of a kind that may be there several times too."""
    node = config[kind]
    return next(each for each in node.values() if each["name"] == name) if KINDS[kind].many else node


def _lengths(text: str) -> tuple[int, ...]:
    lengths = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if len(lengths) < 3 or lengths != sorted(set(lengths)) or lengths[0] < 1:
        raise argparse.ArgumentTypeError("expected three or more, rising, as in 512,1024,2048")
    return tuple(lengths)


# ---------------------------------------------------------------------------------------------- the tables


def _print(
    console: Console,
    kind: str,
    node: dict[str, Any],
    verdicts: Sequence[Verdict],
    growths: Sequence[Growth],
    passed: bool,
) -> None:
    from rich.markup import escape
    from rich.table import Table

    plugin = find(kind, node["name"])
    options = " ".join(f"{key}={value}" for key, value in node.items() if key != "name")
    console.print(f"[bold]{plugin}[/] [dim]{escape(options)} · {escape(plugin.package)} {plugin.version}[/]\n")
    colours = {"passed": "green", "failed": "red", "does not apply": "dim"}
    laws = Table("", "worst\ndeviation", "law", box=None, padding=(0, 2, 0, 0))
    for verdict in verdicts:
        colour, deviation = colours[verdict.outcome], verdict.deviation
        says = verdict.why if verdict.outcome == "does not apply" else verdict.says
        found = f"\n[red]{escape(verdict.why)}[/]" if verdict.outcome == "failed" else ""
        laws.add_row(
            f"[{colour}]{verdict.outcome}[/]",
            "" if deviation is None else f"{deviation:.1e}",
            f"[bold]{verdict.law}[/]{': ' * bool(says)}{escape(says)}{found}",
        )
    console.print(laws)
    if growths:
        console.print(_certificate(growths))
    failed = sum(verdict.outcome == "failed" for verdict in verdicts) + sum(not growth.holds for growth in growths)
    console.print("[green]Every law holds.[/]" if passed else f"[red]{failed} failed.[/]")


def _certificate(growths: Sequence[Growth]) -> Any:
    from rich.table import Table

    lengths = growths[0].lengths
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", *map(str, lengths), "power", "claimed", "below full", ""):
        table.add_column(heading, no_wrap=True)
    table.title, table.title_justify = "Complexity: forward and backward, one thread", "left"
    for growth in growths:
        unit, name = UNITS[growth.quantity]
        table.add_row(
            f"{'causal' if growth.causal else 'bidirectional'}\n{growth.quantity}, {name}",
            *(f"{cost / unit:,.1f}" for cost in growth.costs),
            str(growth.measured),
            f"{growth.claimed:g}",
            f"from {growth.crossover:,.0f}" if growth.crossover else "no",
            "[green]passed[/]" if growth.holds else f"[red]failed: above {growth.limit:.2f}[/]",
        )
    return table


def _as_plain(
    kind: str, node: dict[str, Any], verdicts: Sequence[Verdict], growths: Sequence[Growth], passed: bool
) -> dict[str, Any]:
    certificate = [
        asdict(growth) | {"measured": growth.measured._asdict(), "limit": growth.limit, "holds": growth.holds}
        for growth in growths
    ]
    options = {key: value for key, value in node.items() if key != "name"}
    return {
        "kind": kind,
        **find(kind, node["name"]).provenance(),
        "options": options,
        "passed": passed,
        "laws": [asdict(verdict) | {"deviation": _finite(verdict.deviation)} for verdict in verdicts],
        "complexity": certificate,
    }


def _finite(number: float | None) -> float | str | None:
    """JSON has no other numbers."""
    return number if number is None or math.isfinite(number) else str(number)
