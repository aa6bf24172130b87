"""What there is to see of samples: of each one PNG, with its pictures side by side."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from plugformer.errors import UserError
from plugformer.run_dir import replacing

NAME = 150  # bytes of a file's name that are kept, so that there is room for more
DPI = 150
SIDE = 320  # pixels that the longer side of a panel has at least, about
LONGEST = 1200  # and at most
MARGIN = 18
LINE = 24  # pixels between lines of text
LETTER = 10.5  # pixels of its width, at most, on the average of a line
NARROWEST = 170  # pixels of a column, so that there is room for a caption

# Neither shade nor colour of a picture has a pattern: where nothing is shown, one shines through.
NOTHING: Any = {"facecolor": "#eceff1", "edgecolor": "#b3bcc2", "hatch": "////", "linewidth": 0}
STYLE: Any = {"font.family": "sans-serif", "font.size": 9, "hatch.linewidth": 0.7, "axes.linewidth": 0.6}


class Album:
    """A folder of PNG files, one an input, under the inputs' names."""

    def __init__(self, folder: Path, inputs: Sequence[str]) -> None:
        """
        Args:
            folder: made when the first picture comes.
            inputs: what the pictures will be of, in their order.
        """
        self.folder = folder
        self._names = iter(file_names(inputs))

    def add(
        self, pictures: Mapping[str, Float[Tensor, "channels height width"]], *, axes: tuple[str, str] | None
    ) -> Path:
        """Draw those of the next input, as `draw_pictures`.

        Raises:
            UserError: they can't be written.
        """
        path = self.folder / next(self._names)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw_pictures(pictures, path, axes=axes)
        except OSError as error:
            why = error.strerror or error
            raise UserError(
                f"pictures={self.folder}: {path.name} can't be written ({why}).\n  Choose another folder."
            ) from None
        return path


def file_names(inputs: Sequence[str]) -> list[str]:
    """A name for each input's PNG, of letters, digits and `._-`; no two are alike, in small letters or capitals."""
    names: list[str] = []
    taken: set[str] = set()
    for each in inputs:
        stem = re.sub(r"[^\w.-]+", "_", Path(each).stem).strip("._-")
        stem = stem.encode()[:NAME].decode(errors="ignore") or "picture"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def draw_pictures(
    pictures: Mapping[str, Float[Tensor, "channels height width"]], path: Path, *, axes: tuple[str, str] | None
) -> None:
    """Write a PNG, in one step.

    Args:
        pictures: by their captions, all of one size; from 0 to 1, NaN where nothing is shown.
        path: of the file.
        axes: as `Embedding.picture_axes`.
    """
    _, height, width = next(iter(pictures.values())).shape
    tall, wide = _panel_size(height, width, chart=axes is not None)
    column = max(wide, NARROWEST)
    captions = [textwrap.wrap(caption, int(column / LETTER)) for caption in pictures]
    top = MARGIN + LINE * max(map(len, captions))
    left, bottom = (MARGIN, MARGIN) if axes is None else (MARGIN + LINE, MARGIN + LINE)
    size = left + len(pictures) * (column + MARGIN), top + tall + bottom
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        for number, (caption, picture) in enumerate(zip(captions, pictures.values(), strict=True)):
            start = left + number * (column + MARGIN) + (column - wide) // 2
            panel = figure.add_axes((start / size[0], bottom / size[1], wide / size[0], tall / size[1]))
            _draw(panel, picture, axes)
            panel.set_title("\n".join(caption), fontsize=9, pad=5)
            if axes is not None and not number:
                panel.set_ylabel(axes[0], labelpad=4)
        with replacing(path) as file:
            figure.savefig(file, format="png")


def _panel_size(height: int, width: int, *, chart: bool) -> tuple[int, int]:
    """Height and width in pixels: whole multiples of the picture's where there is room; a chart may be stretched."""
    if chart:
        tall, wide = (side * max(1, round(SIDE / side)) for side in (height, width))
        return min(tall, LONGEST), min(wide, LONGEST)
    longer = max(height, width)
    scale = min(max(1, round(SIDE / longer)), LONGEST / longer)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _draw(panel: Axes, picture: Float[Tensor, "channels height width"], axes: tuple[str, str] | None) -> None:
    numbers = picture.detach().float().cpu().numpy()
    hidden = np.isnan(numbers).any(0)
    if len(numbers) == 1:
        shown: Any = np.ma.masked_array(numbers[0], hidden)
    else:
        shown = np.concatenate([np.nan_to_num(numbers), ~hidden[None]]).transpose(1, 2, 0)  # opaque, or not
    panel.patch.set(**NOTHING)
    panel.imshow(
        shown,
        cmap="gray" if axes is None else "viridis",
        vmin=0,
        vmax=1,
        origin="upper" if axes is None else "lower",
        interpolation="nearest",
        aspect="auto",
    )
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set_position(("outward", 0.3))  # beside the picture's numbers, not over them
    if axes is not None:
        panel.set_xlabel(axes[1], labelpad=4)
