"""Arrays as PNG files: panels side by side, each with a caption, under a title. Quick, since many are drawn."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from plugformer.run_dir import replacing

MARGIN = 12  # pixels
LINE = 20  # between lines of text
SIZE = 14  # of letters
LETTER = 9  # of their width, at most, on the average of a line
NARROWEST = 150  # pixels of a column, so that there is room for a caption
SIDE = 256  # pixels that the longer side of a picture has at least, about
LONGEST = 1200  # and at most

STRIPES = np.array([[179, 188, 194], [236, 239, 241]], dtype=np.uint8)  # their colours

Pixels = np.ndarray  # uint8 [height, width, 3]


@dataclass(frozen=True)
class Panel:
    """
    Attributes:
        caption: above it.
        pixels: uint8 `[height, width, 3]`, drawn as they are.
    """

    caption: str
    pixels: Pixels


def draw_panels(panels: Sequence[Panel], path: Path, *, title: str = "", axes: tuple[str, str] = ("", "")) -> None:
    """Write a PNG, in one step.

    Args:
        panels: from left to right.
        path: of the file; its folder is made.
        title: above all of them.
        axes: what the height and the width of each stand for; empty for nothing.
    """
    columns = [max(panel.pixels.shape[1], NARROWEST) for panel in panels]
    captions = [wrapped(panel.caption, column) for panel, column in zip(panels, columns, strict=True)]
    left = MARGIN + (LINE if axes[0] else 0)
    width = left + sum(columns) + MARGIN * len(panels)
    head = wrapped(title, width - 2 * MARGIN)
    top = MARGIN + LINE * (len(head) + max(map(len, captions)))
    tallest = max(panel.pixels.shape[0] for panel in panels)
    height = top + tallest + MARGIN + (LINE if axes[1] else 0)
    image = Image.new("RGB", (width, height), "white")
    write(image, (MARGIN, MARGIN), head)
    start = left
    for panel, caption, column in zip(panels, captions, columns, strict=True):
        write(image, (start, top - LINE * len(caption) - 2), caption)
        image.paste(Image.fromarray(panel.pixels), (start, top))
        if axes[1]:
            write(image, (start, top + panel.pixels.shape[0] + 4), [axes[1]])
        start += column + MARGIN
    if axes[0]:
        write_upwards(image, (MARGIN - 4, top + panels[0].pixels.shape[0]), axes[0])
    save(image, path)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=False) as file:
        image.save(file, format="PNG", compress_level=1)  # of so plain pictures little remains anyway


def write(image: Image.Image, place: tuple[int, int], lines: Sequence[str]) -> None:
    """From this place on, left and top."""
    ImageDraw.Draw(image).multiline_text(place, "\n".join(lines), font=font(), fill="black", spacing=LINE - SIZE - 2)


def write_upwards(image: Image.Image, place: tuple[int, int], text: str) -> None:
    """From this place on, left and bottom, to be read with the head to the left."""
    if not text:
        return
    length = int(font().getlength(text)) + 2
    label = Image.new("RGB", (length, LINE), "white")
    write(label, (0, 0), [text])
    image.paste(label.rotate(90, expand=True), (place[0], place[1] - length))


def wrapped(text: str, width: int) -> list[str]:
    """Lines that fit into so many pixels."""
    return textwrap.wrap(text, max(1, width // LETTER))


@cache
def font() -> ImageFont.FreeTypeFont:
    """The one that comes with matplotlib, which knows most alphabets."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", SIZE)


# ---------------------------------------------------------------------------------------------- numbers to pixels


def picture(numbers: Float[Tensor, "channels height width"], *, chart: bool = False, least: int = SIDE) -> Pixels:
    """
    Args:
        numbers: from 0 to 1: one channel of shades or three of colour; NaN where nothing is shown, which gets stripes.
        chart: one channel in colours, from the bottom up, stretched as there is room; else an image.
        least: pixels that the longer side has at least, about.
    """
    values = numbers.detach().float().cpu().numpy()
    hidden = np.isnan(values).any(0)
    values = np.nan_to_num(values).clip(0, 1)
    if chart:
        pixels = coloured(values[0])[::-1]
        hidden = hidden[::-1]
        scales = [max(1, round(least / side)) for side in hidden.shape]
    else:
        pixels = (values if len(values) == 3 else values[:1].repeat(3, 0)).transpose(1, 2, 0)
        pixels = (pixels * 255).round().astype(np.uint8)
        scales = [max(1, round(least / max(hidden.shape)))] * 2
    pixels, hidden = (enlarged(each, *scales) for each in (pixels, hidden))
    pixels = np.where(hidden[..., None], stripes(*hidden.shape), pixels)
    return reduced(pixels, square=not chart)


def coloured(values: np.ndarray) -> Pixels:
    """Numbers from 0 to 1, `[height, width]`, in colours from dark to bright."""
    return (mpl.colormaps["viridis"](values)[..., :3] * 255).round().astype(np.uint8)


def enlarged(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Each number so many times."""
    return values.repeat(rows, 0).repeat(columns, 1)


def reduced(pixels: Pixels, *, square: bool) -> Pixels:
    """No side longer than is sensible; `square` pixels stay so."""
    height, width = pixels.shape[:2]
    shares = [min(1.0, LONGEST / side) for side in (height, width)]
    if min(shares) == 1:
        return np.ascontiguousarray(pixels)
    if square:
        shares = [min(shares)] * 2
    size = max(1, round(width * shares[1])), max(1, round(height * shares[0]))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def stripes(height: int, width: int) -> Pixels:
    """A pattern that no picture has, where nothing is shown."""
    diagonal = (np.arange(height)[:, None] + np.arange(width)) // 3 % 3 == 0
    return np.where(diagonal[..., None], STRIPES[0], STRIPES[1])
