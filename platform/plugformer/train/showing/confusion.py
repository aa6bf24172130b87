"""Which classes are taken for which, as a picture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from plugformer.interfaces import Confusion
from plugformer.train.showing.panels import (
    LINE,
    MARGIN,
    coloured,
    enlarged,
    font,
    save,
    wrapped,
    write,
    write_upwards,
)

MOST = 24  # classes that are shown
CELL = 30  # pixels of a cell, as a rule
LABEL = 14  # characters of a class's name


def draw_confusion(confusion: Confusion, path: Path) -> str:
    """Write it as a PNG: a row for each true class, a column for each predicted one, coloured by the share of the row.

    Of many classes only those are drawn that are confused most. Back comes its title.
    """
    chosen = most_confused(confusion, MOST)
    counts = counts_of(confusion, chosen)
    total, right = int(confusion.counts.sum()), confusion.pairs[:, 0] == confusion.pairs[:, 1]
    title = f"{int(confusion.counts[right].sum()):,} of {total:,} right"
    if len(chosen) < len(confusion.labels):
        title += f"; the {len(chosen)} of {len(confusion.labels):,} classes that are confused most"
    _draw([shortened(confusion.labels[each]) for each in chosen], counts, title, path)
    return title


def most_confused(confusion: Confusion, most: int) -> list[int]:
    """Numbers of the classes with the most mistakes, made of them or for them, in their order; all if they are few."""
    classes = len(confusion.labels)
    if classes <= most:
        return list(range(classes))
    mistakes = torch.zeros(classes, dtype=torch.long)
    wrong = (confusion.pairs[:, 0] != confusion.pairs[:, 1]).cpu()
    for side in (0, 1):
        mistakes.index_add_(0, confusion.pairs[:, side].cpu()[wrong], confusion.counts.cpu()[wrong])
    return mistakes.argsort(descending=True, stable=True)[:most].sort().values.tolist()


def counts_of(confusion: Confusion, chosen: list[int]) -> np.ndarray:
    """Int `[chosen, chosen]`: true by predicted class."""
    place = torch.full((len(confusion.labels),), -1)
    place[chosen] = torch.arange(len(chosen))
    rows, columns = place[confusion.pairs.cpu()].unbind(1)
    inside = (rows >= 0) & (columns >= 0)
    counts = torch.zeros(len(chosen), len(chosen), dtype=torch.long)
    counts[rows[inside], columns[inside]] = confusion.counts.cpu()[inside]
    return counts.numpy()


def shortened(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


def _draw(labels: list[str], counts: np.ndarray, title: str, path: Path) -> None:
    room = max(int(font().getlength(label)) for label in labels) + 8  # for names
    widest = int(font().getlength(f"{counts.max():,}")) + 8
    cell = max(CELL, widest)
    side = cell * len(labels)
    left, width = MARGIN + LINE + room, MARGIN + LINE + room + max(side, 150) + MARGIN
    head = wrapped(title, width - 2 * MARGIN)
    top = MARGIN + LINE * (len(head) + 1) + room
    image = Image.new("RGB", (width, top + side + MARGIN), "white")
    write(image, (MARGIN, MARGIN), head)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    image.paste(Image.fromarray(enlarged(coloured(shares), cell, cell)), (left, top))
    write(image, (left, MARGIN + LINE * len(head)), ["predicted"])
    write_upwards(image, (MARGIN, top + side), "true")
    for number, label in enumerate(labels):
        middle = number * cell + (cell - LINE) // 2
        write(image, (left - 6 - int(font().getlength(label)), top + middle), [label])
        write_upwards(image, (left + middle + 2, top - 4), label)
    _write_counts(image, counts, shares, cell, (left, top))
    save(image, path)


def _write_counts(
    image: Image.Image, counts: np.ndarray, shares: np.ndarray, cell: int, corner: tuple[int, int]
) -> None:
    """Into the cells, in black or white, whichever can be read there; nothing where nothing is."""
    draw = ImageDraw.Draw(image)
    for row, column in np.argwhere(counts).tolist():
        middle = corner[0] + column * cell + cell // 2, corner[1] + row * cell + cell // 2
        fill = "black" if shares[row, column] > 0.6 else "white"
        draw.text(middle, f"{counts[row, column]:,}", font=font(), fill=fill, anchor="mm")
