"""What a store keeps of a score: the key that decides it, and how both are written in a table's row and as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, StoreError
from dsenv.reading import check_file, convert, parse_json

SCORE_COLUMNS = "task, recipe, sample, counts, score, seconds, checksum"
WIDTHS = (1, 4)  # bytes of a packed count
RECIPE_COLUMNS = "task, recipe, facts, checksum"

Row = tuple[Any, ...]


class Key(NamedTuple):
    """What decides a score.

    Attributes:
        task: digest of the task.
        recipe: digest of the recipe, as in ``recipe_digest``.
        sample: "" for all reward rows, else ``share/seed``.
        counts: the picks, as in ``pack_counts``.
    """

    task: str
    recipe: str
    sample: str
    counts: bytes

    @property
    def digest(self) -> bytes:
        """16 bytes, by which a store finds the key."""
        named = bytes.fromhex(self.task) + bytes.fromhex(self.recipe) + self.sample.encode() + b"\0" + self.counts
        return hashlib.blake2b(named, digest_size=16).digest()

    @property
    def name(self) -> str:
        """As an error names the key."""
        sample = f", sample {self.sample}" if self.sample else ""
        return f"{name_selection(unpack_counts(self.counts))} (task {self.task[:12]}, recipe {self.recipe[:12]}{sample})"


class Entry(NamedTuple):
    """A remembered score, and the seconds that it took."""

    key: Key
    score: float
    seconds: float

    def checked(self) -> Entry:
        """Return the entry as a store gives it back.

        Raises:
            InputError: for a score that is not finite.
        """
        if not math.isfinite(self.score):
            raise InputError(f"score {self.score!r} of {self.key.name} is not finite: a store keeps numbers only")
        return self._replace(score=float(self.score) + 0.0)  # SQLite keeps no -0.0

    def to_row(self) -> Row:
        """Return the values of ``SCORE_COLUMNS``."""
        task, recipe, sample, counts = self.key
        return _signed(bytes.fromhex(task), bytes.fromhex(recipe), sample, counts, self.score, float(self.seconds))

    @classmethod
    def from_row(cls, row: Row) -> Entry | None:
        """Return the entry of a row, None where the row is damaged."""
        if not _intact(row) or [type(value) for value in row[:-1]] != [bytes, bytes, bytes, bytes, float, float]:
            return None
        task, recipe, sample, counts, score, seconds, _ = row
        if not counts or counts[0] not in WIDTHS or (len(counts) - 1) % counts[0] or not math.isfinite(seconds):
            return None
        try:
            return cls(Key(task.hex(), recipe.hex(), sample.decode(), counts), score, seconds).checked()
        except (UnicodeDecodeError, InputError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Return what ``read_lines`` reads as the entry."""
        counts = unpack_counts(self.key.counts).tolist()
        return {**self.key._asdict(), "counts": counts, "score": self.score, "seconds": self.seconds}


class Description(NamedTuple):
    """What a recipe's digest stands for: JSON-able facts."""

    task: str
    recipe: str
    facts: dict[str, Any]

    def to_row(self) -> Row:
        """Return the values of ``RECIPE_COLUMNS``."""
        return _signed(bytes.fromhex(self.task), bytes.fromhex(self.recipe), json.dumps(self.facts, sort_keys=True))

    @classmethod
    def from_row(cls, row: Row) -> Description | None:
        """Return the description of a row, None where the row is damaged."""
        if not _intact(row) or [type(value) for value in row[:-1]] != [bytes, bytes, bytes]:
            return None
        try:
            return cls(row[0].hex(), row[1].hex(), parse_json(row[2], dict[str, Any], "facts of a recipe"))
        except InputError:
            return None

    def to_json(self) -> dict[str, Any]:
        """Return what ``read_lines`` reads as the description."""
        return self._asdict()


def read_lines(path: Path) -> Generator[Entry | Description]:
    """Yield the entries and descriptions of a file whose lines are what ``to_json`` returns.

    Raises:
        StoreError: for a file that cannot be read, or a line that is something else.
    """
    try:
        check_file(path, "file of exported scores")
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = _from_json(line)
                except ValueError as error:
                    raise StoreError(
                        f"{str(path)!r}, line {number} is not an exported score ({error}): remove the line"
                    ) from error
                yield record
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise StoreError(f"{str(path)!r} cannot be read as exported scores: {error}") from error


def pack_counts(counts: npt.NDArray[np.integer]) -> bytes:
    """Return counts (K,) as the width of a number (1 or 4 bytes) and the numbers."""
    width = WIDTHS[0] if counts.max(initial=0) < 256 else WIDTHS[1]
    return bytes([width]) + counts.astype(f"<u{width}").tobytes()


def unpack_counts(packed: bytes) -> Ints:
    """Return the counts (K,) that ``pack_counts`` packed."""
    return np.frombuffer(packed, f"<u{packed[0]}", offset=1).astype(np.int64)


def name_selection(counts: npt.NDArray[np.integer]) -> str:
    """Return counts (K,) as an error names them: picks by cluster."""
    return f"selection { ({int(k): int(counts[k]) for k in np.flatnonzero(counts)}) }"


class _Score(TypedDict):
    task: str
    recipe: str
    sample: str
    counts: list[Annotated[int, msgspec.Meta(ge=0, lt=2**32)]]
    score: float
    seconds: float


class _Recipe(TypedDict):
    task: str
    recipe: str
    facts: dict[str, Any]


def _from_json(line: str) -> Entry | Description:
    """Return what a line says.

    Raises:
        ValueError: where it says something else.
    """
    values = parse_json(line, dict[str, Any], "no JSON object")
    if "facts" in values:
        named = convert(values, _Recipe)
        return Description(_hexadecimal(named["task"]), _hexadecimal(named["recipe"]), named["facts"])
    found = convert(values, _Score)
    counts = pack_counts(np.array(found["counts"], np.uint32))
    key = Key(_hexadecimal(found["task"]), _hexadecimal(found["recipe"]), found["sample"], counts)
    return Entry(key, found["score"], found["seconds"])


def _hexadecimal(digest: str) -> str:
    return bytes.fromhex(digest).hex()


def _signed(*values: Any) -> Row:
    """Return values with their CRC-32 at the end; text, written as it is, is read as bytes."""
    read = tuple(value.encode() if isinstance(value, str) else value for value in values)
    return *values, zlib.crc32(repr(read).encode())


def _intact(row: Row) -> bool:
    """Whether the CRC-32 fits; damage can turn a value into one of any type."""
    return bool(_signed(*row[:-1])[-1] == row[-1])
