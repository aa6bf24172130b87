"""Are two markers on one dashed curve? (Linsley et al. 2018; Tay et al. 2021, Long Range Arena.)"""

from collections.abc import Callable, Iterator, Sequence
from math import pi
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch

from plugformer.data.cache import Arrays
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Sample, Split
from plugformer_synthetic.distinct import distinct_splits
from plugformer_synthetic.generated import Generated
from plugformer_synthetic.snakes import Ground, Snake, Style, draw, move

VERSION = 1  # of what is generated: another number, other samples
PADDING = 1.0
DEAD_ENDS = 20  # of the two curves, before others are begun
TAKEN_BACK = 3  # dashes
DISTRACTOR_TRIALS = 4
PATIENCE = 2000  # pictures that come to nothing, before it is clear that all will


class Pathfinder(Generated):
    """Two dashed curves among shorter ones, and two round markers, each on an end of a curve: of the same or not?

    Numbers and steps are those of Long Range Arena's 32 × 32 pictures, in a generator of our own, so that figures are
    comparable in distribution only. A picture in which not exactly two markers can be seen is drawn anew. What was
    generated is kept in `cache`.

    Args:
        contour_length: dashes of the two curves: 6 is easy, 9 is intermediate and 14 is hard.
        distractor_length: dashes of the shorter curves; by default a third of `contour_length`.
        num_distractors: shorter curves, as far as there is room; by default 20 dashes of them in all.
        image_size: side of a picture in pixels.
        paddle_length: of a dash, in pixels.
        paddle_thickness: of a dash, in pixels.
        paddle_margin: half of the gap between dashes, and of the least distance between curves, in pixels.
        marker_radius: in pixels.
        seed_distance: of the first ends of the two curves, in pixels.
        continuity: how straight curves are; at 1, they turn by up to a right angle at each dash.
        contrast: brightness of what a dash covers, where 1 is white; more is cut off pixel by pixel.
        train_size: training samples.
        val_size: validation samples.
        test_size: test samples.
        sample_seed: decides the samples; apart from the run's seed, so that runs of several seeds share them.
        cache: the folder for what was generated; by default plugformer in the user's cache folder.

    Raises:
        UserError: numbers that can't be, or for which there is no room in a picture.
    """

    name = "pathfinder"

    def __init__(
        self,
        *,
        contour_length: int = 14,
        distractor_length: int | None = None,
        num_distractors: int | None = None,
        image_size: int = 32,
        paddle_length: float = 2.0,
        paddle_thickness: float = 0.5,
        paddle_margin: float = 1.0,
        marker_radius: float = 1.5,
        seed_distance: float = 7.0,
        continuity: float = 1.0,
        contrast: float = 1.5,
        train_size: int = 160_000,
        val_size: int = 20_000,
        test_size: int = 20_000,
        sample_seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        distractor_length = max(1, contour_length // 3) if distractor_length is None else distractor_length
        num_distractors = 20 // max(1, distractor_length) if num_distractors is None else num_distractors
        least = {"contour_length": (contour_length, 2), "distractor_length": (distractor_length, 1)}
        for name, (number, smallest) in {**least, "num_distractors": (num_distractors, 0)}.items():
            if number < smallest:
                raise UserError(f"data.{name}={number}: must be at least {smallest}.")
        lengths = {
            "image_size": image_size,
            "paddle_length": paddle_length,
            "paddle_thickness": paddle_thickness,
            "paddle_margin": paddle_margin,
            "marker_radius": marker_radius,
            "seed_distance": seed_distance,
            "continuity": continuity,
            "contrast": contrast,
        }
        for name, length in lengths.items():
            if length <= 0:
                raise UserError(f"data.{name}={length}: must be greater than 0.")
        style = Style(image_size, PADDING, paddle_length, paddle_thickness, paddle_margin, continuity, contrast)
        self.puzzle = Puzzle(style, contour_length, distractor_length, num_distractors, marker_radius, seed_distance)
        sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        super().__init__(sizes=sizes, sample_seed=sample_seed, cache=cache)

    @property
    def spec(self) -> DataSpec:
        size = self.puzzle.style.size
        return DataSpec(frozenset({"id", "image", "label"}), labels=("apart", "connected"), image=(1, size, size))

    def made_of(self) -> dict[str, object]:
        return {"version": VERSION, "puzzle": self.puzzle}

    def make(self) -> Arrays:
        drawn = distinct_splits(
            lambda seed: pictures(self.puzzle, seed),
            sizes=self.sizes,
            seed=self.sample_seed,
            key=lambda picture: picture.image.tobytes(),
            title="Generating pathfinder",
        )
        arrays: Arrays = {}
        for split, kept in drawn.items():
            arrays[f"{split}_images"] = np.stack([picture.image for picture in kept])
            arrays[f"{split}_labels"] = np.array([picture.connected for picture in kept], dtype=np.uint8)
        return arrays

    def samples(self, split: Split) -> Sequence[Sample]:
        return _Pictures(split, self.arrays[f"{split}_images"], self.arrays[f"{split}_labels"])


class _Pictures(Sequence[Sample]):
    """Those of a split."""

    def __init__(self, split: Split, images: np.ndarray, labels: np.ndarray) -> None:
        self.split = split
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        index = range(len(self))[index]
        image = torch.from_numpy(self.images[index][None].copy())
        return {"id": f"pathfinder/{self.split}/{index}", "image": image, "label": int(self.labels[index])}


# ---------------------------------------------------------------------------------------------- pictures


class Puzzle(NamedTuple):
    """What a picture holds; lengths of curves in dashes, others in pixels."""

    style: Style
    contour_length: int
    distractor_length: int
    num_distractors: int
    marker_radius: float
    seed_distance: float


class Picture(NamedTuple):
    """uint8 `[size, size]`, and whether its markers are on one curve."""

    image: np.ndarray
    connected: bool


def pictures(puzzle: Puzzle, seed: int) -> Iterator[Picture]:
    """Without end; half of them, as a coin falls, are connected.

    Raises:
        UserError: there is no room for the curves.
    """
    random = Random(seed).random
    while True:
        connected = bool(random() < 0.5)
        for _ in range(PATIENCE):
            image = _draw(puzzle, random, connected=connected)
            if image is not None and count_markers(image, puzzle.marker_radius) == 2:
                yield Picture(image, connected)
                break
        else:
            raise UserError(
                f"data.contour_length={puzzle.contour_length}: in {PATIENCE:,} pictures of "
                f"data.image_size={puzzle.style.size} there was no room for two such curves with visible markers.\n"
                "  Set a smaller data.contour_length, or a greater data.image_size."
            )


def _draw(puzzle: Puzzle, random: Callable[[], float], *, connected: bool) -> np.ndarray | None:
    """A picture, unless the curves come to a dead end."""
    style = puzzle.style
    curves = _grow_curves(puzzle, random)
    if curves is None:
        return None
    first = int(random() < 0.5)
    other = first if connected else 1 - first
    snakes = [*curves, *_grow_distractors(puzzle, random, curves[0].ground)]
    dashes = np.array([(dash[0], dash[-1]) for snake in snakes for dash in snake.dashes])
    centres = np.array([curves[first].origin, curves[other].tip])[:, None].repeat(2, 1)
    lines = np.minimum(1, style.contrast * draw(dashes, style.thickness, style.size))
    markers = draw(centres, 2 * puzzle.marker_radius, style.size)
    return np.round(255 * np.maximum(lines, markers)).astype(np.uint8)


def _grow_curves(puzzle: Puzzle, random: Callable[[], float]) -> list[Snake] | None:
    """The two long ones, which begin near the middle and grow in turn; the ground of the first knows of both.

    A dead end takes back their last dashes; several of them come to nothing.
    """
    style = puzzle.style
    inset = min(2 * puzzle.seed_distance, style.size / 2)
    origin = (inset + (style.size - 2 * inset) * random(), inset + (style.size - 2 * inset) * random())
    origins = origin, move(origin, 2 * pi * random(), puzzle.seed_distance)
    stages = [[Snake(style, ground=Ground(style), origin=each, random=random) for each in origins]]
    dead_ends = 0
    while len(stages) <= puzzle.contour_length:
        curves = [snake.copy() for snake in stages[-1]]
        if _grow_both(*curves):
            stages.append(curves)
        elif dead_ends == DEAD_ENDS:
            return None
        else:
            dead_ends += 1
            del stages[max(1, len(stages) - TAKEN_BACK) :]
    stages[-1][0].finish()
    return stages[-1]


def _grow_both(one: Snake, other: Snake) -> bool:
    """By a dash each; False if one has no room."""
    for snake, neighbour in ((one, other), (other, one)):
        if not snake.grow():
            return False
        neighbour.ground.take(snake.dashes[-1])
    return True


def _grow_distractors(puzzle: Puzzle, random: Callable[[], float], ground: Ground) -> list[Snake]:
    """Short ones, as far as there is room."""
    grown: list[Snake] = []
    for _ in range(puzzle.num_distractors):
        for _ in range(DISTRACTOR_TRIALS):
            origin = (puzzle.style.size * random(), puzzle.style.size * random())
            snake = Snake(puzzle.style, ground=ground.copy(), origin=origin, random=random)
            if all(snake.grow() for _ in range(puzzle.distractor_length)):
                snake.finish()
                ground = snake.ground
                grown.append(snake)
                break
    return grown


def count_markers(image: np.ndarray, radius: float) -> int:
    """How many separate places are, in a square about as wide as a marker, brighter than half of white on average.

    Dashes never are: much of such a square stays black.

    Args:
        image: uint8 `[size, size]`.
        radius: of a marker.
    """
    side = max(1, round(2 * radius))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, side // 2), (side, side))
    bright = {(int(y), int(x)) for y, x in np.argwhere(windows.mean((2, 3)) > 127.5)}
    count = 0
    while bright:
        count += 1
        reached = [bright.pop()]
        while reached:
            y, x = reached.pop()
            near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & bright
            bright -= near
            reached += near
    return count
