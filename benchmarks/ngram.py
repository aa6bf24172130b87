"""What a model without weights makes of a data source: bits per character and per byte of a 6-gram model.

    python benchmarks/ngram.py python_docs
    python benchmarks/ngram.py python_source max_bytes=3300000

Characters are predicted from the five before them, with Witten-Bell smoothing (Witten and Bell 1991, method C; the
interpolated form of Chen and Goodman 1999, section 2.4):

    P_k(c | h) = (count(h c) + types(h) · P_{k-1}(c | shorter h)) / (count(h) + types(h))

where `types(h)` is the number of different characters that followed `h` in train. At the end of the recursion stands
the uniform distribution over all of Unicode, so every text has a probability. Documents don't see each other.
"""

import argparse
import math
from collections.abc import Iterable

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from plugformer.interfaces import Sample
from plugformer.registry import build

NUM_CODE_POINTS = 0x110000


def characters(samples: Iterable[Sample], order: int) -> np.ndarray:
    """Code points of all texts, one after the other, behind `order - 1` times -1 each."""
    gap = np.full(order - 1, -1)
    texts = (np.frombuffer(sample["text"].encode("utf-32-le"), dtype=np.uint32).astype(np.int64) for sample in samples)
    return np.concatenate([part for text in texts for part in (gap, text)])


def log2_probabilities(train: np.ndarray, held_out: np.ndarray, *, order: int) -> np.ndarray:
    """Of each character of `held_out`, in the order they stand there.

    Every context gets a number: that of the one shorter by a character, and the character before, made dense again.
    """
    both = np.concatenate([train, held_out])
    places = np.flatnonzero(both >= 0)
    counted = places < len(train)
    symbol = np.unique(both[places], return_inverse=True)[1]
    num_symbols = int(symbol.max()) + 2
    probability = np.full((~counted).sum(), 1 / NUM_CODE_POINTS)
    context = np.zeros(len(places), dtype=np.int64)
    before_symbol = np.unique(both, return_inverse=True)[1]  # 0 stands for the gap
    for distance in range(order):
        if distance:
            longer = context * num_symbols + before_symbol[places - distance]
            context = np.unique(longer, return_inverse=True)[1]
        pairs, pair = np.unique(context * num_symbols + symbol, return_inverse=True)
        count_pair = np.bincount(pair[counted], minlength=len(pairs))
        count = np.bincount(context[counted], minlength=context.max() + 1)
        types = np.bincount(pairs[count_pair > 0] // num_symbols, minlength=len(count))
        own, of_pair = context[~counted], count_pair[pair[~counted]]
        total = count[own] + types[own]
        mixed = (of_pair + types[own] * probability) / np.maximum(total, 1)
        probability = np.where(total > 0, mixed, probability)
    return np.log2(probability)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data source with text, by name")
    parser.add_argument("options", nargs="*", help="its options, as in max_bytes=3300000")
    parser.add_argument("--order", type=int, default=6, help="characters of an n-gram")
    arguments = parser.parse_args()
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.options)}
    source = build("data", {"name": arguments.data, **options})
    title = f"{arguments.order}-gram, Witten-Bell · {' '.join([arguments.data, *arguments.options])}"
    table = Table("split", "documents", "characters", "bytes", "bits/char", "bits/byte", title=title)
    train = characters(source.samples("train"), arguments.order)
    table.add_row("train", *sizes(source.samples("train")), "", "")
    for split in ("val", "test"):
        samples = source.samples(split)
        held_out = characters(samples, arguments.order)
        bits = -log2_probabilities(train, held_out, order=arguments.order)
        num_bytes = sum(len(sample["text"].encode()) for sample in samples)
        assert math.isfinite(bits.sum())
        table.add_row(split, *sizes(samples), f"{bits.mean():.4f}", f"{bits.sum() / num_bytes:.4f}")
    Console().print(table)
    Console().print(f"fingerprint {source.fingerprint()}")


def sizes(samples: Iterable[Sample]) -> list[str]:
    texts = [sample["text"] for sample in samples]
    numbers = [len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts)]
    return [f"{number:,}" for number in numbers]


if __name__ == "__main__":
    main()
