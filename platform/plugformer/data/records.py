"""Reading the records of table files: CSV, JSON lines, Parquet."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plugformer.data.files import read_text
from plugformer.errors import UserError, counted

LONGEST_FIELD = 2**31 - 1


class Record(NamedTuple):
    """
    Attributes:
        line: where it begins in its file, from 1.
        values: by column; a string says why there are none.
    """

    line: int
    values: Mapping[str, Any] | str


def check_delimiter(delimiter: str) -> str:
    """The character that stands between columns.

    Raises:
        UserError: it is none.
    """
    found = delimiter.replace("\\t", "\t")
    if len(found) != 1:
        raise UserError(f"data.delimiter={delimiter}: must be one character, or \\t for a tab.")
    return found


def read_csv(path: Path, *, delimiter: str) -> Iterator[Record]:
    """Of a file whose first line names the columns.

    Raises:
        UserError: it can't be read, or names a column twice.
    """
    lines = io.StringIO(read_text(path), newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    before, limit = 0, csv.field_size_limit(LONGEST_FIELD)  # by default a document may have 128 KiB
    try:
        for fields in reader:
            line, before = before + 1, reader.line_num
            if not fields:
                continue
            if not header:
                header = fields
                if len(set(header)) < len(header):
                    raise UserError(f"{path}: its first line names a column twice: {', '.join(header)}.")
            elif len(fields) == len(header):
                yield Record(line, dict(zip(header, fields, strict=True)))
            else:
                yield Record(line, f"has {counted(len(fields), 'column')}, the first line has {len(header)}.")
    except csv.Error as error:
        yield Record(before + 1, f"not CSV ({error}).")
    finally:
        csv.field_size_limit(limit)


def read_jsonl(path: Path) -> Iterator[Record]:
    """Of a file that holds a JSON object in each line.

    Raises:
        UserError: it can't be read.
    """
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except ValueError as error:
            yield Record(line, f"not JSON ({error}).")
        else:
            yield Record(line, values if isinstance(values, dict) else "not a JSON object.")


def read_parquet(path: Path, *, columns: Collection[str]) -> Iterator[Record]:
    """Of a Parquet file; a row's number, from 1, stands for its line. Columns that aren't asked for hold None.

    Raises:
        UserError: it can't be read.
        ImportError: pyarrow isn't installed.
    """
    import pyarrow  # noqa: PLC0415  # an optional dependency
    from pyarrow import parquet  # noqa: PLC0415

    try:
        file = parquet.ParquetFile(path)
        table = file.read([column for column in file.schema_arrow.names if column in columns])
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({error}).") from None
    missing = dict.fromkeys(set(file.schema_arrow.names) - set(table.column_names))
    return (Record(number, {**missing, **row}) for number, row in enumerate(table.to_pylist(), 1))
