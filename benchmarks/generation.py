"""Decoding against its bars: transformers' on the same weights, without a cache, at other lengths, without a draft.

One CPU thread, greedy, float32. Time is CPU time of a token, that of reading the prompt taken off; those that are
compared take turns, and have to say the same tokens before they are timed; a ratio is the median over the rounds. Run
nothing else meanwhile: about five minutes, and three more for `compiled`.

    python benchmarks/generation.py [--only gpt2 llama …] [--model RUN --draft RUN] [--json FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from plugformer.assemble import build_model, load_run
from plugformer.cli.compose import compose
from plugformer.decode.choosing import Choice
from plugformer.decode.sampling import sample
from plugformer.decode.session import CacheKind, Session
from plugformer.decode.speculative import speculate
from plugformer.environment import describe_environment
from plugformer.errors import UserError
from plugformer.measure import interleaved_times
from plugformer.model import Model

VOCAB, PROMPT = 8192, 128
SIZES = {"6 × 384": (6, 384, 6), "12 × 768": (12, 768, 12)}  # layers, width, heads
Make = Callable[[int], Any]  # so many tokens after a prompt


@dataclass(frozen=True)
class Result:
    """One figure beside its bar.

    Attributes:
        bar: the least it has to be, or with `at_most` the most; None where it is for information.
    """

    what: str
    against: str
    figure: str
    bar: float | None
    ratios: list[float]
    note: str
    at_most: bool = False

    @property
    def reached(self) -> bool:
        measured = median(self.ratios)
        return self.bar is None or (measured <= self.bar if self.at_most else measured >= self.bar)


# ---------------------------------------------------------------------------------------------- models


def their_model(family: str, size: str) -> Any:
    layers, dim, heads = SIZES[size]
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # a text that never ends
    if family == "gpt2":
        shape = {"n_positions": 512, "n_embd": dim, "n_layer": layers, "n_head": heads}
        made = transformers.GPT2LMHeadModel._from_config(
            transformers.GPT2Config(vocab_size=VOCAB, **shape, **ids), attn_implementation="sdpa"
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 3,
            intermediate_size=8 * dim // 3,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **ids,
        )
        made = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    return made.eval()


def our_model(*overrides: str, length: int = 512) -> Model:
    tokens = ["tokenizer=text_bpe", f"tokenizer.vocab_size={VOCAB}", f"tokenizer.max_length={length}"]
    config = compose(["data=python_docs", *tokens, "backbone=decoder", "task=causal_lm", *overrides])
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    return build_model(config, tokenizer=tokenizer, data=source.spec).eval()


def copied(family: str, theirs: Any) -> Model:
    """Ours with their weights."""
    reader, config = build("family", {"name": family}), theirs.config.to_dict()
    model = our_model(*written(reader.composition(config)))
    model.load_state_dict(reader.read(theirs.state_dict(), config))
    return model


def written(composition: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """As overrides."""
    for kind, options in composition.items():
        yield f"{kind}={options['name']}"
        yield from (f"{kind}.{name}={json.dumps(value)}" for name, value in options.items() if name != "name")


def stand_in(layers: int = 12, dim: int = 512) -> tuple[Model, Model]:
    """A model of which all layers but the first add nothing, and that layer alone: a draft that is always right."""
    overrides = [f"backbone.dim={dim}", "backbone.num_heads=8", "position=rope", "block=pre_norm"]
    model, draft = (our_model(*overrides, f"backbone.num_layers={number}") for number in (layers, 1))
    with torch.no_grad():
        for block in model.trunk.backbone.blocks[1:]:  # type: ignore[union-attr,index]
            for last in (block.attention.output, block.feed_forward.contract):
                last.weight.zero_()
    draft.load_state_dict({name: value for name, value in model.state_dict().items() if name in draft.state_dict()})
    return model, draft


# ---------------------------------------------------------------------------------------------- ways to decode


def prompts(batch: int, length: int = PROMPT) -> Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


def decode(model: Model, ids: Tensor, new: int, *, cache: CacheKind = "growing", compile: bool = False) -> list[int]:
    session = Session(model, room=new, cache=cache, compile=compile)
    return [token for each in sample(session, ids, choice=Choice(), room=new) for token in each.ids]


def their_decode(model: Any, ids: Tensor, new: int, **options: Any) -> list[int]:
    lengths = {"max_new_tokens": new, "min_new_tokens": new}
    options = {"cache_implementation": "static", "do_sample": False, **lengths, **options}
    made = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return made[:, ids.shape[1] :].flatten().tolist()


def a_token(calls: Mapping[str, Make], *, new: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a token after the first, without reading the prompt; of equal tokens."""
    first, *others = (make(new) for make in calls.values())
    assert all(other == first for other in others), "not the same tokens"
    timed = {
        (name, count): (lambda make=make, count=count: make(count))
        for name, make in calls.items()
        for count in (1, new)
    }
    seconds = interleaved_times(timed, repeats=rounds)  # type: ignore[arg-type]
    return {
        name: [(long - short) / (new - 1) for short, long in zip(seconds[name, 1], seconds[name, new], strict=True)]  # type: ignore[index]
        for name in calls
    }


