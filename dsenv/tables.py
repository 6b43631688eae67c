"""Tables of rows in files: CSV, TSV, JSON lines and Parquet, in and out."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsenv.errors import InputError, require
from dsenv.files import atomic_write
from dsenv.reading import check_file, read_bytes

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of other bytes
FREE_CELLS, CELLS_A_BYTE = 10_000_000, 64  # of a table, at most: what is more is no data
OTHER_DELIMITERS = (";", "\t")  # of a file *.csv whose header has no comma

Columns = dict[str, list[Any]]


def is_table(path: str | Path) -> bool:
    """Say whether a path has the name of a table."""
    return _suffix(path) in SUFFIXES


def read_table(path: str | Path) -> Columns:
    """Read a Parquet, CSV, TSV or JSON-lines file as columns of equal length.

    Text is UTF-8, with or without a byte-order mark. Cells of CSV and TSV files are texts.

    Raises:
        InputError: where the file is missing, empty, or cannot be read as what its name says; the row (from 0, without the
            header), its line and the column are named.
    """
    path = _checked(path)
    try:
        if _suffix(path) == ".parquet":
            table = _parquet(path)
        else:
            data = read_bytes(path, "table")
            records = _delimited(data, path) if _suffix(path) in DELIMITERS else _json_lines(data, path)
            names = list(dict.fromkeys(column for record in records for column in record))
            _check_cells(len(names), len(records), len(data), path)
            table = {column: [record.get(column) for record in records] for column in names}
    except (ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    if not table or not len(next(iter(table.values()))):
        raise InputError(f"{str(path)!r} has no rows")
    return table


def write_table(columns: Mapping[str, Sequence[Any]], path: str | Path) -> Path:
    """Write columns as what the file's name says, atomically.

    Raises:
        InputError: for another name than ``read_table`` reads.
    """
    path = _checked(path)
    records = zip(*columns.values(), strict=True)
    with atomic_write(path) as temporary:
        if _suffix(path) == ".parquet":
            table = require("pyarrow", "build").table({name: list(column) for name, column in columns.items()})
            require("pyarrow.parquet", "build").write_table(table, temporary)
        elif _suffix(path) == ".jsonl":
            lines = (json.dumps(dict(zip(columns, record, strict=True)), ensure_ascii=False) + "\n" for record in records)
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=DELIMITERS[_suffix(path)])
                writer.writerow(columns)
                writer.writerows(records)
    return path


def as_columns(table: Any) -> Columns:
    """Return the columns of a dict of lists, a pandas DataFrame, a ``datasets.Dataset`` or a pyarrow table.

    Raises:
        InputError: for anything else.
    """
    if hasattr(table, "to_pydict"):
        return dict(table.to_pydict())
    names = getattr(table, "column_names", None)
    names = getattr(table, "columns", None) if names is None else names
    if names is None and not isinstance(table, Mapping):
        raise InputError(
            f"a {type(table).__name__} is no table: allowed are a dict of lists, a pandas DataFrame, a datasets.Dataset"
        )
    keys = list(table if names is None else names)
    _check_names([str(key) for key in keys], "the table")
    return {str(key): list(table[key]) for key in keys}


def _suffix(path: str | Path) -> str:
    return Path(path).suffix.lower()


def _checked(path: str | Path) -> Path:
    if not is_table(path):
        raise InputError(f"{str(path)!r} is no table: allowed are files {', '.join('*' + suffix for suffix in SUFFIXES)}")
    return Path(path)


def _check_names(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{where} has two columns {twice[0]!r}")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let csv read cells of any length; its limit belongs to the process."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> Columns:
    library, parquet = require("pyarrow", "build"), require("pyarrow.parquet", "build")
    check_file(path, "table")
    try:
        with parquet.ParquetFile(path) as file:
            held = file.metadata
            _check_cells(held.num_columns, held.num_rows, path.stat().st_size, path)
            return dict(file.read().to_pydict())
    except (library.ArrowException, OSError, OverflowError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def _check_cells(columns: int, rows: int, size: int, path: Path) -> None:
    """Refuse a small file that says it is a huge table, before the cells are made."""
    if columns * rows > FREE_CELLS + CELLS_A_BYTE * size:
        raise InputError(f"{str(path)!r} has {columns} columns in {rows} rows, of {size} bytes: too many cells for its size")


def _delimited(data: bytes, path: Path) -> list[dict[str, Any]]:
    text = data.decode("utf-8-sig", "surrogateescape")  # what is not UTF-8 is found in its row and column, below
    if not text.strip():
        raise InputError(f"{str(path)!r} is empty")
    header = text.partition("\n")[0]
    if broken := NOT_UTF8.search(header):
        raise InputError(f"the header of {str(path)!r} is not UTF-8 at character {broken.start()}; save the file as UTF-8")
    delimiter = DELIMITERS[_suffix(path)]
    if delimiter not in header:
        delimiter = next((other for other in OTHER_DELIMITERS if other in header), delimiter)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    records: list[dict[str, Any]] = []

    def where() -> str:
        return f"row {len(records)} of {str(path)!r} (line {reader.line_num})"

    with _long_cells():
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        _check_names(names, repr(str(path)))
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise InputError(f"{where()} cannot be read: {error}") from error
            if record is None:
                return records
            if None in record:
                raise InputError(f"{where()} has more cells than the header has columns ({len(names)})")
            if None in record.values():
                raise InputError(f"{where()} has fewer cells than the header has columns ({len(names)})")
            _check_unicode(record, len(records), path)
            records.append(record)


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
