"""What runs have to show and to hear, side by side in the page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from plugformer.compare.attachments import ROWS, Shown, cut
from plugformer.compare.comparison import Comparison
from plugformer.compare.markup import Markup, element
from plugformer.compare.page_parts import in_table, swatch
from plugformer.errors import counted
from plugformer.track.media import Cell, MediaFile


def media_section(comparison: Comparison, shown: Sequence[Shown], left_out: Sequence[str]) -> Markup | None:
    """A fold for each name, in it the table of each run; nothing where no run has any."""
    if not shown and not left_out:
        return None
    folds: list[Markup] = []
    for name, members in groupby(shown, key=lambda each: each.media.name):
        tables = [_table(comparison, each) for each in members]
        folds.append(element("details", element("summary", name), *tables, open=not folds))
    lines = [element("li", line) for line in left_out]
    missing = None
    if lines:
        told = f"{counted(len(lines), 'table')} left out: the page would become too large (--media MIB)"
        missing = element("details", element("summary", told), element("ul", *lines))
    return element("section", element("h2", "Samples"), *folds, missing, class_="media")


def _table(comparison: Comparison, shown: Shown) -> Markup:
    group, media = comparison.groups[shown.group], shown.media
    seed = f" · seed {shown.run.seed}" if len(group.runs) > 1 else ""
    more = len(media.rows) - ROWS
    caption = f" {group.label}{seed} · step {media.step:,}" + (f" · {more:,} more rows" if more > 0 else "")
    heads = [element("th", column, scope="col") for column in media.columns]
    rows = [element("tr", *(element("td", _cell(cell, shown)) for cell in row)) for row in media.rows[:ROWS]]
    above = element("figcaption", swatch(shown.group), caption)
    return element("figure", above, in_table(heads, rows), class_="samples")


def _cell(cell: Cell, shown: Shown) -> Markup | str:
    if not isinstance(cell, MediaFile):
        return cut(cell)
    source = shown.files[str(cell.path)]
    if not source.startswith("data:"):
        return f"{cell.caption or cell.kind}: {cell.path} {source}"
    if cell.kind == "image":
        return element("img", src=source, alt=cell.caption or "a picture", title=cell.caption or None)
    return element("audio", src=source, controls=True, preload="none", title=cell.caption or None)
