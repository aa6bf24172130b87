"""Beam search for sources against transformers' `generate` on the same weights: BART's shape, random weights.

One CPU thread, float32. The two take turns, and have to write the same tokens before they are timed; a ratio is the
median over the rounds. Time is CPU time, or with --wall the time of day. Run nothing else meanwhile: about six minutes.

    python benchmarks/seq2seq_beam.py [--only small_batch …] [--rounds N] [--wall] [--json FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from plugformer import build
from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.decode.beam import EarlyStopping, beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.session import Session
from plugformer.environment import describe_environment
from plugformer.interfaces import Features
from plugformer.measure import interleaved_times
from plugformer.model import Model

PAD, BOS, EOS = 0, 1, 2
NUM_BEAMS, LONGEST, ROOM = 4, 40, 40  # of sources, and of what is written


@dataclass(frozen=True)
class Size:
    """
    Attributes:
        layers: on each side.
        batch: sources at once.
    """

    vocab: int
    dim: int
    layers: int
    heads: int
    batch: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    no_repeat_ngram: int = 0


SIZES = {
    "all_at_once": Size(vocab=4096, dim=256, layers=3, heads=4, batch=256),
    "small_batch": Size(vocab=4096, dim=256, layers=3, heads=4, batch=16),
    "small_model": Size(vocab=2048, dim=128, layers=2, heads=4, batch=64),
    "large_vocabulary": Size(vocab=8192, dim=256, layers=2, heads=4, batch=64),
    "early_stopping": Size(vocab=4096, dim=256, layers=3, heads=4, batch=64, early_stopping=True),
    "length_penalty": Size(vocab=4096, dim=256, layers=3, heads=4, batch=64, length_penalty=2.0),
    "no_repeat_ngram": Size(vocab=4096, dim=256, layers=3, heads=4, batch=64, no_repeat_ngram=3),
}


@dataclass(frozen=True)
class Result:
    """
    Attributes:
        ratios: how many times faster ours was, one a round.
        ours, theirs: seconds, one a round.
        length: tokens of a text, in the mean.
    """

    what: str
    ratios: list[float]
    ours: list[float]
    theirs: list[float]
    length: float

    @property
    def reached(self) -> bool:
        return median(self.ratios) >= 1.0


# ---------------------------------------------------------------------------------------------- models


def their_model(size: Size) -> Any:
    """Random weights that are sure of something, and end texts at many lengths."""
    config = transformers.BartConfig(
        vocab_size=size.vocab,
        d_model=size.dim,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.dim,
        decoder_ffn_dim=4 * size.dim,
        max_position_embeddings=max(LONGEST, ROOM + 1),
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    torch.manual_seed(1)
    model = transformers.BartForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        # Hidden states lean to the row of the token that ends a text, the more the later they are.
        end, places = model.model.shared.weight[EOS], model.model.decoder.embed_positions.weight
        model.model.decoder.layers[-1].final_layer_norm.bias.copy_(1.5 * end)
        places.add_(0.05 * torch.arange(len(places))[:, None] * end)
    return model


def copied(theirs: Any, size: Size) -> Model:
    """Ours with their weights."""
    length = theirs.config.max_position_embeddings
    config = compose(
        [
            *("data=hangul_names", "tokenizer=text_bpe", f"tokenizer.vocab_size={size.vocab}"),
            *(f"tokenizer.max_length={length}", "backbone=encoder_decoder", f"backbone.dim={size.dim}"),
            *(f"backbone.num_layers={size.layers}", f"backbone.num_heads={size.heads}", "backbone.embedding_norm=true"),
            *("block=post_norm", "position=learned", "task=seq2seq"),
        ]
    )
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    model = build_model(config, tokenizer=tokenizer, data=source.spec).eval()
    wanted, weights = model.state_dict(), theirs.state_dict()
    model.load_state_dict({name: weights[their_name(name)][-len(one) :] for name, one in wanted.items()})
    return model


PARTS = {
    "trunk.embedding.lookup": "model.shared",
    "trunk.backbone.": "model.",
    "position.tables.0.0": "embed_positions",  # with two rows at the front that no token has
    "embedding_norm": "layernorm_embedding",
    "blocks": "layers",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "cross_attention": "encoder_attn",
    "attention_norm": "self_attn_layer_norm",
    "attention.": "self_attn.",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
    "feed_forward.expand": "fc1",
    "feed_forward.contract": "fc2",
    "feed_forward_norm": "final_layer_norm",
}


def their_name(name: str) -> str:
    for ours, theirs in PARTS.items():
        name = name.replace(ours, theirs)
    return name


# ---------------------------------------------------------------------------------------------- ways to decode


def sources(size: Size, count: int) -> list[Features]:
    """Batches of sources of half the longest length and more, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, size.vocab, (count, LONGEST), generator=generator)
    lengths = torch.randint(LONGEST // 2, LONGEST + 1, (count, 1), generator=generator)
    valid = torch.arange(LONGEST) < lengths
    ids = ids.where(valid, PAD)
    return [
        {"ids": ids[start : start + size.batch], "valid": valid[start : start + size.batch]}
        for start in range(0, count, size.batch)
    ]


def ours(model: Model, batch: Features, size: Size) -> list[list[int]]:
    ids = torch.full((len(batch["ids"]), 1), BOS)
    session = Session(model, room=ROOM, source=batch)
    found = beam_search(
        session,
        ids,
        num_beams=NUM_BEAMS,
        num_samples=1,
        length_penalty=size.length_penalty,
        early_stopping=size.early_stopping,
        room=ROOM,
        eos=EOS,
        choice=Choice(no_repeat_ngram=size.no_repeat_ngram),
    )
    return [each.ids for (each,) in found]


def theirs(model: Any, batch: Features, size: Size) -> list[list[int]]:
    made = model.generate(
        batch["ids"],
        attention_mask=batch["valid"].long(),
        num_beams=NUM_BEAMS,
        do_sample=False,
        max_new_tokens=ROOM,
        length_penalty=size.length_penalty,
        early_stopping=size.early_stopping,
        no_repeat_ngram_size=size.no_repeat_ngram,
    )
    return [before_end(row[1:]) for row in made]


def before_end(row: Tensor) -> list[int]:
    ids = row.tolist()
    return ids[: ids.index(EOS)] if EOS in ids else ids


def compare(name: str, count: int, rounds: int, *, wall: bool) -> Result:
    size = SIZES[name]
    model = their_model(size)
    copy, batches = copied(model, size), sources(size, count)
    calls: Mapping[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: [text for batch in batches for text in ours(copy, batch, size)],
        "theirs": lambda: [text for batch in batches for text in theirs(model, batch, size)],
    }
    texts, others = (call() for call in calls.values())
    different = sum(one != other for one, other in zip(texts, others, strict=True))
    assert not different, f"{name}: {different} of {count} texts aren't the same"
    seconds = interleaved_times(calls, repeats=rounds, wall=wall)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    length = sum(map(len, texts)) / count
    shape = f"{size.layers} + {size.layers} layers, dim {size.dim}, vocabulary {size.vocab}, batch {size.batch}"
    return Result(f"{name}: {shape}", ratios, *seconds.values(), length)


# ---------------------------------------------------------------------------------------------- the table


def show(results: list[Result], count: int) -> Table:
    table = Table(f"beams of {NUM_BEAMS}, {count} sources", box=None, padding=(0, 2, 0, 0))
    for title in ("tokens a text", "ours, s", "theirs, s", "times faster", "min", "max"):
        table.add_column(title, justify="right")
    table.add_column("")
    for each in results:
        figures = median(each.ours), median(each.theirs), median(each.ratios), min(each.ratios), max(each.ratios)
        told = [f"{each.length:.1f}", *(f"{figure:.2f}" for figure in figures)]
        style = "" if each.reached else "red"
        table.add_row(each.what, *told, "reached" if each.reached else "MISSED", style=style)
    return table


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES), metavar="ROWS", help=", ".join(SIZES))
    parser.add_argument("--sources", type=int, default=256, metavar="N", help="default 256")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times that each takes its turn; default 5")
    parser.add_argument("--wall", action="store_true", help="take the time of day")
    parser.add_argument("--json", type=Path, help="a file to write everything to")
    chosen = parser.parse_args()
    for name in ("sources", "rounds"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name}: must be at least 1")
    if chosen.json is not None and not chosen.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {chosen.json.absolute().parent}")
    return chosen


def main() -> int:
    chosen = read_arguments()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    console, results = Console(highlight=False, width=None if sys.stdout.isatty() else 200), []
    started = time.monotonic()
    for name in chosen.only:
        results.append(compare(name, chosen.sources, chosen.rounds, wall=chosen.wall))
        console.print(f"[dim]{name} done after {time.monotonic() - started:.0f} s[/]")
    console.print(show(results, chosen.sources))
    if chosen.json is not None:
        found = {
            "benchmark": "seq2seq_beam",
            "environment": describe_environment(),
            "results": [asdict(result) | {"reached": result.reached} for result in results],
        }
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(result.reached for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
