"""Scores that are remembered: one SQLite file for many tasks, recipes and processes.

A key is what decides a score: the task's digest, the recipe's digest, the sample of the reward rows where there is one, and
the counts. Every score is one short transaction, so that a killed process leaves all scores it had and no half of one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, StoreError
from dsenv.files import atomic_write
from dsenv.metrics import Doubles
from dsenv.proxies import Memory, Proxy, RowSample, recipe_digest

FORMAT = 1
APPLICATION = 0x64734556  # in the header of the file: says that it is ours
WAIT_SECONDS = 60.0
SAME = 1e-9
BLOCK = 500
SMALLEST_ROW = 100

_TABLES = (
    "CREATE TABLE recipes (task BLOB, recipe BLOB, facts TEXT, checksum INTEGER, PRIMARY KEY (task, recipe))",
    "CREATE TABLE scores (id INTEGER PRIMARY KEY, key BLOB UNIQUE, task BLOB, recipe BLOB, sample TEXT, counts BLOB, "
    "score REAL, seconds REAL, checksum INTEGER)",
)
_COLUMNS = "task, recipe, sample, counts, score, seconds, checksum"
_CURE = {
    "SQLITE_NOTADB": "is not a store of scores, or its beginning is damaged: give another path, or move the file away",
    "SQLITE_CORRUPT": "is damaged: save what can be read with `dsenv store export {path} --out scores.jsonl`, move the file "
    "away, then `dsenv store merge {path} scores.jsonl`",
    "SQLITE_READONLY": "cannot be written: give yourself the right to write the file and its folder, or copy it elsewhere",
    "SQLITE_CANTOPEN": "cannot be opened: the folder must exist and allow files to be made in it",
    "SQLITE_FULL": "cannot grow, the disk is full: free some space and start again; the scores so far are kept",
    "SQLITE_IOERR": "cannot be read or written: look whether the disk is full or gone; it must be a local disk",
    "SQLITE_BUSY": f"was locked by another process for {WAIT_SECONDS:.0f} seconds: wait for that process, or end it",
}
# SQLite forbids a child process even to close what its parent opened, so it is kept here.
_inherited: list[sqlite3.Connection] = []

log = logging.getLogger(__name__)


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


class Entry(NamedTuple):
    """A remembered score, and the seconds that it took."""

    key: Key
    score: float
    seconds: float


class Description(NamedTuple):
    """What a recipe's digest stands for: JSON-able facts."""

    task: str
    recipe: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Held:
    """What a store holds of one recipe of one task.

    Attributes:
        task: digest of the task.
        recipe: digest of the recipe.
        facts: the task's name, variant and instance, the metric, the proxy's name and settings.
        scores: number of scores.
        samples: number of different samples of the reward rows among them.
        seconds: that the scores took together.
    """

    task: str
    recipe: str
    facts: dict[str, Any]
    scores: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        path: of the file.
        scores: number of scores.
        damaged: number of entries whose checksum does not fit; they are never served.
        bytes: of the file.
        recipes: one for each recipe of each task.
    """

    path: Path
    scores: int
    damaged: int
    bytes: int
    recipes: tuple[Held, ...]


def pack_counts(counts: npt.NDArray[np.integer]) -> bytes:
    """Return counts (K,) as the width of a number (1 or 4 bytes) and the numbers."""
    width = 1 if counts.max(initial=0) < 256 else 4
    return bytes([width]) + counts.astype(f"<u{width}").tobytes()


def unpack_counts(packed: bytes) -> Ints:
    """Return the counts (K,) that ``pack_counts`` packed."""
    return np.frombuffer(packed, f"<u{packed[0]}", offset=1).astype(np.int64)


def name_selection(counts: npt.NDArray[np.integer]) -> str:
    """Return counts (K,) as an error names them: picks by cluster."""
    return f"selection { ({int(k): int(counts[k]) for k in np.flatnonzero(counts)}) }"


def check_samples(counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None) -> Sequence[RowSample] | None:
    """Return ``samples``.

    Raises:
        InputError: where they are not one for each selection (B, K).
    """
    if samples is not None and len(samples) != len(counts):
        raise InputError(f"{len(samples)} samples for {len(counts)} selections: allowed is one for each")
    return samples


class ScoreStore:
    """A file of scores that many processes read and write at once.

    The file is SQLite in WAL mode and must lie on a local disk; two more files stand beside it while it is in use. An
    entry with a wrong checksum counts as missing, and is replaced when its score is put again.

    Args:
        path: of the file; made, with its folder, where there is none.
        write: False opens a store that is there and never changes it; a read-only disk is fine.

    Raises:
        StoreError: for a file that is damaged, no store, of another format version, missing (``write=False``), or where
            nothing can be written. Every method raises it for what happens later: damage, a full disk, a lock held too long.
    """

    def __init__(self, path: str | Path, *, write: bool = True) -> None:
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._lock = threading.Lock()
        self.path, self.write = Path(path), write
        with self._transaction():
            pass

    def get(self, keys: Sequence[Key]) -> dict[Key, float]:
        """Return the scores of those keys that the store holds."""
        found: dict[Key, float] = {}
        wanted = set(keys)
        ids = [_id(key) for key in wanted]
        with self._transaction() as connection:
            for start in range(0, len(ids), BLOCK):
                part = ids[start : start + BLOCK]
                marks = ", ".join("?" * len(part))
                for row in connection.execute(f"SELECT {_COLUMNS} FROM scores WHERE key IN ({marks})", part):
                    entry = _entry(row)
                    if entry is not None and entry.key in wanted:
                        found[entry.key] = entry.score
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep scores, all or none of them. Where a key is held already, the first score stays.

        Raises:
            InputError: for a score that is not finite.
        """
        checked = [_finite(entry) for entry in entries]
        with self._transaction("IMMEDIATE") as connection:
            for entry in checked:
                _insert(connection, entry)

    def describe(self, description: Description) -> None:
        """Keep what a recipe's digest stands for."""
        with self._transaction("IMMEDIATE") as connection:
            _insert_description(connection, description)

    def info(self) -> StoreInfo:
        """Count what the store holds, and the damaged entries."""
        facts: dict[tuple[str, str], dict[str, Any]] = {}
        scores: Counter[tuple[str, str]] = Counter()
        seconds: dict[tuple[str, str], float] = {}
        samples: dict[tuple[str, str], set[str]] = {}
        damaged = 0
        with self._transaction() as connection:
            for record in _records(connection):
                if isinstance(record, Description):
                    facts[record[:2]] = record.facts
                elif record is None:
                    damaged += 1
                else:
                    names = record.key[:2]
                    scores[names] += 1
                    seconds[names] = seconds.get(names, 0.0) + record.seconds
                    samples.setdefault(names, set()).add(record.key.sample)
        recipes = tuple(
            Held(*names, facts.get(names, {}), scores[names], len(samples[names] - {""}), seconds[names])
            for names in sorted(scores)
        )
        return StoreInfo(self.path, scores.total(), damaged, self.path.stat().st_size, recipes)

    def export(self, path: str | Path) -> int:
        """Write every entry that can be read, of a damaged file too, as one JSON line; returns their number.

        A recipe's line has the keys ``task``, ``recipe``, ``facts``; a score's line has ``task``, ``recipe``, ``sample``,
        ``counts``, ``score``, ``seconds``. ``merge`` reads such a file. It is written atomically.
        """
        written = damaged = 0
        lost: list[str] = []
        try:
            with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file, self._transaction() as source:
                for record in _records(source, lost):
                    if record is None:
                        damaged += 1
                    else:
                        written += isinstance(record, Entry)
                        file.write(json.dumps(_to_json(record)) + "\n")
        except OSError as error:
            raise StoreError(f"{str(path)!r} cannot be written: {error}") from error
        if damaged or lost:
            log.warning("%s: %d damaged entries left out, %d places could not be read", self.path, damaged, len(lost))
        return written

    def merge(self, *others: str | Path) -> int:
        """Take the entries of other stores, or of files that ``export`` wrote (``.jsonl``); returns how many were new.

        All of them are taken or, after an error, none. Damaged entries of the others are left out.

        Raises:
            StoreError: for a key with two scores that differ by more than 1e-9.
        """
        added = 0
        with self._transaction("IMMEDIATE") as connection:
            for other in map(Path, others):
                with closing((_read_lines if other.suffix == ".jsonl" else _read_store)(other)) as records:
                    for record in records:
                        if isinstance(record, Description):
                            _insert_description(connection, record)
                            continue
                        held = _insert(connection, record)
                        added += held is None
                        if held is not None and abs(held.score - record.score) > SAME:
                            raise StoreError(
                                f"{str(self.path)!r} and {str(other)!r} hold different scores of one key: {held.score!r} and "
                                f"{record.score!r} of {_name_key(record.key)}; one of the two was made by something that the "
                                "recipe does not name, so keep them apart"
                            )
        return added

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            elif self._connection is not None:
                _inherited.append(self._connection)
            self._connection = None

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the connection out: every process and every copy opens its own."""
        return partial(ScoreStore, write=self.write), (self.path,)

    @contextmanager
    def _transaction(self, kind: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._open()
                connection.execute(f"BEGIN {kind}")
                try:
                    yield connection
                    if kind != "DEFERRED":
                        connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:  # after an error, or only read; COMMIT fails on a file with damage
                        connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise _explained(self.path, error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._connection, self._process = _open(self.path, self.write), os.getpid()
        return self._connection


class StoredProxy:
    """A proxy that computes only what a store does not hold.

    A score counts for its own task, recipe, sample and counts alone, so one store serves any number of proxies. A proxy
    with ``score_each`` (trained proxies, the pool) has each score written as soon as it is known: a killed sweep that is
    started again computes the rest. The seconds of an entry are those from the score before it.

    Args:
        proxy: what computes.
        store: a store, or its path.
        compute: False replays: nothing is computed, and the store is not changed.

    Attributes:
        hits: selections answered without a computation.
        misses: scores computed.
    """

    def __init__(self, proxy: Proxy, store: ScoreStore | str | Path, *, compute: bool = True) -> None:
        self.proxy, self.compute = proxy, compute
        self.task, self.plan, self.metric = proxy.task, proxy.plan, proxy.metric
        self.store = store if isinstance(store, ScoreStore) else ScoreStore(store, write=compute)
        self.hits = self.misses = 0
        self._names = proxy.task.digest, recipe_digest(proxy)
        self._described = False

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings: remembering changes no score."""
        return self.proxy.recipe

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``.

        Raises:
            InputError: with ``compute=False``, for a selection that the store does not hold.
            StoreError: where the store cannot be read or written.
        """
        found = np.empty(len(counts))
        for number, value in self._score_each(counts, samples, memory):
            found[number] = value
        return found

    def score_each(
        self, counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (number, Φ) of every selection of a batch (B, K): first what is held, then the rest as it is known."""
        return self._score_each(counts, samples, None)

    def _score_each(
        self, counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None, memory: Memory | None
    ) -> Iterator[tuple[int, float]]:
        batch = self.plan.check_batch(counts)
        samples = check_samples(batch, samples)
        keys = [
            Key(*self._names, f"{float(samples[number].share)!r}/{samples[number].seed}" if samples else "", pack_counts(row))
            for number, row in enumerate(batch)
        ]
        held = self.store.get(keys)
        missing: dict[Key, list[int]] = {}
        for number, key in enumerate(keys):
            if key not in held:
                missing.setdefault(key, []).append(number)
        if missing and not self.compute:
            raise InputError(self._name_missing(next(iter(missing))))
        for number, key in enumerate(keys):
            if key in held:
                self.hits += 1
                yield number, held[key]
        if not missing:
            return
        firsts = [numbers[0] for numbers in missing.values()]
        drawn = [samples[number] for number in firsts] if samples else None
        with closing(self._computed(list(missing), batch[firsts], drawn, memory)) as computed:
            for entries in computed:
                if not self._described:
                    self.store.describe(Description(*self._names, self._facts))
                    self._described = True
                self.store.put(entries)
                for entry in entries:
                    self.misses += 1
                    self.hits += len(missing[entry.key]) - 1
                    for number in missing[entry.key]:
                        yield number, entry.score

    def _computed(
        self, keys: list[Key], batch: Ints, samples: Sequence[RowSample] | None, memory: Memory | None
    ) -> Generator[list[Entry]]:
        started = time.perf_counter()
        each = getattr(self.proxy, "score_each", None)
        if each is None:
            scores = self.proxy.score(batch, memory=memory, samples=samples)
            seconds = (time.perf_counter() - started) / len(batch)
            yield [Entry(key, float(value), seconds) for key, value in zip(keys, scores, strict=True)]
            return
        for number, value in each(batch, samples):
            yield [Entry(keys[number], float(value), time.perf_counter() - started)]
            started = time.perf_counter()

    @property
    def _facts(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "variant": self.task.variant,
            "instance": self.task.instance,
            "metric": self.metric,
            "rows_per_pick": self.plan.rows_per_pick,
            "recipe": self.proxy.recipe,
        }

    def _name_missing(self, key: Key) -> str:
        kept = [held for held in self.store.info().recipes if held.task == key.task]
        other = "; ".join(f"{held.scores} scores of {json.dumps(held.facts)}" for held in kept) or "no score of this task"
        on = f" on the sample {key.sample} of the reward rows" if key.sample else ""
        return (
            f"{str(self.store.path)!r} holds no score of {name_selection(unpack_counts(key.counts))}{on} for "
            f"{json.dumps(self._facts)}, and compute=False computes none. It holds: {other}"
        )


