"""Small parts that sections of the page share."""

from __future__ import annotations

from collections.abc import Sequence

from plugformer.compare.colours import ON_LIGHT
from plugformer.compare.markup import Markup, element


def swatch(number: int) -> Markup:
    """A spot in the colour of the group of this number."""
    return element("i", class_=f"swatch g{number % len(ON_LIGHT)}")


def in_table(heads: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    """A table that scrolls by itself where the page is too narrow for it."""
    head = element("thead", element("tr", *heads)) if heads else None
    return element("div", element("table", head, element("tbody", *rows)), class_="wide")
