"""Tables of samples: what each is, and what a task makes of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from plugformer.data.draws import draw_as_it_is
from plugformer.data.encoded import EncodedSamples
from plugformer.interfaces import Batch, Sample, Tokenizer
from plugformer.model import Model
from plugformer.predict import spoken
from plugformer.track.media import Cell, MediaFile
from plugformer.train.showing.panels import Panel, draw_panels, picture
from plugformer.train.showing.raw import cut, raw_cells

Row = dict[str, Cell]

NAME = 100  # characters of a sample's


def load(loader: DataLoader[Batch], indices: Sequence[int]) -> Batch:
    """These samples of a loader's as one batch, encoded as in any evaluation."""
    assert loader.collate_fn is not None, "every loader has one"
    return loader.collate_fn([loader.dataset[draw_as_it_is(index)] for index in indices])


def sample_rows(
    model: Model,
    batch: Batch,
    samples: EncodedSamples,
    *,
    losses: Mapping[int, float],
    raw: Path,
    folder: Path,
) -> list[Row]:
    """A row for each sample of a batch, by the names of columns.

    Args:
        model: in evaluation mode.
        batch: on its device.
        samples: those of the split.
        losses: of samples by their index, as evaluation found them.
        raw: the folder for files of raw samples, which are the same at every step.
        folder: for the pictures of this step.
    """
    task, trunk = model.task, model.trunk
    shown = task.show(trunk, batch, task(trunk, batch), tokenizer=samples.tokenizer)
    rows: list[Row] = []
    for index, values in zip(batch["index"].tolist(), shown, strict=True):
        sample = samples.samples[index]
        row: Row = {"sample": name_of(sample, index), **raw_cells(sample, raw / f"{index:06d}")}
        for name, value in values.items():
            if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
                drawn = _draw(value, model, folder / f"{name}_{index:06d}.png")
                if drawn is not None:
                    row[name] = drawn
            else:
                row[name] = plain_cell(value, samples.tokenizer)
        row.pop("loss", None)
        row["loss"] = losses.get(index)
        rows.append(row)
    return rows


def name_of(sample: Sample, index: int) -> str:
    """Its id; where it has none, its place in the split."""
    return cut(sample.get("id", f"{index}"), NAME)


def plain_cell(value: Any, tokenizer: Tokenizer) -> Cell:
    """A text, a number or nothing; of anything else its JSON, with tokens as the tokenizer decodes them."""
    told = spoken(value, tokenizer)
    if isinstance(told, list | dict):
        told = json.dumps(told, ensure_ascii=False)
    return cut(told) if isinstance(told, str) else told


def as_table(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Names of columns, all that any row has, and the rows; the loss stands last."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "loss"]
    columns.append("loss")
    return columns, [[row.get(name) for name in columns] for row in rows]


def _draw(pictures: Mapping[str, Tensor], model: Model, path: Path) -> MediaFile | None:
    """Raw tokens `[length, token_dim]` by their captions, side by side; None where tokens have nothing to show."""
    embedding = model.trunk.embedding
    axes = embedding.picture_axes
    try:
        panels = [
            Panel(caption, picture(embedding.picture(raw[None])[0], chart=axes is not None))
            for caption, raw in pictures.items()
        ]
    except NotImplementedError:
        return None
    draw_panels(panels, path, axes=axes or ("", ""))
    return MediaFile("image", path, ", ".join(pictures))
