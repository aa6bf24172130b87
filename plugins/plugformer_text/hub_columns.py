"""Columns of `datasets` and what stands inside of them."""

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any


def column_names(features: Mapping[str, Any], datasets: ModuleType) -> Iterator[str]:
    """Of a table's columns; `column.part` for the parts of one that has some, such as a translation's languages."""
    for name, feature in features.items():
        parts = feature.languages if isinstance(feature, datasets.Translation) else feature
        if isinstance(parts, Mapping | list):
            yield from (f"{name}.{part}" for part in parts)
        else:
            yield name


def value(row: Mapping[str, Any], column: str) -> Any:
    """What a row says in a column, or in a part of it; None where that is missing."""
    if column in row:
        return row[column]
    name, _, part = column.partition(".")
    return (row[name] or {}).get(part)


def select(table: Any, columns: Iterable[str]) -> Any:
    """The table with these columns alone, each of them whole."""
    kept = (column if column in table.features else column.partition(".")[0] for column in columns)
    return table.select_columns(list(dict.fromkeys(kept)))