def _id(key: Key) -> bytes:
    named = bytes.fromhex(key.task) + bytes.fromhex(key.recipe) + key.sample.encode() + b"\0" + key.counts
    return hashlib.blake2b(named, digest_size=16).digest()


def _finite(entry: Entry) -> Entry:
    if not math.isfinite(entry.score):
        raise InputError(f"score {entry.score!r} of {_name_key(entry.key)} is not finite: a store keeps numbers only")
    return entry._replace(score=float(entry.score) + 0.0)  # SQLite keeps no -0.0


def _row(entry: Entry) -> tuple[Any, ...]:
    key = entry.key
    values = bytes.fromhex(key.task), bytes.fromhex(key.recipe), key.sample, key.counts, entry.score, float(entry.seconds)
    return *values, _checksum(*values[:2], key.sample.encode(), *values[3:])


def _checksum(*values: Any) -> int:
    """Return the CRC-32 of a row's values; damage can turn a value into one of any type."""
    return zlib.crc32(repr(values).encode())


def _entry(row: tuple[Any, ...]) -> Entry | None:
    """Return the entry of a row, None where the row is damaged."""
    *values, checksum = row
    if _checksum(*values) != checksum:
        return None
    task, recipe, sample, counts, score, seconds = values
    return Entry(Key(task.hex(), recipe.hex(), sample.decode(), counts), score, seconds)


