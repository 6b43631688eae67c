"""Tables of rows in files: CSV, TSV, JSON lines and Parquet, in and out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsenv.errors import InputError, require
from dsenv.files import atomic_write

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of other bytes
OTHER_DELIMITERS = (";", "\t")  # of a file *.csv whose header has no comma

Columns = dict[str, list[Any]]


def is_table(path: str | Path) -> bool:
    """Say whether a path has the name of a table."""
    return Path(path).suffix in SUFFIXES


def read_table(path: str | Path) -> Columns:
    """Read a Parquet, CSV, TSV or JSON-lines file as columns of equal length.

    Text is UTF-8, with or without a byte-order mark. Whole numbers in a column of a CSV file are read as such where all
    its cells are whole numbers.

    Raises:
        InputError: where the file is missing, empty, or cannot be read as what its name says; the row (from 0, without the
            header) and the column are named.
    """
    path = Path(path)
    if not is_table(path):
        raise InputError(f"{str(path)!r} is no table: allowed are files {', '.join('*' + suffix for suffix in SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            parquet = require("pyarrow.parquet", "build")
            table: Columns = parquet.read_table(path).to_pydict()
            records = None
        else:
            data = path.read_bytes()
            records = _delimited(data, path) if path.suffix in DELIMITERS else _json_lines(data, path)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    if records is not None:
        names = list(dict.fromkeys(column for record in records for column in record))
        table = {column: [record.get(column) for record in records] for column in names}
        if path.suffix in DELIMITERS:
            table = {name: _whole_numbers(column) for name, column in table.items()}
    if not table or not len(next(iter(table.values()))):
        raise InputError(f"{str(path)!r} has no rows")
    return table


def write_table(columns: Mapping[str, Sequence[Any]], path: str | Path) -> Path:
    """Write columns as what the file's name says, atomically.

    Raises:
        InputError: for another name than ``read_table`` reads.
    """
    path = Path(path)
    if not is_table(path):
        raise InputError(f"{str(path)!r} is no table: allowed are files {', '.join('*' + suffix for suffix in SUFFIXES)}")
    records = zip(*columns.values(), strict=True)
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            table = require("pyarrow", "build").table({name: list(column) for name, column in columns.items()})
            require("pyarrow.parquet", "build").write_table(table, temporary)
        elif path.suffix == ".jsonl":
            lines = (json.dumps(dict(zip(columns, record, strict=True)), ensure_ascii=False) + "\n" for record in records)
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=DELIMITERS[path.suffix])
                writer.writerow(columns)
                writer.writerows(records)
    return path


def as_columns(table: Any) -> Columns:
    """Return the columns of a dict of lists, a pandas DataFrame, a ``datasets.Dataset`` or a pyarrow table.

    Raises:
        InputError: for anything else.
    """
    names = getattr(table, "column_names", None) or getattr(table, "columns", None)
    if names is None and not isinstance(table, Mapping):
        raise InputError(
            f"a {type(table).__name__} is no table: allowed are a dict of lists, a pandas DataFrame, a datasets.Dataset"
        )
    return {str(name): list(table[name]) for name in (table if names is None else names)}


def _delimited(data: bytes, path: Path) -> list[dict[str, Any]]:
    text = data.decode("utf-8-sig", "surrogateescape")  # what is not UTF-8 is found in its row and column, below
    header = text.partition("\n")[0]
    delimiter = DELIMITERS[path.suffix]
    if delimiter not in header:
        delimiter = next((other for other in OTHER_DELIMITERS if other in header), delimiter)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    records: list[dict[str, Any]] = []
    if broken := NOT_UTF8.search(header):
        raise InputError(f"the header of {str(path)!r} is not UTF-8 at character {broken.start()}; save the file as UTF-8")
    if not text.strip():
        raise InputError(f"{str(path)!r} is empty")
    try:
        for record in reader:
            records.append(record)
    except csv.Error as error:
        raise InputError(f"row {len(records)} of {str(path)!r} (line {reader.line_num}) cannot be read: {error}") from error
    names = reader.fieldnames or []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{str(path)!r} has two columns {twice[0]!r}")
    for number, record in enumerate(records):
        if None in record:
            raise InputError(f"row {number} of {str(path)!r} has more cells than the header has columns ({len(names)})")
        _check_unicode(record, number, path)
    return records


def _json_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    records = []
    lines = [line for line in data.decode("utf-8-sig", "surrogateescape").split("\n") if line.strip()]
    for number, line in enumerate(lines):
        if broken := NOT_UTF8.search(line):
            names = re.findall(r'"([^"]*)"\s*:', line[: broken.start()])
            _check_unicode({names[-1] if names else "?": line}, number, path)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"row {number} of {str(path)!r} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"row {number} of {str(path)!r} is {line[:60]!r}: every line must be a JSON object")
        records.append(record)
    return records


def _check_unicode(record: Mapping[str, Any], number: int, path: Path) -> None:
    for column, cell in record.items():
        if isinstance(cell, str) and NOT_UTF8.search(cell):
            raise InputError(
                f"row {number} of column {column!r} of {str(path)!r} is not UTF-8: "
                f"{cell.encode('utf-8', 'surrogateescape')[:60]!r}; save the file as UTF-8"
            )


def _whole_numbers(column: list[Any]) -> list[Any]:
    """A column of whole numbers as such, so that it means the same as in Parquet; any other column as it is."""
    numbers = all(value is not None and re.fullmatch(r"-?(0|[1-9]\d{0,17})", value) for value in column)
    return [int(value) for value in column] if numbers else column
