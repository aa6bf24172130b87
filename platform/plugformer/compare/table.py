"""A comparison as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plugformer.compare.comparison import Comparison
from plugformer.compare.configuration import told
from plugformer.compare.groups import Group, spread_over
from plugformer.compare.numbers import scaled

KEYS = 4  # columns that say how groups differ; where there are more, they are a table of their own
LISTED = 40  # keys in that table


def show(comparison: Comparison, console: Console) -> None:
    """Print all of it."""
    for table in tables(comparison):
        console.print(table)
        console.print()
    for line in lines(comparison):
        console.print(line, soft_wrap=True)


def tables(comparison: Comparison) -> Iterator[Table]:
    yield metric_table(comparison)
    if comparison.costs:
        yield cost_table(comparison)
    if len(comparison.keys) > KEYS:
        yield difference_table(comparison)


def metric_table(comparison: Comparison) -> Table:
    """A row a group, a column a metric."""
    table = _table(comparison, "Metrics")
    table.add_column("runs", justify="right")
    best = {column: comparison.best(column) for column in comparison.columns}
    for column in comparison.columns:
        table.add_column(escape(column.title), justify="right", overflow="fold")
    for number, group in enumerate(comparison.groups):
        cells = []
        for column in comparison.columns:
            text = escape(comparison.text(group, column))
            cells.append(f"[bold]{text}[/]" if best[column] == number else text)
        table.add_row(*_head(comparison, number), str(len(group.runs)), *cells, style=_style(group))
    return table


def cost_table(comparison: Comparison) -> Table:
    """What each took: parameters, time, memory."""
    table = _table(comparison, "Cost")
    for cost in comparison.costs.values():
        table.add_column(cost.title, justify="right", overflow="fold")
    for number, group in enumerate(comparison.groups):
        cells = [
            scaled(spread_over(group, cost.value), scale=cost.scale, digits=cost.digits)
            for cost in comparison.costs.values()
        ]
        table.add_row(*_head(comparison, number), *cells, style=_style(group))
    return table


def difference_table(comparison: Comparison) -> Table:
    """A row a key, a column a group."""
    table = Table(title="Configuration", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("key")
    for number, group in enumerate(comparison.groups, 1):
        table.add_column(f"{number}: {escape(group.label)}", overflow="fold")
    for key in comparison.keys[:LISTED]:
        cells = [told(group.differs[key]) if key in group.differs else "–" for group in comparison.groups]
        table.add_row(escape(key), *map(escape, cells))
    return table


def _table(comparison: Comparison, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    if comparison.marks:
        table.add_column("", style="yellow")
    for name in _head_titles(comparison):
        table.add_column(escape(name), overflow="fold")
    return table


def _head_titles(comparison: Comparison) -> list[str]:
    return comparison.keys if 0 < len(comparison.keys) <= KEYS else ["run"]


def _head(comparison: Comparison, number: int) -> list[str]:
    """The signs of its marks, and what tells a group from the others."""
    group = comparison.groups[number]
    signs = [comparison.signs(number)] if comparison.marks else []
    if 0 < len(comparison.keys) <= KEYS:
        cells = [told(group.differs[key]) if key in group.differs else "–" for key in comparison.keys]
        return [*signs, *map(escape, cells)]
    return [*signs, escape(group.label)]


def _style(group: Group) -> str:
    return "" if group.finished else "dim"


def lines(comparison: Comparison) -> Iterator[str]:
    """What is to be known besides the figures."""
    unfair = [mark for mark in comparison.marks if mark.unfair]
    if unfair and len(comparison.runs) > 1:
        yield f"[bold yellow]Not a fair comparison as it stands: see {', '.join(mark.sign for mark in unfair)}.[/]"
    for mark in comparison.marks:
        yield f"[yellow]{mark.sign}[/]  {escape(mark.text)}"
    for note in comparison.notes:
        yield escape(note)
    if hidden := comparison.keys[LISTED:]:
        yield escape(f"{len(hidden)} more keys differ: {', '.join(hidden[:8])} …; all of them with --json or --html")
    yield f"[dim]{escape(_legend(comparison))}[/]"
    if comparison.others:
        yield f"[dim]--metric shows others: {escape(_some(comparison.others))}[/]"


def _legend(comparison: Comparison) -> str:
    repeated = any(len(group.runs) > 1 for group in comparison.groups)
    spread = "mean ± sample deviation over seeds; " if repeated else ""
    bold = "; bold: the best mean" if any(comparison.best(column) is not None for column in comparison.columns) else ""
    return f"{spread}val best and test are of the best checkpoint by {_monitors(comparison)}{bold}"


def _monitors(comparison: Comparison) -> str:
    return " or ".join(dict.fromkeys(run.monitor for run in comparison.runs))


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