def faster(what: str, against: str, bar: float | None, seconds: Mapping[str, Sequence[float]]) -> Result:
    """How many times faster the first is than the second."""
    ours, theirs = seconds.values()
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Result(what, against, "times faster", bar, ratios, milliseconds(seconds))


def milliseconds(seconds: Mapping[Any, Sequence[float]]) -> str:
    return " : ".join(f"{1000 * median(each):.2f}" for each in seconds.values()) + " ms a token"


# ---------------------------------------------------------------------------------------------- the rows


def against_transformers(family: str, sizes: argparse.Namespace) -> Iterator[Result]:
    for size in SIZES:
        theirs = their_model(family, size)
        ours = copied(family, theirs)
        for batch in (1, 8):
            ids = prompts(batch)
            calls: dict[str, Make] = {
                "ours": lambda new, ours=ours, ids=ids: decode(ours, ids, new),
                "theirs": lambda new, theirs=theirs, ids=ids: their_decode(theirs, ids, new, disable_compile=True),
            }
            seconds = a_token(calls, new=sizes.new, rounds=sizes.rounds)
            bar = 1.0 if batch > 1 else None
            yield faster(f"{family} {size}, batch {batch}", "transformers, static cache", bar, seconds)


def gpt2(sizes: argparse.Namespace) -> Iterator[Result]:
    yield from against_transformers("gpt2", sizes)


def llama(sizes: argparse.Namespace) -> Iterator[Result]:
    yield from against_transformers("llama", sizes)


def compiled(sizes: argparse.Namespace) -> Iterator[Result]:
    """Both compiled; compilation is left out of the times."""
    size, ids = "6 × 384", prompts(8)
    theirs = their_model("llama", size)
    ours, forward = copied("llama", theirs), theirs.forward
    calls: dict[str, Make] = {
        "compiled": lambda new: decode(ours, ids, new, cache="fixed", compile=True),
        "plain": lambda new: decode(ours, ids, new),
    }
    seconds = a_token(calls, new=sizes.new, rounds=sizes.rounds)
    yield faster(f"llama {size}, batch 8, compiled", "itself, not compiled", None, seconds)
    theirs.forward = torch.compile(forward, dynamic=False)
    calls["plain"] = lambda new: their_decode(theirs, ids, new, max_length=None)
    seconds = a_token(calls, new=sizes.new, rounds=sizes.rounds)
    yield faster(f"llama {size}, batch 8, compiled", "transformers, static, compiled", None, seconds)


def cached(sizes: argparse.Namespace) -> Iterator[Result]:
    """A step at 512 tokens."""
    model, ids = our_model(*LLAMA_LIKE), prompts(1, 504)
    calls: dict[str, Make] = {
        "growing": lambda new: decode(model, ids, new),
        "none": lambda new: decode(model, ids, new, cache="none"),
    }
    seconds = a_token(calls, new=8, rounds=sizes.rounds)
    yield faster("6 × 384 at 512 tokens, cached", "without a cache", 8.0, seconds)


LLAMA_LIKE = (
    *("backbone.dim=384", "backbone.num_layers=6", "backbone.num_heads=6", "backbone.bias=false"),
    *("norm=rms", "position=rope", "feed_forward=glu"),
)


def constant(sizes: argparse.Namespace) -> Iterator[Result]:
    """Steps after a long prompt against steps after a short one."""
    token = prompts(1, 1)
    for attention in ("performer", "linear"):
        model = our_model(*LLAMA_LIKE, f"attention={attention}", length=16384)
        sessions = {}
        for length in (8192, 128):
            sessions[length] = Session(model, room=10_000)
            sessions[length].start(prompts(1, length - 1))
        steps = {length: (lambda each=each: each.step(token)) for length, each in sessions.items()}
        seconds = interleaved_times(steps, repeats=20 * sizes.rounds)  # type: ignore[arg-type]
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        note = milliseconds(seconds)
        yield Result(attention, "at 8,192 tokens against 128", "times its time", 1.1, ratios, note, at_most=True)


