"""What a run tells the person in front of it."""

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plugformer.config import Config
from plugformer.errors import counted
from plugformer.interfaces import Sample, Split, Tokenizer
from plugformer.model import Model
from plugformer.nn.depth import parameter_depths
from plugformer.nn.parameters import count_parameters
from plugformer.registry import PARTS
from plugformer.run_dir import RunDir, replacing
from plugformer.settings import TrainerSettings
from plugformer.weights.summary import modules_of

console = Console(highlight=False)


def start(
    config: Config,
    *,
    samples: Mapping[Split, Sequence[Sample]],
    model: Model,
    tokenizer: Tokenizer,
    device: torch.device,
) -> None:
    """A short summary: the parts, the model's size, the data."""
    parts = " ".join(f"{kind}={config[kind]['name']}" for kind in PARTS if "name" in config.get(kind, {}))
    sizes = ", ".join(f"{len(split)} {name}" for name, split in samples.items())
    grid = " × ".join(map(str, tokenizer.spec.grid.shape))
    target = model.task.target_tokenizer
    if target is not None:
        grid = f"{grid}, up to {len(target.spec.grid)} tokens written"
    console.print(f"[dim]{parts}[/]")
    size = f"{count_parameters(model):,} parameters on {device.type}"
    console.print(f"{size} · {sizes} samples · grid {grid} · seed {config['seed']}")


def rates(model: Model, settings: TrainerSettings) -> None:
    """What isn't trained, and what is trained more slowly."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        count = sum(model.get_parameter(name).numel() for name in frozen)
        say(f"frozen: {count:,} of {count_parameters(model):,} parameters: {modules_of(frozen)}")
    if settings.layer_decay != 1:
        depths = parameter_depths(model.trunk, model.task)
        lowest = min(depth for parameter, depth in depths.items() if parameter.requires_grad)
        top = max(depths.values())
        where = f"block {lowest - 1}" if lowest else "the embedding"
        say(f"learning rate of {where}: {settings.layer_decay ** (top - lowest):.3g} × that of the head")


def say(*lines: str) -> None:
    """As they are, however wide."""
    for line in lines:
        console.print(escape(line), soft_wrap=True)


def end(summary: Mapping[str, float], run: RunDir) -> None:
    """The final metrics, and where everything is."""
    console.print(metrics_table(summary))
    console.print(
        f"{counted(int(summary['train/steps']), 'step')} in {summary['train/seconds']:.1f} s · "
        f"[bold]{escape(str(run.path))}[/]",
        soft_wrap=True,
    )


def stopped(run: RunDir) -> None:
    """A signal ended it."""
    again = f"plugformer train resume={run.path}"
    saved = any(run.checkpoints.glob("last*.ckpt"))
    text = f"it is saved. To go on: {again}" if saved else "nothing was saved yet. Start it again to begin anew"
    print(f"plugformer: stopped by a signal; {text}", file=sys.stderr)


def metrics_table(summary: Mapping[str, float]) -> Table:
    """A row a metric, a column a split."""
    splits = [split for split in ("train", "val", "test") if f"{split}/loss" in summary]
    names = [name.partition("/")[2] for name in summary if name.startswith(f"{splits[-1]}/")]
    table = Table("metric", *({"val": "val (best)"}.get(split, split) for split in splits))
    for name in sorted(names):
        values = [summary.get(f"{split}/{name}") for split in splits]
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def write_tables(tables: Mapping[str, list[list[Any]]], run: RunDir) -> None:
    """Metrics that are tables, such as a confusion matrix, each as a CSV file."""
    for name, rows in tables.items():
        with replacing(run.path / f"{name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
