"""Drum hits of Debian's hydrogen-drumkits: a table for data=audio_csv, what a linear model reaches, folds pooled.

    apt-get download hydrogen-drumkits && dpkg-deb -x hydrogen-drumkits_*.deb kits
    python benchmarks/drumkits.py table kits drums.csv --seconds 1.6
    python benchmarks/drumkits.py linear drums.csv
    plugformer train -m experiment=audio_folder data=audio_csv data.paths=[drums.csv] data.label_column=label \\
        data.group_column=group data.folds=12 data.fold=0,1,2,3,4,5,6,7,8,9,10,11 run_dir=runs/drums …
    python benchmarks/drumkits.py pool runs/drums/*/

The options that the figures in docs/benchmarks.md were measured with stand there.

`table` writes path, label and group of each hit, and with --seconds the hits themselves, without their tails. A hit
is one recording that a `drumkit.xml` names: an instrument's layers are strokes of different strength, each in a file
of its own. A file that serves several instruments (a tom played at other pitches) is one hit. The label is the
instrument's name, not the file's; the group is the kit.

`linear` fits a logistic regression (scikit-learn's defaults, on standardised mel features), honestly: leaving one kit
out, which says what a new kit would get; and on a random split of five folds, where a kit's other strokes give the
answer away. Figures are of all predictions pooled; balanced accuracy is the mean of the classes' recalls.

`pool` adds up the test confusion matrices of a sweep's runs and says the same of them.
"""

import argparse
import csv
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from plugformer.data.audio import read_audio
from plugformer.errors import UserError

LABELS = {
    "kick": r"kick|bass ?drum",
    "snare": r"snare",
    "hi-hat": r"hi-?\s?hat|\bhat\b|\bo?hh\b",
    "tom": r"\btom",
    "cymbal": r"ride|crash|splash|china|cymbal|paiste bell",
}
RATE = 22050
MEL = MelSpectrogram(RATE, n_fft=1024, hop_length=220, n_mels=40)
SEGMENTS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # their ends, in seconds from the onset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("table", help="write the CSV file")
    command.add_argument("folder", type=Path, help="where the package was unpacked")
    command.add_argument("table", type=Path, help="the file to write")
    command.add_argument("--seconds", type=float, help="cut hits to, in files of their own beside the table")
    command = commands.add_parser("linear", help="logistic regression on mel features")
    command.add_argument("table", type=Path)
    command = commands.add_parser("pool", help="one figure for the folds of a sweep")
    command.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        if arguments.command == "table":
            write_table(arguments.folder, arguments.table, seconds=arguments.seconds)
        elif arguments.command == "linear":
            linear(arguments.table)
        else:
            pool(arguments.runs)
    except (UserError, OSError) as error:
        raise SystemExit(str(error)) from None


# ---------------------------------------------------------------------------------------------- table


def write_table(folder: Path, table: Path, *, seconds: float | None) -> None:
    hits: dict[Path, tuple[str, str]] = {}
    for kit in sorted(folder.rglob("drumkit.xml")):
        hits |= {path: (label, kit.parent.name) for path, label in read_kit(kit)}
    if not hits:
        raise UserError(f"{folder}: holds no drumkit.xml with drums in it.")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        for path, (label, group) in hits.items():
            file_of_it = path if seconds is None else cut(path, folder, table.with_suffix(""), seconds)
            writer.writerow([os.path.relpath(file_of_it, table.parent), label, group])
    kits = {group for _, group in hits.values()}
    print(f"{table}: {len(hits)} hits, {len(kits)} kits")


def cut(path: Path, folder: Path, clips: Path, seconds: float) -> Path:
    """The beginning of a recording at one rate, as a file under `clips`: a long tail would be decoded every epoch."""
    waveform, rate = read_audio(path)
    beginning = resample(waveform[:, : round(seconds * rate)], rate, RATE)
    cut_to = (clips / path.relative_to(folder)).with_suffix(".wav")
    cut_to.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(cut_to, beginning.T.numpy(), RATE, subtype="FLOAT")
    return cut_to


