"""What a linear model reaches on a labelled audio source, with all labels and with few, and what a leak would add.

    python benchmarks/audio_baselines.py spoken_digits

Features are the logarithms of a mel spectrogram of each clip, 40 bands by windows of 25 ms every 10 ms, padded with
silence to the longest clip, averaged over 40 ms and standardised by train. They go into a logistic regression of
scikit-learn, whose regularisation is chosen on val. Figures are accuracies on the test; where samples or groups are
drawn, means and standard deviations over seeds. Few samples are those that `loader.train_share` draws.

In the random split, all samples are drawn anew, class by class, in parts of the same size: samples of one group stand
on both sides.
"""

import argparse
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import avg_pool1d, pad
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from plugformer.data.share import take_share
from plugformer.data.splits import SPLITS, split_by_label
from plugformer.interfaces import DataSource, Sample
from plugformer.registry import build

RATE = 16_000
REGULARISATIONS = (0.001, 0.01, 0.1, 1.0)
SMALLEST = 1e-6  # mel energy whose logarithm is taken for silence
POOLED = 4  # frames


class Part(NamedTuple):
    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __getitem__(self, chosen: object) -> "Part":  # type: ignore[override]
        return Part(*(array[chosen] for array in (self.features, self.labels, self.groups)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", nargs="?", default="spoken_digits", help="a data source with audio and labels; default spoken_digits"
    )
    parser.add_argument("options", nargs="*", help="its options, as in val_fraction=0.2")
    parser.add_argument("--share", type=float, default=0.1, help="what few labels are, of all")
    parser.add_argument("--seeds", type=int, default=3, help="of what is drawn")
    arguments = parser.parse_args()
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.options)}
    source: DataSource = build("data", {"name": arguments.data, **options})
    samples = {split: source.samples(split) for split in SPLITS}
    longest = max(frames(sample) for split in SPLITS for sample in samples[split])
    train, val, test = (read(samples[split], longest) for split in SPLITS)
    sizes = f"{len(train.labels)} train, {len(val.labels)} val, {len(test.labels)} test"

    table = Table("trained on", "samples", "test accuracy", title=f"{' '.join([arguments.data, *arguments.options])}")
    percent = f"{100 * arguments.share:g} %"
    seeds = range(arguments.seeds)
    rows = {"all": [train]}
    rows[f"{percent} of the samples"] = [train[few(train, arguments.share, seed)] for seed in seeds]
    if len(set(train.groups)) > 1:
        rows[f"{percent} of the groups"] = [train[few_groups(train, arguments.share, seed)] for seed in seeds]
    for name, parts in rows.items():
        add(table, name, [len(part.labels) for part in parts], [accuracy(part, val, test) for part in parts])
    redrawn = list(random_splits(train, val, test, seeds))
    add(table, "all, random split", [len(part[0].labels) for part in redrawn], [accuracy(*part) for part in redrawn])
    console = Console()
    console.print(table)
    console.print(f"{sizes} samples; {len(set(train.groups))} groups in train, {len(set(test.groups))} in test")
    console.print(f"fingerprint {source.fingerprint()}")


def frames(sample: Sample) -> int:
    """Of its waveform at `RATE`."""
    audio = sample["audio"]
    return -(-audio.waveform.shape[-1] * RATE // audio.rate)


def read(samples: Sequence[Sample], longest: int) -> Part:
    mel = MelSpectrogram(RATE, n_fft=512, win_length=RATE // 40, hop_length=RATE // 100, n_mels=40)
    features, labels, groups = [], [], []
    for sample in samples:
        audio = sample["audio"]
        waveform = resample(audio.waveform.mean(0), audio.rate, RATE)
        energies = mel(pad(waveform, (0, longest - len(waveform)))).clamp(min=SMALLEST).log()
        features.append(avg_pool1d(energies, POOLED).flatten().numpy())
        labels.append(sample["label"])
        groups.append(sample.get("group", sample["id"]))
    return Part(np.stack(features), np.array(labels), np.array(groups))


def few(part: Part, share: float, seed: int) -> list[int]:
    rows: list[Sample] = [{"id": str(place), "label": int(label)} for place, label in enumerate(part.labels)]
    return [int(sample["id"]) for sample in take_share(rows, share=share, seed=seed, labelled=True)]


def few_groups(part: Part, share: float, seed: int) -> np.ndarray:
    names = sorted(set(part.groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return np.isin(part.groups, [names[place] for place in order[: max(1, round(share * len(names)))]])


def random_splits(train: Part, val: Part, test: Part, seeds: Sequence[int]) -> Iterator[tuple[Part, Part, Part]]:
    everything = Part(*map(np.concatenate, zip(train, val, test, strict=True)))
    count = len(everything.labels)
    shares = {"val_fraction": len(val.labels) / count, "test_fraction": len(test.labels) / count}
    for seed in seeds:
        drawn = split_by_label(everything.labels.tolist(), **shares, seed=seed)
        yield everything[drawn["train"]], everything[drawn["val"]], everything[drawn["test"]]


def accuracy(train: Part, val: Part, test: Part) -> float:
    """On the test, of the model that is best on val."""
    scaler = StandardScaler().fit(train.features)
    x, x_val, x_test = (scaler.transform(part.features) for part in (train, val, test))
    fitted = [LogisticRegression(C=c, max_iter=2000).fit(x, train.labels) for c in REGULARISATIONS]
    best = max(fitted, key=lambda model: model.score(x_val, val.labels))
    return float(best.score(x_test, test.labels))


def add(table: Table, name: str, counts: list[int], accuracies: list[float]) -> None:
    spread = f" ± {stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    table.add_row(name, f"{mean(counts):.0f}", f"{mean(accuracies):.4f}{spread}")


if __name__ == "__main__":
    main()
