"""How far long work has come: one style of bar, on a terminal alone."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


@contextmanager
def advancing(title: str, total: int | None, *, hidden: bool = False) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; it goes away when the work is done.

    Args:
        title: what is done.
        total: how many pieces of work there are; None if nobody knows, and the bar then tells that it goes on.
        hidden: whether there is none after all, such as for work that is too short.

    Yields:
        To be called after each piece.
    """
    console = Console(stderr=True)
    counts = [] if total is None else [MofNCompleteColumn(), TimeRemainingColumn()]
    columns = [TextColumn("{task.description}"), BarColumn(), *counts, TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        line = bar.add_task(title, total=total)
        yield lambda: bar.advance(line)


def shown(items: Iterable[T], title: str, total: int, *, hidden: bool = False) -> Iterator[T]:
    """The items, with a bar that tells how many of them are done."""
    with advancing(title, total, hidden=hidden) as advance:
        for item in items:
            yield item
            advance()