def _insert(connection: sqlite3.Connection, entry: Entry) -> Entry | None:
    """Keep an entry; returns the one that is held already and stays."""
    found = connection.execute(f"SELECT id, {_COLUMNS} FROM scores WHERE key = ?", (_id(entry.key),)).fetchone()
    held = _entry(found[1:]) if found else None
    if held is not None and held.key == entry.key:
        return held
    row = (found[0] if found else None, _id(entry.key), *_row(entry))
    connection.execute(f"INSERT OR REPLACE INTO scores (id, key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return None


def _insert_description(connection: sqlite3.Connection, description: Description) -> None:
    names = bytes.fromhex(description.task), bytes.fromhex(description.recipe)
    facts = json.dumps(description.facts, sort_keys=True)
    row = (*names, facts, _checksum(*names, facts.encode()))
    connection.execute("INSERT OR REPLACE INTO recipes (task, recipe, facts, checksum) VALUES (?, ?, ?, ?)", row)


def _records(connection: sqlite3.Connection, lost: list[str] | None = None) -> Iterator[Entry | Description | None]:
    """Yield everything a store holds, None for a damaged entry.

    With ``lost``, which then names what cannot be read, around damaged pages.
    """
    for task, recipe, facts, checksum in _select(connection, "task, recipe, facts, checksum FROM recipes", (), lost):
        if _checksum(task, recipe, facts) == checksum:
            yield Description(task.hex(), recipe.hex(), json.loads(facts))
    read: set[int] = set()
    try:
        for number, row in _in_order(connection):
            entry = _entry(row)
            if entry is not None:
                read.add(number)
            yield entry
        return
    except sqlite3.DatabaseError:
        if lost is None:
            raise
    for first in range(1, _most_rows(connection) + 1, BLOCK):
        for number, *values in _halved(connection, first, first + BLOCK - 1, lost):
            entry = _entry(tuple(values))
            if entry is not None and number not in read:
                yield entry


def _in_order(connection: sqlite3.Connection) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number and the values of every row of the scores."""
    (rows,) = connection.execute("SELECT count(*) FROM scores").fetchone()
    last = found = 0
    while part := connection.execute(f"SELECT id, {_COLUMNS} FROM scores WHERE id > ? LIMIT {BLOCK}", (last,)).fetchall():
        for number, *row in part:
            yield number, tuple(row)
        last, found = part[-1][0], found + len(part)
    if found != rows:  # a number that damage made large hides the rows behind it
        error = sqlite3.DatabaseError(f"{found} rows of {rows} found")
        error.sqlite_errorname = "SQLITE_CORRUPT"
        raise error


def _halved(connection: sqlite3.Connection, first: int, last: int, lost: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield rows by number, as (number, *values); where some are missing, from each half on its own."""
    before, one = len(lost), first == last
    query = f"id, {_COLUMNS} FROM scores WHERE id BETWEEN ? AND ?"
    found = _select(connection, query, (first, last), lost)
    if one or len(found) == last - first + 1:
        yield from found
        return
    del lost[before:]
    middle = (first + last) // 2
    yield from _halved(connection, first, middle, lost)
    yield from _halved(connection, middle + 1, last, lost)


def _select(
    connection: sqlite3.Connection, what: str, values: tuple[int, ...], lost: list[str] | None
) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(f"SELECT {what}", values).fetchall()
    except sqlite3.DatabaseError:
        if lost is None:
            raise
        lost.append(what)
        return []


def _most_rows(connection: sqlite3.Connection) -> int:
    """Return a bound on the number of rows, from the size of the file."""
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages) * int(size) // SMALLEST_ROW


