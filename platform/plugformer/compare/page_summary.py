"""What came out and what it cost, as the page's first table, and what is to be known before it is believed."""

from __future__ import annotations

import math

from plugformer.compare.comparison import Comparison
from plugformer.compare.groups import spread_over
from plugformer.compare.markup import Markup, element
from plugformer.compare.numbers import scaled
from plugformer.compare.page_parts import swatch


def summary_section(comparison: Comparison) -> Markup:
    unfair = [mark for mark in comparison.marks if mark.unfair]
    warning = None
    if unfair and len(comparison.runs) > 1:
        signs = ", ".join(mark.sign for mark in unfair)
        warning = element("p", f"Not a fair comparison as it stands: see {signs} below.", class_="warning")
    return element(
        "section",
        element("h2", "Results"),
        warning,
        element("div", element("table", _heads(comparison), _rows(comparison), class_="sortable"), class_="wide"),
        element("p", _legend(comparison), class_="quiet"),
        _marks(comparison),
    )


def _legend(comparison: Comparison) -> str:
    monitors = " or ".join(dict.fromkeys(run.monitor for run in comparison.runs))
    over = ", ".join(["the seed", *comparison.over])
    return (
        f"A row is all runs that differ in {over} alone: mean ± sample deviation. Best validation and test are of the "
        f"best checkpoint by {monitors}. Bold: the best mean of those that may be compared. A click on a heading sorts."
    )


def _heads(comparison: Comparison) -> Markup:
    titles = ["run", "", "runs", *(column.title for column in comparison.columns)]
    titles += [cost.title for cost in comparison.costs.values()]
    cells = [element("th", element("button", title, type="button") if title else None, scope="col") for title in titles]
    return element("thead", element("tr", *cells))


def _rows(comparison: Comparison) -> Markup:
    best = {column: comparison.best(column) for column in comparison.columns}
    rows = []
    for number, group in enumerate(comparison.groups):
        cells = [
            element("th", swatch(number), f" {group.label}", scope="row"),
            element("td", comparison.signs(number) or None, class_="sign"),
            _cell(str(len(group.runs)), len(group.runs)),
        ]
        for column in comparison.columns:
            spread = comparison.spread(group, column)
            value = math.nan if spread is None else spread.mean
            cells.append(_cell(comparison.text(group, column), value, best=best[column] == number))
        for cost in comparison.costs.values():
            spread = spread_over(group, cost.value)
            text = scaled(spread, scale=cost.scale, digits=cost.digits)
            cells.append(_cell(text, math.nan if spread is None else spread.mean))
        rows.append(element("tr", *cells, class_=None if group.finished else "unfinished"))
    return element("tbody", *rows)


def _cell(text: str, value: float, *, best: bool = False) -> Markup:
    return element("td", text, class_="number best" if best else "number", data_value=repr(float(value)))


def _marks(comparison: Comparison) -> Markup | None:
    lines = [
        element("li", element("b", f"{mark.sign} "), mark.text, class_="unfair" if mark.unfair else None)
        for mark in comparison.marks
    ]
    lines += [element("li", note) for note in comparison.notes]
    return element("ul", *lines, class_="marks") if lines else None
