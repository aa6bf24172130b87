"""A training step of Plugformer's GPT and BERT against one of transformers': same shapes, batches and optimiser.

Plugformer computes what transformers does, except that logits are never all held at once and that BERT's are made for
hidden tokens only. Steps alternate within a round; the first round is left out.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from plugformer import build
from plugformer.assemble import build_model
from plugformer.budget import example_batch
from plugformer.cli.compose import compose
from plugformer.nn.parameters import count_parameters

Step = Callable[[], None]

FAMILIES = {
    "gpt": ["backbone=decoder", "task=causal_lm", "block=pre_norm", "feed_forward.activation=gelu_tanh"],
    "bert": ["backbone=encoder", "task=mlm", "block=post_norm", "backbone.embedding_norm=true"],
}


def our_step(family: str, sizes: argparse.Namespace) -> tuple[Step, int]:
    config = compose(
        [
            *("data=python_docs", "tokenizer=text_bpe", f"tokenizer.vocab_size={sizes.vocab_size}"),
            f"tokenizer.max_length={sizes.length}",
            *(f"backbone.dim={sizes.dim}", f"backbone.num_layers={sizes.layers}", f"backbone.num_heads={sizes.heads}"),
            *FAMILIES[family],
        ]
    )
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    model = build_model(config, tokenizer=tokenizer, data=source.spec)
    batch = example_batch(tokenizer, model.task.targets, sizes.batch_size)
    return _step(model, lambda: model(batch).loss), count_parameters(model)


def their_step(family: str, sizes: argparse.Namespace, vocab_size: int) -> tuple[Step, int]:
    ids = torch.randint(vocab_size, (sizes.batch_size, sizes.length), generator=torch.Generator().manual_seed(0))
    if family == "gpt":
        shape = {"n_positions": sizes.length, "n_embd": sizes.dim, "n_layer": sizes.layers, "n_head": sizes.heads}
        config = GPT2Config(
            vocab_size=vocab_size, **shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
        )
        model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")
        labels = ids
    else:
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.dim,
            max_position_embeddings=sizes.length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BertForMaskedLM._from_config(config, attn_implementation="sdpa")
        hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.15
        labels = ids.where(hidden, -100)
    return _step(model, lambda: model(input_ids=ids, labels=labels).loss), count_parameters(model)


def _step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def measure(family: str, sizes: argparse.Namespace) -> dict[str, object]:
    (ours, our_size), (theirs, their_size) = our_step(family, sizes), their_step(family, sizes, sizes.vocab_size)
    seconds: dict[str, list[float]] = {"Plugformer": [], "transformers": []}
    for number in range(sizes.rounds + 1):
        steps = [("Plugformer", ours), ("transformers", theirs)]
        for name, step in steps[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    seconds = {name: values[1:] for name, values in seconds.items()}
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    return {"family": family, "parameters": [our_size, their_size], "seconds": seconds, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"dim": 384, "layers": 6, "heads": 6, "length": 512, "batch-size": 8, "rounds": 7}
    for name, default in (defaults | {"vocab-size": 8192, "threads": torch.get_num_threads()}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    sizes = parser.parse_args()
    torch.set_num_threads(sizes.threads)
    rows = [measure(family, sizes) for family in FAMILIES]
    table = Table("", "parameters", "Plugformer, ms a step", "transformers, ms a step", "times as fast", "min", "max")
    for row in rows:
        ours, theirs = (f"{1000 * median(values):.0f}" for values in row["seconds"].values())
        ratios = row["ratios"]
        shown = [f"{value:.2f}" for value in (median(ratios), min(ratios), max(ratios))]
        table.add_row(row["family"], " / ".join(f"{size:,}" for size in row["parameters"]), ours, theirs, *shown)
    Console().print(table)
    print(json.dumps({"benchmark": "language_models", **vars(sizes), "rows": rows}))


if __name__ == "__main__":
    main()
