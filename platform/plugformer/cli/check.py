"""`plugformer check [overrides]`: compose a run and check it, without reading data or training."""

from __future__ import annotations

import argparse

from plugformer.cli.compose import compose
from plugformer.config import Config


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer check",
        description="Compose a run, check its types and whether its parts go together, and count its parameters, "
        "memory and operations. No data is read, nothing is trained.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for plugformer train")
    parser.add_argument("--config-dir", "-cd", help="a folder of further configuration files")
    arguments = parser.parse_args(argv)
    config = compose(arguments.overrides, arguments.config_dir)

    from rich.console import Console  # not for --help
    from rich.markup import escape
    from rich.table import Table

    from plugformer.budget import estimate  # heavy: torch
    from plugformer.registry import PARTS

    budget = estimate(config)
    beginning = [] if config["init_from"] is None else _tell_beginning(config)
    console = Console(highlight=False)
    parts = Table("kind", "plugin", "options", box=None, padding=(0, 2, 0, 0))
    for kind in PARTS:
        if "name" in config.get(kind, {}):
            options = ", ".join(f"{key}={value}" for key, value in config[kind].items() if key != "name")
            parts.add_row(kind, config[kind]["name"], options)
    console.print(parts)
    written = f", up to {budget.written} written for it" if budget.written else ""
    console.print(
        f"\n{budget.parameters:,} parameters · {budget.length} tokens a sample{written}\n"
        f"a training step of {budget.batch_size} samples: {budget.flops / 1e9:.2f} GFLOP, about "
        f"{_mebibytes(budget.memory)} of memory = weights {_mebibytes(budget.weights)} + gradients "
        f"{_mebibytes(budget.gradients)} + optimiser {_mebibytes(budget.optimizer)} + activations "
        f"{_mebibytes(budget.activations)}"
    )
    for line in beginning:
        console.print(escape(line), soft_wrap=True)
    console.print("[green]All parts go together.[/]")
    return 0


def _tell_beginning(config: Config) -> list[str]:
    """What the run would take of the weights that it begins from."""
    from plugformer.assemble import preview  # heavy: torch
    from plugformer.registry import build
    from plugformer.weights.beginning import Beginning
    from plugformer.weights.summary import match_lines

    source = build("data", config["data"])
    tokenizer, model = preview(config, source=source)
    beginning = Beginning.of(config, source=source, tokenizer=tokenizer, model=model)
    assert beginning is not None, "it names no weights"
    return match_lines(model, beginning.weights, beginning.match(model))


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