def speculative(sizes: argparse.Namespace) -> Iterator[Result]:
    """The stand-in shows what a perfect draft of a twelfth of the layers wins; a trained pair, what it is worth."""
    pairs = {"stand-in of 12 layers, 11 of which add nothing; draft: the first": (*stand_in(), prompts(1))}
    if sizes.model is not None:
        (tokenizer, model), (_, draft) = load_run(sizes.model), load_run(sizes.draft)
        ids = tokenizer.prompt("def read(path):\n    ")["ids"][None]
        pairs[f"{sizes.model}; draft: {sizes.draft}"] = (model, draft, ids)
    for what, (model, draft, ids) in pairs.items():
        accepted: list[str] = []

        def speculated(
            new: int, model: Model = model, draft: Model = draft, ids: Tensor = ids, accepted: list[str] = accepted
        ) -> list[int]:
            two = (Session(each, room=new + sizes.draft_tokens) for each in (model, draft))
            made = speculate(*two, ids, choice=Choice(), draft_tokens=sizes.draft_tokens, room=new)
            accepted[:] = [f"{made.accepted} of {made.proposed} accepted"]
            return made.continuation.ids

        calls: dict[str, Make] = {
            "speculative": speculated,
            "plain": lambda new, model=model, ids=ids: decode(model, ids, new),
        }
        speculated(sizes.new)
        told = accepted[0]
        seconds = a_token(calls, new=sizes.new, rounds=sizes.rounds)
        result = faster(what, "without a draft", 1.0 if what.startswith("stand-in") else None, seconds)
        yield Result(**{**asdict(result), "note": f"{result.note}; {told}"})


Rows = Callable[[argparse.Namespace], Iterator[Result]]
ROWS: dict[str, Rows] = {each.__name__: each for each in (gpt2, llama, cached, constant, speculative, compiled)}


# ---------------------------------------------------------------------------------------------- the table


def show(results: Sequence[Result]) -> Table:
    table = Table("decoding", "against", "figure", box=None, padding=(0, 2, 0, 0))
    for title in ("bar", "median", "min", "max"):
        table.add_column(title, justify="right")
    table.add_column("")
    table.add_column("")
    for each in results:
        bar = "" if each.bar is None else f"{'≤' if each.at_most else '≥'} {each.bar:g}"
        figures = (f"{value:.2f}" for value in (median(each.ratios), min(each.ratios), max(each.ratios)))
        verdict = "" if each.bar is None else "reached" if each.reached else "MISSED"
        style = "" if each.reached else "red"
        table.add_row(each.what, each.against, each.figure, bar, *figures, verdict, each.note, style=style)
    return table


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in ROWS if name != "compiled"]
    parser.add_argument("--only", nargs="+", choices=ROWS, default=usual, metavar="ROWS", help=", ".join(ROWS))
    sizes = {
        "new": (64, 2, "tokens that are made, 2 or more; `cached` and `constant` have numbers of their own"),
        "rounds": (3, 1, "times that each takes its turn"),
        "draft-tokens": (4, 1, "that a draft proposes at a time, for `speculative`"),
    }
    for name, (default, _, told) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{told}; default {default}")
    parser.add_argument("--model", type=Path, help="a run directory, for `speculative`")
    parser.add_argument("--draft", type=Path, help="that of a smaller run of the same tokenizer")
    parser.add_argument("--json", type=Path, help="a file to write everything to")
    chosen = parser.parse_args()
    for name, (_, least, _) in sizes.items():
        if getattr(chosen, name.replace("-", "_")) < least:
            parser.error(f"--{name}: must be at least {least}")
    if (chosen.model is None) != (chosen.draft is None):
        parser.error("--model and --draft go together")
    if chosen.model is not None and "speculative" not in chosen.only:
        parser.error("--model and --draft are for `speculative`, which is not among --only")
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
        try:
            results += ROWS[name](chosen)
        except UserError as error:
            console.print(f"[red]{name}: {error}[/]")
            return 2
        console.print(f"[dim]{name} done after {time.monotonic() - started:.0f} s[/]")
    console.print(show(results))
    found = {
        "benchmark": "generation",
        "environment": describe_environment(),
        "results": [asdict(result) | {"reached": result.reached} for result in results],
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(not all(result.reached for result in results))


if __name__ == "__main__":
    sys.exit(main())
