"""What has to be there before a plugin can be tried, and what it can be tried with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polib
import pytest
import soundfile
from PIL import Image
from tests.torchvision_files import mnist

from plugformer.registry import KINDS, OTHERS, build, find
from plugformer.run_dir import RunDir
from plugformer.testing.comparing import noise


def image_folder(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        name = folder / ("cat" if number % 2 else "dog") / f"{number}.{'png' if number % 3 else 'jpg'}"
        name.parent.mkdir(exist_ok=True)
        pixels = noise(9, 8 + number % 3, seed=number).mul(60).add(128).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(name)
    return {"root": folder}


def audio_folder(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        name = folder / ("clap" if number % 2 else "snap") / f"{number}.{'wav' if number % 3 else 'flac'}"
        name.parent.mkdir(exist_ok=True)
        soundfile.write(name, noise(800 + 90 * (number % 4), 1 + number % 2, seed=number).mul(0.1).numpy(), 8000)
    return {"root": folder}


def speech_commands(folder: Path) -> Mapping[str, Any]:
    """Six clips of each of three words by as many speakers, in the published layout."""
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for number in range(18):
        word, speaker = ("no", "yes", "zero")[number % 3], number // 3
        name = f"{word}/{speaker:08x}_nohash_0.wav"
        (folder / word).mkdir(exist_ok=True)
        soundfile.write(folder / name, noise(800, seed=number).mul(0.1).numpy(), 16_000)
        for held_out in [list(lists)[speaker]] if speaker < 2 else []:
            lists[held_out].append(name)
    for name, entries in lists.items():
        (folder / name).write_text("\n".join(entries) + "\n", encoding="utf-8")
    (folder / "_background_noise_").mkdir()
    for name in ("hum", "hiss"):
        soundfile.write(folder / "_background_noise_" / f"{name}.wav", noise(20_000, seed=99).mul(0.1).numpy(), 16_000)
    return {"root": folder, "words": ["no", "yes"], "unknown": True, "silence": True}


def torchvision(folder: Path) -> Mapping[str, Any]:
    mnist(folder)
    return {"dataset": "MNIST", "root": folder}


def text_files(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"Number {number}.\n\nThe same everywhere.\n", encoding="utf-8")
    return {"paths": [f"{folder}/*.txt"]}


def python_source(folder: Path) -> Mapping[str, Any]:
    return {"max_bytes": 200_000}


ROWS = {
    "text": [f"Text {n % 40}." for n in range(60)],
    "kind": [str(n % 3) for n in range(60)],
    "by": [n % 20 for n in range(60)],
}
COLUMNS = {"label_column": "kind", "group_column": "by"}


def csv(folder: Path) -> Mapping[str, Any]:
    lines = [",".join(ROWS), *(",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True))]
    (folder / "table").write_text("\n".join(lines), encoding="utf-8")
    return {"paths": [f"{folder}/table"], **COLUMNS}


def jsonl(folder: Path) -> Mapping[str, Any]:
    lines = [json.dumps(dict(zip(ROWS, row, strict=True))) for row in zip(*ROWS.values(), strict=True)]
    (folder / "table").write_text("\n".join(lines), encoding="utf-8")
    return {"paths": [f"{folder}/table"], **COLUMNS}


def parquet(folder: Path) -> Mapping[str, Any]:
    pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(ROWS), folder / "table")
    return {"paths": [f"{folder}/table"], **COLUMNS}


def hf(folder: Path) -> Mapping[str, Any]:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(ROWS).save_to_disk(str(folder / "saved"))
    return {"dataset": str(folder / "saved"), **COLUMNS}


def parallel_text(folder: Path) -> Mapping[str, Any]:
    """Two files whose lines go together; some sources stand there twice."""
    lines = {"en": [f"Number {n % 40}." for n in range(60)], "ko": [f"{n % 40}번." for n in range(60)]}
    for language, texts in lines.items():
        (folder / f"corpus.{language}").write_text("\n".join(texts), encoding="utf-8")
    return {"source": [f"{folder}/corpus.en"], "target": [f"{folder}/corpus.ko"]}


def gettext(folder: Path) -> Mapping[str, Any]:
    """A written and a compiled catalog of Korean, and one of Greek."""
    for language in ("ko", "el"):
        catalog = polib.POFile()
        catalog.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Plural-Forms": "nplurals=1; plural=0;"}
        for n in range(30):
            catalog.append(polib.POEntry(msgid=f"%(name)s has no {n}", msgstr=f"%(name)s {language} {n}"))
        catalog.append(polib.POEntry(msgid="%d file", msgid_plural="%d files", msgstr_plural={0: f"%d {language}"}))
        place = folder / "locale" / language / "LC_MESSAGES"
        place.mkdir(parents=True)
        catalog.save(str(place / "app.po"))
        catalog.save_as_mofile(str(place / "app.mo"))
    return {"root": folder, "language": "ko"}


def code_docstrings(folder: Path) -> Mapping[str, Any]:
    return {"max_source": 200, "max_target": 60}


def audio_rows(folder: Path) -> list[dict[str, Any]]:
    """Thirty clips of ten speakers beside their table."""
    rows = [
        {"path": f"{n}.wav", "kind": "ab"[n % 2], "said": f"Word {n % 3}", "by": f"speaker {n % 10}"} for n in range(30)
    ]
    for number, row in enumerate(rows):
        soundfile.write(folder / row["path"], noise(800 + 90 * (number % 4), seed=number).mul(0.1).numpy(), 8000)
    return rows


COLUMNS_OF_AUDIO = {**COLUMNS, "text_column": "said"}


def audio_csv(folder: Path) -> Mapping[str, Any]:
    rows = audio_rows(folder)
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "table").write_text("\n".join(lines), encoding="utf-8")
    return {"paths": [f"{folder}/table"], **COLUMNS_OF_AUDIO}


def audio_jsonl(folder: Path) -> Mapping[str, Any]:
    (folder / "table").write_text("\n".join(map(json.dumps, audio_rows(folder))), encoding="utf-8")
    return {"paths": [f"{folder}/table"], **COLUMNS_OF_AUDIO}


def audio_text(folder: Path) -> Mapping[str, Any]:
    """Clips beside what is said in them."""
    for row in audio_rows(folder):
        (folder / row["path"]).with_suffix(".txt").write_text(f"{row['said']} of {row['path']}.\n", encoding="utf-8")
    return {"root": folder, "file": "{name}.wav"}


def image_text(folder: Path) -> Mapping[str, Any]:
    """Images of one size, named in a table with their captions."""
    rows = [{"path": f"{number}.png", "text": f"Noise {number // 2}."} for number in range(30)]
    for number, row in enumerate(rows):
        pixels = noise(8, 8, seed=number).mul(60).add(128).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(folder / row["path"])
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"paths": [f"{folder}/captions.jsonl"]}


def spoken_text(folder: Path) -> Mapping[str, Any]:
    pytest.importorskip("espeakng_loader")
    few = {"voices": ["f1", "f3", "m1", "klatt", "whisper"], "size": 20}
    return {**few, "val_fraction": 0.2, "test_fraction": 0.2, "cache": folder}


def spoken_digits(folder: Path) -> Mapping[str, Any]:
    pytest.importorskip("espeakng_loader")
    few = {"voices": ["f1", "f3", "m1", "klatt", "whisper"], "accents": ["en-us"]}
    return {**few, "val_fraction": 0.2, "test_fraction": 0.2, "cache": folder}


FEW = {"train_size": 100, "val_size": 20, "test_size": 20}


def listops(folder: Path) -> Mapping[str, Any]:
    return {**FEW, "max_depth": 4, "max_args": 5, "min_length": 5, "max_length": 60, "cache": folder}


def pathfinder(folder: Path) -> Mapping[str, Any]:
    return {"train_size": 30, "val_size": 10, "test_size": 10, "contour_length": 6, "cache": folder}


def recall(folder: Path) -> Mapping[str, Any]:
    return {**FEW, "num_pairs": 2, "length": 8, "vocab_size": 32}


# What has to be there before a plugin can be built, or is quickly.
PREPARED = {
    ("data", made.__name__): made
    for made in (
        image_folder,
        torchvision,
        audio_folder,
        audio_csv,
        audio_jsonl,
        speech_commands,
        audio_text,
        spoken_text,
        image_text,
        spoken_digits,
        text_files,
        python_source,
        csv,
        jsonl,
        parquet,
        hf,
        parallel_text,
        gettext,
        code_docstrings,
        listops,
        pathfinder,
        recall,
    )
}


def read_tensorboard(run: RunDir) -> str:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return "\n".join(f"{tag} {event.value}" for tag in events.Tags()["scalars"] for event in events.Scalars(tag))


def read_mlflow(run: RunDir) -> str:
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{run.path / 'mlflow' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'plugformer'")
    (found,) = client.search_runs([experiment.experiment_id])
    history = [each for name in found.data.metrics for each in client.get_metric_history(found.info.run_id, name)]
    return "\n".join(f"{each.key} {each.value}" for each in history)


# What a logger wrote, where that isn't text.
WRITTEN = {"tensorboard": read_tensorboard, "mlflow": read_mlflow}

# Trackers.
PREPARED["logger", "wandb"] = lambda folder: {"mode": "offline"}
for package in WRITTEN:
    PREPARED["logger", package] = lambda folder, package=package: pytest.importorskip(package) and {}

# Vocabularies that a few words can fill.
for tokenizer, size in {"text_bpe": 280, "text_wordpiece": 80, "text_unigram": 32, "text_symbols": 14}.items():
    PREPARED["tokenizer", tokenizer] = lambda folder, size=size: {"vocab_size": size}

MODELS_OF_TEXT = {
    "bidirectional": ["backbone=encoder", "task=mlm"],
    "causal": ["backbone=decoder", "task=causal_lm"],
    "prefix": ["backbone=prefix_lm", "task=prefix_lm"],
    # Writing takes long.
    "encoder_decoder": [
        "backbone=encoder_decoder",
        "task=seq2seq",
        "task.max_new_tokens=8",
        "loader.eval_batch_size=8",
    ],
}
# What tasks need besides what their direction tells.
FOR_TASK = {
    "answers": lambda folder: ["data=recall", *(f"data.{key}={value}" for key, value in recall(folder).items())],
    "seq2seq": lambda folder: ["task.max_new_tokens=8", "loader.eval_batch_size=8"],
    "denoise": lambda folder: ["data=python_docs", "tokenizer.sentinels=8"],
    # A column for each label.
    "ctc": lambda folder: [
        "data=digits",
        "tokenizer=vit_patch",
        "tokenizer.patch_size=1",
        "target_tokenizer=text_bytes",
    ],
}
WRITES = [*MODELS_OF_TEXT["encoder_decoder"], "target_tokenizer=text_bytes", "target_tokenizer.max_length=64"]


def run_with(kind: str, name: str, folder: Path) -> list[str]:
    """Overrides of a run that this plugin takes part in, in place of the default, and others where it needs them."""
    folder.mkdir(exist_ok=True)
    if kind in OTHERS:
        chosen = ["data=hangul_names", "tokenizer=text_bytes", "tokenizer.max_length=16"]
        made = PREPARED.get((OTHERS[kind].plugins_of, name), lambda folder: {})(folder)
        made = {**made, "min_frequency": 1} if made else made  # every name stands there once
        options = [f"{kind}.{key}={json.dumps(value, default=str)}" for key, value in made.items()]
        return [*chosen, *MODELS_OF_TEXT["encoder_decoder"], f"{kind}={name}", *options]
    made = PREPARED.get((kind, name), lambda folder: {})(folder)
    if kind == "tokenizer" and made:  # more text can fill more
        made = {"vocab_size": 300}
    chosen = [f"{kind}=[{name}]" if KINDS[kind].many else f"{kind}={name}"]
    place = f"{kind}.{name}" if KINDS[kind].many else kind
    chosen += [f"{place}.{key}={json.dumps(value, default=str)}" for key, value in made.items()]
    if name == "text_symbols":  # which says so if texts are longer
        chosen.append("tokenizer.packing=fill")
    if name == "torchvision":  # whose images have more pixels
        chosen.append("tokenizer.patch_size=7")
    if name == "code_docstrings":  # whose targets are longer
        chosen.append("tokenizer.max_length=64")
    if name == "image_folder":  # whose images are of several sizes
        chosen.append("tokenizer.image_size=8")
    if kind == "tokenizer" and find(kind, name).load().modality == "audio":
        chosen += ["data=audio_folder", *(f"data.{key}={value}" for key, value in audio_folder(folder).items())]
    if kind == "data" and "audio" in build("data", {"name": name, **made}).spec.keys:
        chosen.append("tokenizer=spectrogram")
    if kind == "task" and name == "ctc":
        return [*chosen, *FOR_TASK[name](folder)]
    if kind == "data" and not {"text", "label"} & build("data", {"name": name, **made}).spec.keys:
        return [*WRITES, *chosen]
    direction = direction_of_text(kind, name, made)
    if direction is None:
        return chosen
    texts = [] if kind == "data" else ["data=hangul_names" if direction == "encoder_decoder" else "data=python_docs"]
    more = FOR_TASK[name](folder) if kind == "task" and name in FOR_TASK else []
    bytes_of_them = [] if kind == "tokenizer" else ["tokenizer=text_bytes"]
    model = MODELS_OF_TEXT[direction][: 1 if kind == "task" else None]  # its backbone
    return [*texts, *bytes_of_them, "tokenizer.max_length=16", *model, *chosen, *more]


def direction_of_text(kind: str, name: str, options: Mapping[str, Any]) -> str | None:
    """Which models of text this plugin is for; None if it does without text."""
    cls = find(kind, name).load()
    if kind == "backbone":
        return None if cls.direction == "bidirectional" else cls.direction
    if kind == "task" and hasattr(cls, "needs"):  # others' needs depend on their options
        return min(cls.needs.directions) if "discrete" in cls.needs.token_kinds else None
    of_text = kind == "tokenizer" and cls.modality == "text"
    if kind == "data":
        keys = build("data", {"name": name, **options}).spec.keys
        if {"text", "target_text"} <= keys:
            return "encoder_decoder"
        of_text = "text" in keys
    return "bidirectional" if of_text else None