def _to_json(record: Entry | Description) -> dict[str, Any]:
    if isinstance(record, Description):
        return record._asdict()
    key = record.key
    counts = unpack_counts(key.counts).tolist()
    return {**key._asdict(), "counts": counts, "score": record.score, "seconds": record.seconds}


def _read_lines(path: Path) -> Generator[Entry | Description]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield _from_json(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{str(path)!r} cannot be read as exported scores: {error}") from error


def _from_json(path: Path, number: int, line: str) -> Entry | Description:
    try:
        values = json.loads(line)
        names = bytes.fromhex(values["task"]).hex(), bytes.fromhex(values["recipe"]).hex()
        if "facts" in values:
            return Description(*names, dict(values["facts"]))
        counts = np.array(values["counts"], np.uint32)
        return _finite(Entry(Key(*names, str(values["sample"]), pack_counts(counts)), values["score"], values["seconds"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError(f"{str(path)!r}, line {number} is not an exported score ({error!r}): remove the line") from error


def _read_store(path: Path) -> Generator[Entry | Description]:
    with ScoreStore(path, write=False) as store, store._transaction() as connection:
        for record in _records(connection):
            if record is not None:
                yield record


def _name_key(key: Key) -> str:
    sample = f", sample {key.sample}" if key.sample else ""
    return f"{name_selection(unpack_counts(key.counts))} (task {key.task[:12]}, recipe {key.recipe[:12]}{sample})"


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", None) or ""
    cure = next((text for prefix, text in _CURE.items() if name.startswith(prefix)), "cannot be used")
    return StoreError(f"{str(path)!r} {cure.format(path=path)} (SQLite: {error})")


def _open(path: Path, write: bool) -> sqlite3.Connection:
    if not write and not path.is_file():
        raise StoreError(f"no store of scores {str(path)!r}")
    if write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{str(path)!r} cannot be made: {error}; give a path in a folder that you may write") from error
        return _connect(path, "mode=rwc")
    try:
        return _connect(path, "mode=rw")
    except sqlite3.OperationalError as error:
        # On a read-only disk SQLite cannot make the files it keeps beside a store; without a log none is needed.
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")) or Path(f"{path}-wal").exists():
            raise
        return _connect(path, "mode=ro&immutable=1")


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes  # damaged text is no UTF-8
        connection.execute("PRAGMA cell_size_check = ON")
        create = options == "mode=rwc"
        if not create:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA writable_schema = ON")  # else nothing of a truncated file can be read
        _check_header(path, connection, create)
        if create:
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path, connection: sqlite3.Connection, create: bool) -> None:
    header = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if create and not any(header) and not tables:
        return
    if header[0] != APPLICATION:
        raise StoreError(f"{str(path)!r} is not a store of scores: give another path, or move the file away")
    if header[1] != FORMAT:
        raise StoreError(
            f"{str(path)!r} has format version {header[1]}; this dsenv reads version {FORMAT}: export it with the dsenv that "
            "wrote it, then merge the lines into a new store"
        )


def _prepare(connection: sqlite3.Connection) -> None:
    """Turn WAL mode on, and make the tables of a new file."""
    until = time.monotonic() + WAIT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() != (b"wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # SQLite itself does not wait here
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        for statement in (*_TABLES, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {FORMAT}"):
            connection.execute(statement)
    connection.execute("DELETE FROM scores WHERE id < 0")  # there are none: fails at once where nothing can be written
    connection.execute("COMMIT")
