"""Scores that are remembered: one SQLite file for many tasks, recipes and processes.

Every score is one short transaction, so that a killed process leaves all scores it had and no half of one.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsenv.errors import StoreError
from dsenv.files import atomic_write
from dsenv.proxies.entries import RECIPE_COLUMNS, SCORE_COLUMNS, Description, Entry, Key, read_lines

FORMAT = 1
APPLICATION = 0x64734556  # in the header of the file: says that it is ours
WAIT_SECONDS = 60.0
SAME = 1e-9
SMALLEST_ROW = 100
LARGEST_VALUE = 2**26  # bytes, of counts or facts

_TABLES = (
    "CREATE TABLE recipes (task BLOB, recipe BLOB, facts TEXT, checksum INTEGER, PRIMARY KEY (task, recipe))",
    "CREATE TABLE scores (id INTEGER PRIMARY KEY, key BLOB UNIQUE, task BLOB, recipe BLOB, sample TEXT, counts BLOB, "
    "score REAL, seconds REAL, checksum INTEGER)",
)
_CURE = {
    "SQLITE_NOTADB": "is not a store of scores, or its beginning is damaged: give another path, or move the file away",
    "SQLITE_CORRUPT": "is damaged: save what can be read with `dsenv store export {path} --out scores.jsonl`, move the file "
    "away, then `dsenv store merge {path} scores.jsonl`",
    "SQLITE_TOOBIG": "holds an entry larger than any of ours: it is damaged; move the file away",
    "SQLITE_READONLY": "cannot be written: give yourself the right to write the file and its folder, or copy it elsewhere",
    "SQLITE_CANTOPEN": "cannot be opened: the folder must exist and allow files to be made in it",
    "SQLITE_FULL": "cannot grow, the disk is full: free some space and start again; the scores so far are kept",
    "SQLITE_IOERR": "cannot be read or written: look whether the disk is full or gone; it must be a local disk",
    "SQLITE_BUSY": f"was locked by another process for {WAIT_SECONDS:.0f} seconds: wait for that process, or end it",
}
# SQLite forbids a child process even to close what its parent opened, so it is kept here.
_inherited: list[sqlite3.Connection] = []

log = logging.getLogger(__name__)


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

    def get(self, keys: Iterable[Key]) -> dict[Key, float]:
        """Return the scores of those keys that the store holds."""
        with self._transaction() as connection:
            held = [_find(connection, key) for key in set(keys)]
        return {entry.key: entry.score for entry in held if entry is not None}

    def put(self, entries: Iterable[Entry]) -> None:
        """Keep scores, all or none of them. Where a key is held already, the first score stays.

        Raises:
            InputError: for a score that is not finite.
        """
        checked = [entry.checked() for entry in entries]
        with self._transaction("IMMEDIATE") as connection:
            for entry in checked:
                _insert(connection, entry)
            for entry in checked:  # later ones may have moved an index that is out of order
                _check_found(connection, entry.key)

    def describe(self, description: Description) -> None:
        """Keep what a recipe's digest stands for."""
        with self._transaction("IMMEDIATE") as connection:
            _insert_description(connection, description)

    def info(self) -> StoreInfo:
        """Count what the store holds, and the damaged entries."""
        facts: dict[tuple[str, str], dict[str, Any]] = {}
        seconds: dict[tuple[str, str], float] = {}
        samples: dict[tuple[str, str], Counter[str]] = {}
        damaged = 0
        with self._transaction() as connection:
            for record in _records(connection):
                if isinstance(record, Description):
                    facts[record[:2]] = record.facts
                elif record is None:
                    damaged += 1
                else:
                    names = record.key[:2]
                    seconds[names] = seconds.get(names, 0.0) + record.seconds
                    samples.setdefault(names, Counter())[record.key.sample] += 1
        recipes = tuple(
            Held(*names, facts.get(names, {}), drawn.total(), len(set(drawn) - {""}), seconds[names])
            for names, drawn in sorted(samples.items())
        )
        scores = sum(held.scores for held in recipes)
        return StoreInfo(self.path, scores, damaged, self.path.stat().st_size, recipes)

    def export(self, path: str | Path) -> int:
        """Write every entry that can be read, of a damaged file too, as one JSON line; returns their number.

        A recipe's line has the keys ``task``, ``recipe``, ``facts``; a score's line has ``task``, ``recipe``, ``sample``,
        ``counts``, ``score``, ``seconds``. ``merge`` reads such a file. It is written atomically.
        """
        written = damaged = 0
        lost: list[int] = []
        try:
            with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file, self._transaction() as source:
                for record in _readable_records(source, lost):
                    if record is None:
                        damaged += 1
                    else:
                        written += isinstance(record, Entry)
                        file.write(json.dumps(record.to_json()) + "\n")
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
                with closing((read_lines if other.suffix == ".jsonl" else _read_store)(other)) as records:
                    for record in records:
                        if isinstance(record, Description):
                            _insert_description(connection, record)
                        elif (held := _insert(connection, record)) is None:
                            added += 1
                        elif abs(held.score - record.score) > SAME:
                            raise StoreError(
                                f"{str(self.path)!r} and {str(other)!r} hold different scores of one key: {held.score!r} and "
                                f"{record.score!r} of {record.key.name}; one of the two was made by something that the "
                                "recipe does not name, so keep them apart"
                            )
        return added

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._leave()

    def __enter__(self) -> ScoreStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the connection out: every process and every copy opens its own."""
        return partial(ScoreStore, write=self.write), (self.path,)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._process == os.getpid():
            connection.close()
        elif connection is not None:
            _inherited.append(connection)

    @contextmanager
    def _transaction(self, kind: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._process != os.getpid():
                    self._leave()
                if self._connection is None:
                    self._connection, self._process = _open(self.path, self.write), os.getpid()
                connection = self._connection
                connection.execute(f"BEGIN {kind}")
                try:
                    yield connection
                    if kind != "DEFERRED":
                        connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:  # after an error, or only read; COMMIT fails on a file with damage
                        connection.execute("ROLLBACK")
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where SQLite's own message quotes damaged text
                damaged = isinstance(error, UnicodeDecodeError)
                name = "SQLITE_CORRUPT" if damaged else getattr(error, "sqlite_errorname", None) or ""
                cure = next((text for prefix, text in _CURE.items() if name.startswith(prefix)), "cannot be used")
                raise StoreError(f"{str(self.path)!r} {cure.format(path=self.path)} (SQLite: {error})") from error


def _find(connection: sqlite3.Connection, key: Key) -> Entry | None:
    row = connection.execute(f"SELECT {SCORE_COLUMNS} FROM scores WHERE key = ?", (key.digest,)).fetchone()
    entry = Entry.from_row(row) if row else None
    return entry if entry is not None and entry.key == key else None


def _insert(connection: sqlite3.Connection, entry: Entry) -> Entry | None:
    """Keep an entry, in the place of a damaged one; returns the one that is held already and stays."""
    held = _find(connection, entry.key)
    if held is None:
        connection.execute(
            f"INSERT OR REPLACE INTO scores (id, key, {SCORE_COLUMNS}) "
            "VALUES ((SELECT id FROM scores WHERE key = ?), ?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.key.digest, entry.key.digest, *entry.to_row()),
        )
        _check_found(connection, entry.key)
    return held


def _check_found(connection: sqlite3.Connection, key: Key) -> None:
    """Refuse a file that does not give back what was written: SQLite does not see that an index is out of order."""
    if _find(connection, key) is None:
        raise _damage("a score that was written is not found")


def _insert_description(connection: sqlite3.Connection, description: Description) -> None:
    connection.execute(f"INSERT OR REPLACE INTO recipes ({RECIPE_COLUMNS}) VALUES (?, ?, ?, ?)", description.to_row())


def _records(connection: sqlite3.Connection) -> Iterator[Entry | Description | None]:
    """Yield everything a store holds, None for a damaged entry."""
    yield from filter(None, map(Description.from_row, connection.execute(f"SELECT {RECIPE_COLUMNS} FROM recipes")))
    (hidden,) = connection.execute("SELECT count(*) FROM scores").fetchone()
    for row in connection.execute(f"SELECT {SCORE_COLUMNS} FROM scores"):
        hidden -= 1
        yield Entry.from_row(row)
    if hidden:
        raise _damage(f"{hidden} rows not found")


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def _readable_records(connection: sqlite3.Connection, lost: list[int]) -> Iterator[Entry | Description | None]:
    """Yield as ``_records`` does and, after damage, row by row what else can be read; ``lost`` takes the other numbers."""
    read: set[bytes] = set()
    try:
        for record in _records(connection):
            if isinstance(record, Entry):
                read.add(record.key.digest)
            yield record
        return
    except sqlite3.DatabaseError:
        (size,) = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    for number in range(1, size // SMALLEST_ROW + 1):
        try:
            row = connection.execute(f"SELECT {SCORE_COLUMNS} FROM scores WHERE id = ?", (number,)).fetchone()
        except sqlite3.DatabaseError:
            lost.append(number)
            continue
        entry = Entry.from_row(row) if row else None
        if entry is not None and entry.key.digest not in read:
            yield entry


def _read_store(path: Path) -> Generator[Entry | Description]:
    with ScoreStore(path, write=False) as store, store._transaction() as connection:
        yield from filter(None, _records(connection))


def _open(path: Path, write: bool) -> sqlite3.Connection:
    if write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{str(path)!r} cannot be made: {error}; give a path in a folder that you may write") from error
        return _connect(path, "mode=rwc")
    if not path.is_file():
        raise StoreError(f"no store of scores {str(path)!r}")
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
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        create = options == "mode=rwc"
        if not create:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA writable_schema = ON")  # else nothing of a truncated file can be read
        connection.execute("BEGIN")  # one look: another process may be making the tables
        header = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("ROLLBACK")
        if not create or any(header) or tables:
            if header[0] != APPLICATION:
                raise StoreError(f"{str(path)!r} is not a store of scores: give another path, or move the file away")
            if header[1] != FORMAT:
                raise StoreError(
                    f"{str(path)!r} has format version {header[1]}; this dsenv reads version {FORMAT}: export it with the "
                    "dsenv that wrote it, then merge the lines into a new store"
                )
            _check_tables(connection, path)
        if create:
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file whose tables are not those that are made here: a view or a trigger runs what its maker wrote."""
    found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*'").fetchall()
    if sorted(sql for (sql,) in found) != sorted(table.encode() for table in _TABLES):
        raise StoreError(f"{str(path)!r} is not a store of scores, its tables are others: give another path")


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
