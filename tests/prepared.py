"""What has to be there before a plugin can be tried, and what it can be tried with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugformer.registry import KINDS, build, find
from plugformer.testing.comparing import noise


def image_folder(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        name = folder / ("cat" if number % 2 else "dog") / f"{number}.{'png' if number % 3 else 'jpg'}"
        name.parent.mkdir(exist_ok=True)
        pixels = noise(9, 8 + number % 3, seed=number).mul(60).add(128).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(name)
    return {"root": folder}


def text_files(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"Number {number}.\n\nThe same everywhere.\n", encoding="utf-8")
    return {"paths": [f"{folder}/*.txt"]}


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


FEW = {"train_size": 100, "val_size": 20, "test_size": 20}


def listops(folder: Path) -> Mapping[str, Any]:
    return {**FEW, "max_depth": 4, "max_args": 5, "min_length": 5, "max_length": 60, "cache": folder}


def pathfinder(folder: Path) -> Mapping[str, Any]:
    return {**FEW, "contour_length": 6, "cache": folder}


def recall(folder: Path) -> Mapping[str, Any]:
    return {**FEW, "num_pairs": 2, "length": 8, "vocab_size": 32}


# What has to be there before a plugin can be built, or is quickly.
PREPARED = {
    ("data", made.__name__): made
    for made in (image_folder, text_files, csv, jsonl, parquet, hf, listops, pathfinder, recall)
}

# Vocabularies that a few words can fill.
for tokenizer, size in {"text_bpe": 280, "text_wordpiece": 80, "text_unigram": 32, "text_symbols": 14}.items():
    PREPARED["tokenizer", tokenizer] = lambda folder, size=size: {"vocab_size": size}

MODELS_OF_TEXT = {
    "bidirectional": ["backbone=encoder", "task=mlm"],
    "causal": ["backbone=decoder", "task=causal_lm"],
    "prefix": ["backbone=prefix_lm", "task=prefix_lm"],
}


def run_with(kind: str, name: str, folder: Path) -> list[str]:
    """Overrides of a run that this plugin takes part in, in place of the default, and others where it needs them."""
    folder.mkdir(exist_ok=True)
    made = PREPARED.get((kind, name), lambda folder: {})(folder)
    if kind == "tokenizer" and made:  # more text can fill more
        made = {"vocab_size": 300}
    chosen = [f"{kind}=[{name}]" if KINDS[kind].many else f"{kind}={name}"]
    chosen += [f"{kind}.{key}={json.dumps(value, default=str)}" for key, value in made.items()]
    if name == "text_symbols":  # which says so if texts are longer
        chosen.append("tokenizer.packing=fill")
    if name == "image_folder":  # whose images are of several sizes
        chosen.append("tokenizer.image_size=8")
    direction = direction_of_text(kind, name, made)
    if direction is None:
        return chosen
    texts = [] if kind == "data" else ["data=python_docs"]
    if name == "answers":  # which no other texts have
        texts = ["data=recall", *(f"data.{key}={value}" for key, value in recall(folder).items())]
    bytes_of_them = [] if kind == "tokenizer" else ["tokenizer=text_bytes"]
    return [*texts, *bytes_of_them, "tokenizer.max_length=16", *MODELS_OF_TEXT[direction], *chosen]


def direction_of_text(kind: str, name: str, options: Mapping[str, Any]) -> str | None:
    """Which models of text this plugin is for; None if it does without text."""
    cls = find(kind, name).load()
    if kind == "backbone":
        return None if cls.direction == "bidirectional" else cls.direction
    if kind == "task" and hasattr(cls, "needs"):  # others' needs depend on their options
        return min(cls.needs.directions)
    of_text = kind == "tokenizer" and cls.modality == "text"
    if kind == "data":
        of_text = "text" in build("data", {"name": name, **options}).spec.keys
    return "bidirectional" if of_text else None
