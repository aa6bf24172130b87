"""Every registered plugin obeys the laws of its kind. A new entry point is picked up by itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugformer.registry import KINDS, offers
from plugformer.testing import SUITES, suite
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


# What has to be there before a plugin with options that have no default can be built.
PREPARED = {("data", made.__name__): made for made in (image_folder, text_files, csv, jsonl, parquet, hf)}

# Vocabularies that the few words of the suite can fill.
for tokenizer, size in {"text_bpe": 280, "text_wordpiece": 80, "text_unigram": 32}.items():
    PREPARED["tokenizer", tokenizer] = lambda folder, size=size: {"vocab_size": size}


def test_every_kind_has_a_suite() -> None:
    assert set(SUITES) == set(KINDS)


def make_class(kind: str, name: str) -> type:
    members: dict[str, Any] = {"name": name}
    if (kind, name) in PREPARED:
        members["prepare"] = lambda self, folder: PREPARED[kind, name](folder)
    return type(f"Test{kind.title()}_{name}", (suite(kind),), members)


for kind in SUITES:
    for name in offers(kind):
        made = make_class(kind, name)
        globals()[made.__name__] = made


@pytest.mark.parametrize("kind", KINDS)
def test_no_plugin_is_left_out(kind: str) -> None:
    assert offers(kind)
    for name in offers(kind):
        assert issubclass(globals()[f"Test{kind.title()}_{name}"], suite(kind))
