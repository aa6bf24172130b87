"""Dashed curves that grow without touching each other, and pictures of them.

Lengths are in pixels; points are `(y, x)`, the pixel in row `r` and column `c` being the square from `(r, c)` to
`(r + 1, c + 1)`.
"""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from math import ceil, cos, pi, sin

import numpy as np

TRIALS = 12  # directions that are tried for the next dash
FINENESS = 4  # samples along a side of a pixel

Point = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """
    Attributes:
        size: side of the picture.
        padding: a margin of the picture that dashes stay out of.
        length, thickness: of a dash.
        margin: half of the gap between two dashes, and of the least distance of any others.
        continuity: how straight curves are: a turn by `t` has a likelihood of `cos(continuity · t)²`, and those beyond
            its first zeros have none.
        contrast: brightness of what a dash covers, of which a pixel shows 1 at most.
    """

    size: int
    padding: float
    length: float
    thickness: float
    margin: float
    continuity: float
    contrast: float


class Ground:
    """What a snake has to stay out of: a picture's margin, and whatever has been taken of it."""

    def __init__(self, style: Style) -> None:
        self.low, self.high = style.padding, style.size - style.padding
        radius = 2 * style.margin * FINENESS
        self.reach = int(radius)
        self.width = style.size * FINENESS + 2 * self.reach + 1
        self.cells = bytearray(self.width**2)  # with a margin as wide as anything reaches
        offset = np.arange(-self.reach, self.reach + 1)
        self.disc = (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)

    def copy(self) -> "Ground":
        same = copy(self)
        same.cells = self.cells[:]
        return same

    def is_free(self, points: Iterable[Point]) -> bool:
        low, high, reach = self.low, self.high, self.reach
        for y, x in points:
            if not (low <= y <= high and low <= x <= high):
                return False
            if self.cells[(int(y * FINENESS) + reach) * self.width + int(x * FINENESS) + reach]:
                return False
        return True

    def take(self, points: Iterable[Point]) -> None:
        """All that is near these points."""
        cells = np.frombuffer(self.cells, dtype=np.uint8).reshape(self.width, self.width)
        side = len(self.disc)
        for y, x in points:
            row, column = int(y * FINENESS), int(x * FINENESS)
            cells[row : row + side, column : column + side] |= self.disc


class Snake:
    """A curve that grows dash by dash.

    Args:
        style: of its dashes.
        ground: what it stays out of, and adds its own dashes to.
        origin: where it begins.
        random: numbers that are uniform between 0 and 1.
    """

    def __init__(self, style: Style, *, ground: Ground, origin: Point, random: Callable[[], float]) -> None:
        self.style = style
        self.ground = ground
        self.origin = origin
        self.random = random
        self.dashes: list[list[Point]] = []  # each as points about a pixel apart
        self.angle = 0.0  # of the last dash
        self.pivot = origin  # of the last dash: where its gap begins

    def copy(self) -> "Snake":
        same = copy(self)
        same.ground, same.dashes = self.ground.copy(), self.dashes[:]
        return same

    @property
    def tip(self) -> Point:
        return self.dashes[-1][-1]

    def grow(self) -> bool:
        """One dash more, the first in any direction; False if there is no room."""
        return any(self._try_to_grow() for _ in range(TRIALS))

    def _try_to_grow(self) -> bool:
        length, margin = self.style.length, self.style.margin
        if self.dashes:
            angle = self.angle + turn(self.random()) / self.style.continuity
            pivot = move(self.pivot, self.angle, length + 2 * margin)
        else:
            angle = 2 * pi * self.random()
            pivot = move(self.origin, angle, -margin)
        parts = ceil(length)
        dash = [move(pivot, angle, margin + length * part / parts) for part in range(parts + 1)]
        if not self.ground.is_free(dash):
            return False
        if self.dashes:  # only now: a dash may be nearer to the one it follows
            self.ground.take(self.dashes[-1])
        self.dashes.append(dash)
        self.angle, self.pivot = angle, pivot
        return True

    def finish(self) -> None:
        self.ground.take(self.dashes[-1])


_TURNS = np.linspace(-pi / 2, pi / 2, 1001)
_SHARE = 0.5 + (_TURNS + np.sin(2 * _TURNS) / 2) / pi  # the cumulative distribution of a likelihood of cos²
_INVERSE = np.interp(np.linspace(0, 1, 4097), _SHARE, _TURNS).tolist()


def turn(drawn: float) -> float:
    """An angle between -π/2 and π/2 with a likelihood of cos², from a number that is uniform between 0 and 1."""
    return float(_INVERSE[int(drawn * 4096 + 0.5)])


def move(point: Point, angle: float, distance: float) -> Point:
    return point[0] + distance * sin(angle), point[1] + distance * cos(angle)


def draw(lines: np.ndarray, thickness: float, size: int) -> np.ndarray:
    """The greatest share of each pixel that one of some lines covers.

    Args:
        lines: `[count, 2, 2]`, from where to where; their ends are round.
        thickness: of all of them.
        size: side of the picture.

    Returns:
        float `[size, size]`.
    """
    reach = float(np.abs(lines[:, 1] - lines[:, 0]).max()) / 2 + thickness / 2
    side = int(np.ceil(2 * reach)) + 2
    corner = np.floor(lines.mean(1) - side / 2).astype(int)  # of a window around each line
    samples = (np.arange(side * FINENESS) + 0.5) / FINENESS
    y, x = (corner[:, axis, None] + samples for axis in (0, 1))
    covered = _distance(lines, y[:, :, None], x[:, None, :]) <= thickness / 2
    shares = covered.reshape(len(lines), side, FINENESS, side, FINENESS).mean((2, 4))
    picture = np.zeros((size + 2 * side, size + 2 * side))
    row, column = (corner[:, axis, None] + side + np.arange(side) for axis in (0, 1))
    np.maximum.at(picture, (row[:, :, None], column[:, None, :]), shares)
    return picture[side:-side, side:-side]


def _distance(lines: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`[count, ...]`, of points from their line."""
    start, step = lines[:, 0, :, None, None], (lines[:, 1] - lines[:, 0])[:, :, None, None]
    squared = np.maximum(np.square(step).sum(1), 1e-12)
    share = np.clip(((y - start[:, 0]) * step[:, 0] + (x - start[:, 1]) * step[:, 1]) / squared, 0, 1)
    return np.hypot(y - start[:, 0] - share * step[:, 0], x - start[:, 1] - share * step[:, 1])
