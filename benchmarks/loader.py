"""Samples a second of Plugformer's training loader against a bare PyTorch DataLoader with the same transforms.

The bare one shuffles by PyTorch's own sampler, has the same tokenizer and task encode each sample, and collates; it
knows nothing of seeds that belong to draws, of ranks, or of going on within an epoch. Both have the same number of
workers, which live on between epochs. A round is an epoch of either; their order alternates, and the first round is
left out.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from plugformer.assemble import build_model, build_target_tokenizer
from plugformer.cli.compose import compose
from plugformer.config import Config
from plugformer.data.loaders import make_loader
from plugformer.interfaces import Batch, Sample, Targets, Tokenizer
from plugformer.registry import build
from plugformer.train.run import fit_tokenizers

KINDS = {
    "image": ["experiment=digits"],
    "larger image": ["experiment=digits", "tokenizer.image_size=64"],
    "text": ["experiment=docstring_classify", "tokenizer.vocab_size=1000"],
    "packed text": ["experiment=bert_docs", "tokenizer.vocab_size=1000"],
    "audio": ["experiment=spoken_digits"],
}


class Bare(Dataset[Any]):
    """Samples, encoded."""

    def __init__(self, samples: Sequence[Sample], tokenizer: Tokenizer, targets: Targets) -> None:
        self.samples, self.tokenizer, self.targets = samples, tokenizer, targets

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        sample = self.samples[index]
        inputs = self.tokenizer.encode(sample, augment=True)
        return inputs, self.targets.encode(sample, inputs), index

    def collate(self, encoded: Sequence[Any]) -> Any:
        inputs, targets, index = zip(*encoded, strict=True)
        batch = self.tokenizer.collate(inputs)
        mixed = self.tokenizer.mix(batch) if self.tokenizer.spec.mixes else batch
        return mixed, self.targets.collate(targets), torch.tensor(index)


def loaders(config: Config, *, count: int, workers: int) -> tuple[dict[str, Iterable[Batch]], int]:
    """Both, and the number of samples of an epoch."""
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    target = build_target_tokenizer(config, tokenizer)
    training = source.samples("train")
    few = [training[number] for number in range(min(count, len(training)))]
    fit_tokenizers(tokenizer, target, few, source=source)
    targets = build_model(config, tokenizer=tokenizer, data=source.spec, target_tokenizer=target).task.targets
    few, size = list(tokenizer.sequences(few)), config["loader"]["batch_size"]
    bare = Bare(few, tokenizer, targets)
    how = {"num_workers": workers, "persistent_workers": workers > 0}
    return {
        "Plugformer": make_loader(
            few, tokenizer=tokenizer, targets=targets, batch_size=size, num_workers=workers, seed=0
        ),
        "bare": DataLoader(bare, batch_size=size, shuffle=True, collate_fn=bare.collate, **how),  # type: ignore[arg-type]
    }, len(few)


def seconds(loader: Iterable[Batch]) -> float:
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"workers": 2, "samples": 2048, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("kinds", nargs="*", default=[], metavar="KIND", help=f"of {', '.join(KINDS)}; default all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in chosen.kinds or KINDS:
        config = compose(KINDS[kind])
        both, count = loaders(config, count=chosen.samples, workers=chosen.workers)
        speeds: dict[str, list[float]] = {name: [] for name in both}
        for number in range(chosen.rounds + 1):
            for name in list(both)[:: 1 if number % 2 else -1]:
                taken = seconds(both[name])
                if number:
                    speeds[name].append(count / taken)
        ratios = [ours / bare for ours, bare in zip(speeds["Plugformer"], speeds["bare"], strict=True)]
        rows.append({"kind": kind, "samples": count, "samples_per_second": speeds, "ratio": ratios})
    table = Table("data", "samples", "samples/s", "bare", "ratio, median", "min", "max")
    for row in rows:
        speed = [f"{median(row['samples_per_second'][name]):,.0f}" for name in ("Plugformer", "bare")]
        spread = [f"{each(row['ratio']):.3f}" for each in (median, min, max)]
        table.add_row(row["kind"], str(row["samples"]), *speed, *spread)
    Console().print(table)
    print(json.dumps({"benchmark": "loader", **vars(chosen), "rows": rows}))


if __name__ == "__main__":
    main()
