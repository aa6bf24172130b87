"""`plugformer conformance KIND=NAME [overrides]`: every law of its kind, tried on one plugin."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plugformer.cli.compose import compose, parse, register_files
from plugformer.config import Config
from plugformer.errors import UserError, unknown
from plugformer.registry import KINDS, check, find

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
        allow_abbrev=False,
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
    if KINDS[kind].composed:
        node = node_of(compose(arguments.overrides, arguments.config_dir), kind, name)
    else:
        node = node_alone(arguments.overrides, kind, name)

    from rich.console import Console  # not for --help

    from plugformer.testing.judging import Verdict, explain, judge  # heavy: torch

    console = Console(highlight=False, stderr=arguments.json)
    if not console.is_terminal:  # what reads it has no width to keep to
        console = Console(highlight=False, stderr=arguments.json, width=160)
    verdicts: list[Verdict] = []
    growths: list[Growth] = []
    with console.status("") as status:
        for verdict in judge(kind, node):
            verdicts.append(verdict)
            status.update(f"{len(verdicts)} laws tried")
        if kind == "attention" and not arguments.no_complexity:
            from plugformer.testing.complexity import certify

            status.update(f"measuring time and memory at {', '.join(map(str, arguments.lengths))} tokens")
            try:
                growths = certify(node, lengths=arguments.lengths)
            except Exception as error:
                verdicts.append(Verdict("its cost can be measured", "", "failed", explain(error), None))
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
        UserError: none or several, or something that is neither a plugin, nor an option of it, nor a file.
    """
    parsed = parse(overrides)
    for each in parsed:
        if each.key_or_group.partition(".")[0] not in (*KINDS, "plugins"):
            key = each.key_or_group.partition(".")[0]
            raise unknown(f"{each.input_line}: {key} is no kind of plugin", key, KINDS, "Kinds")
    found = [each for each in parsed if each.key_or_group in KINDS]
    if len(found) != 1:
        said = "no plugin is chosen"
        if found:
            said = f"{' and '.join(each.key_or_group for each in found)} are chosen"
        raise UserError(
            f"conformance: {said}, and one is judged at a time. Choose it as KIND=NAME, as in attention=full.\n"
            f"  Kinds: {', '.join(KINDS)}"
        )
    kind, value = found[0].key_or_group, found[0].value()
    names = value if isinstance(value, list) else [value]
    if len(names) != 1 or not isinstance(names[0], str):
        raise UserError(f"{found[0].input_line}: expected the name of one plugin, as in attention=full.")
    for each in parsed:
        if each.key_or_group.partition(".")[0] not in (kind, "plugins"):
            raise UserError(f"{each.input_line}: {kind}={names[0]} is judged, and this is no option of it.")
    return kind, names[0]


def node_of(config: Config, kind: str, name: str) -> dict[str, Any]:
    """The composed part, of a kind that may be there several times too."""
    node = config[kind]
    return next(each for each in node.values() if each["name"] == name) if KINDS[kind].many else node


def node_alone(overrides: Sequence[str], kind: str, name: str) -> dict[str, Any]:
    """A plugin with its options, of a kind that is no part of a composition."""
    parsed = parse(overrides)
    register_files(parsed)
    options = {each.key_or_group: each.value() for each in parsed if each.key_or_group.startswith(f"{kind}.")}
    return check(kind, {"name": name, **{key.removeprefix(f"{kind}."): value for key, value in options.items()}})


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
    console.print(_summary(verdicts, growths, passed))


# Each compares numbers with what they should be; the other laws say what must not change.
COMPUTING = ("equals its plain version", "is exact with its exact options", "comes ever closer to exact")


def _summary(verdicts: Sequence[Verdict], growths: Sequence[Growth], passed: bool) -> str:
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    outcomes.update("passed" if growth.holds else "failed" for growth in growths)
    counts = f"{outcomes['passed']} passed, {outcomes['failed']} failed, {outcomes['does not apply']} do not apply."
    said = f"[green]Every law holds:[/] {counts}" if passed else f"[red]Not every law holds:[/] {counts}"
    computing = [verdict.outcome for verdict in verdicts if verdict.law in COMPUTING]
    if computing and all(outcome == "does not apply" for outcome in computing):
        said += "\n[yellow]Nothing checked what it computes: it has no plain, no exact_options and no finer_options.[/]"
    return said


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
