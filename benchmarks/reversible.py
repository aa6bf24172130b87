"""Reversible blocks against blocks that keep their activations: time and memory of a pass forward and back.

Memory is what a pass takes at its peak besides weights, their gradients and its inputs, counted by torch's allocator.
Times are of all ways in turn, of the process on a CPU. Ratios are over `pre_norm` of as many layers in the same run.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from plugformer.interfaces import Mask
from plugformer.measure import interleaved_times, peak_memory
from plugformer.nn.initialise import initialise
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.registry import build

KEEPING = {"name": "pre_norm"}
WAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "pre_norm": lambda chunks: KEEPING,
    "reversible": lambda chunks: {"name": "reversible"},
    "chunked": lambda chunks: {"name": "reversible", "feed_forward_chunks": chunks},
}


def make_blocks(node: dict[str, Any], num_layers: int, sizes: argparse.Namespace) -> nn.ModuleList:
    dim, num_heads = sizes.dim, sizes.heads

    def block(layer: int) -> nn.Module:
        mechanism = build(
            "attention",
            {"name": sizes.attention},
            **{"num_heads": num_heads, "head_dim": dim // num_heads, "causal": False},
            **{"max_length": sizes.length, "layer": layer, "seed": 0},
        )
        attention = MultiHeadAttention(dim=dim, num_heads=num_heads, mechanism=mechanism, position=NoPosition())
        feed_forward = build("feed_forward", {"name": "mlp"}, dim=dim, dropout=sizes.dropout)
        parts = {"attention": attention, "feed_forward": feed_forward, "dropout": sizes.dropout}
        return build("block", node, make_norm=lambda: build("norm", {"name": "layer"}, dim=dim), **parts)

    blocks = nn.ModuleList(block(layer) for layer in range(num_layers))
    initialise(blocks, seed=0)
    return blocks.to(sizes.device).train()


def make_step(node: dict[str, Any], num_layers: int, sizes: argparse.Namespace) -> Callable[[], None]:
    """Forward and back; gradients are added to those there are, so that they take no memory of their own."""
    blocks = list(make_blocks(node, num_layers, sizes))
    x = torch.randn(sizes.batch_size, sizes.length, sizes.dim, device=sizes.device)
    for tensor in (x.requires_grad_(), *(parameter for block in blocks for parameter in block.parameters())):
        tensor.grad = torch.zeros_like(tensor)

    def step() -> None:
        type(blocks[0]).chain(blocks, x, Mask(), caches=[None] * num_layers).sum().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"length": 2048, "dim": 512, "heads": 8, "batch-size": 1, "layers": 12, "chunks": 8, "rounds": 5}
    for name, default in (defaults | {"threads": 1}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--attention", default="full", help="default full")
    parser.add_argument("--dropout", type=float, default=0.0, help="default 0")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    sizes = parser.parse_args()
    torch.set_num_threads(sizes.threads)
    device = torch.device(sizes.device)

    memory: dict[str, dict[int, int]] = {way: {} for way in WAYS}
    for way, node in WAYS.items():
        for layers in (sizes.layers, 2 * sizes.layers):
            step = make_step(node(sizes.chunks), layers, sizes)
            step()
            memory[way][layers] = peak_memory(step, device)
    steps = {way: make_step(node(sizes.chunks), sizes.layers, sizes) for way, node in WAYS.items()}
    times = interleaved_times(steps, repeats=sizes.rounds, device=device)
    ratios = {
        way: [one / other for one, other in zip(each, times["pre_norm"], strict=True)] for way, each in times.items()
    }

    table = Table(f"{sizes.layers} layers", *WAYS)
    few, many = ({way: memory[way][count] for way in WAYS} for count in (sizes.layers, 2 * sizes.layers))
    table.add_row("peak, MiB", *(f"{few[way] / 2**20:.1f}" for way in WAYS))
    table.add_row(f"of {2 * sizes.layers} layers", *(f"{many[way] / 2**20:.1f}" for way in WAYS))
    table.add_row("peak, ratio", *(f"{few[way] / few['pre_norm']:.3f}" for way in WAYS))
    table.add_row("median, ms", *(f"{1000 * median(times[way]):.0f}" for way in WAYS))
    spreads = (f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios.values())
    table.add_row("time, ratio", *spreads)
    Console().print(table)
    print(json.dumps({"benchmark": "reversible", **vars(sizes), "peak_bytes": memory, "seconds": times}))


if __name__ == "__main__":
    main()