def read_kit(path: Path) -> Iterator[tuple[Path, str]]:
    """Path and label of each recording of a drum; layers of old kits stand in the instrument itself."""
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # some kits have a namespace
    for instrument in root.iter("instrument"):
        name = (instrument.findtext("name") or "").lower()
        labels = [label for label, pattern in LABELS.items() if re.search(pattern, name)]
        assert len(labels) < 2, f"{path}: {name} is {labels}"
        for element in instrument.iter("filename"):
            file = path.parent / (element.text or "")
            if labels and file.is_file():
                yield file, labels[0]


# ---------------------------------------------------------------------------------------------- linear


def linear(table: Path) -> None:
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels, kits = (np.array([row[column] for row in rows]) for column in ("label", "group"))
    frames = [log_mel(table.parent / row["path"]) for row in rows]
    shown = {"largest": confusion_matrix(labels, np.full_like(labels, majority(labels)))}
    for name, summarise in {"moments": moments, "segments": segments}.items():
        features = np.stack([summarise(own) for own in frames])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        honest = cross_val_predict(model, features, labels, groups=kits, cv=LeaveOneGroupOut())
        random = cross_val_predict(model, features, labels, cv=StratifiedKFold(5, shuffle=True, random_state=0))
        shown[f"{name}, honest"] = confusion_matrix(labels, honest)
        shown[f"{name}, random"] = confusion_matrix(labels, random)
    show(shown, sorted(set(labels)), f"{len(rows)} hits, {len(set(kits))} kits")


def log_mel(path: Path) -> np.ndarray:
    """`[bands, frames]` from the onset on; all hits are as loud as each other, and long enough."""
    waveform, rate = read_audio(path)
    waveform = resample(waveform.mean(0), rate, RATE)
    waveform = waveform / waveform.abs().max()
    onset = int((waveform.abs() > 0.05).nonzero()[0, 0])
    waveform = torch.nn.functional.pad(waveform[onset:], (0, int(RATE * SEGMENTS[-1])))
    return (MEL(waveform) + 1e-6).log().numpy()


def moments(frames: np.ndarray) -> np.ndarray:
    """Mean and deviation of each band over the first second."""
    frames = frames[:, : RATE // MEL.hop_length]
    return np.concatenate([frames.mean(1), frames.std(1)])


def segments(frames: np.ndarray) -> np.ndarray:
    """The mean spectrum of each segment: how a hit sounds, and how it fades."""
    ends = [round(end * RATE / MEL.hop_length) for end in SEGMENTS]
    return np.concatenate([frames[:, start:end].mean(1) for start, end in pairwise([0, *ends])])


def majority(labels: np.ndarray) -> str:
    names, counts = np.unique(labels, return_counts=True)
    return str(names[counts.argmax()])


# ---------------------------------------------------------------------------------------------- pool


def pool(runs: list[Path]) -> None:
    total, names = np.zeros(()), list[str]()
    for run in runs:
        path = run / "test_confusion_matrix.csv"
        if not path.is_file():
            raise UserError(f"{run}: holds no {path.name}; is it a run that has ended?")
        with path.open(newline="", encoding="utf-8") as file:
            (_, *found), *rows = csv.reader(file)
        if names and found != names:
            raise UserError(f"{run}: its classes are {', '.join(found)}, those of {runs[0]} are {', '.join(names)}.")
        names = found
        total = total + np.array([[float(count) for count in row[1:]] for row in rows])
    show({f"{len(runs)} runs pooled": total}, names, f"{total.sum():.0f} test samples")


def show(confusions: dict[str, np.ndarray], names: list[str], title: str) -> None:
    table = Table("", "accuracy", "balanced", *names, title=f"{title}; recall of each class")
    for model, counts in confusions.items():
        recalls = counts.diagonal() / counts.sum(1)
        figures = (counts.trace() / counts.sum(), recalls.mean(), *recalls)
        table.add_row(model, *(f"{figure:.3f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
