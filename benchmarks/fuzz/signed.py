"""Task files and stores whose contents were changed, and their digests and checksums with them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz import samples
from benchmarks.fuzz.drawing import ANYTHING
from benchmarks.fuzz.surface import Surface
from dsenv.env import DataSelectEnv
from dsenv.proxies.entries import _signed
from dsenv.proxies.store import ScoreStore
from dsenv.task import SelectionTask
from dsenv.task_file import task_digest


def signed_surfaces(folder: Path) -> list[Surface]:
    """Return the surfaces; the files lie in the folder."""
    return [
        Surface("task, signed", _Tasks(folder / "signed.npz").run, _Tasks.edits()),
        Surface("task, members", _members(folder / "members.npz"), _member_edits()),
        Surface("store, signed", _Stores(folder / "signed.sqlite").run, _Stores.rows()),
    ]


def _member_edits() -> st.SearchStrategy[tuple[str, int, bytes]]:
    """Bytes in the place of others near the beginning of a member, where its header is."""
    text = st.text("(){}[]'\"\\,:#0123456789<>|iufOTrueFalse \n-", min_size=1, max_size=12).map(str.encode)
    return st.tuples(st.sampled_from(sorted(samples.task().arrays)), st.integers(0, 140), text | st.binary(max_size=8))


def _members(path: Path) -> Callable[[tuple[str, int, bytes]], None]:
    """Task files of which a member was changed, and its CRC-32 with it."""
    samples.task().save(path)
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}

    def run(edit: tuple[str, int, bytes]) -> None:
        name, place, data = edit
        member = held[f"{name}.npy"]
        changed = {**held, f"{name}.npy": member[:place] + data + member[place + len(data) :]}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in changed.items():
                archive.writestr(each, content)
        SelectionTask.load(path)

    return run


class _Tasks:
    """Task files whose arrays and metadata were changed, and the digest with them; what is read must play."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def edits() -> st.SearchStrategy[list[tuple[Any, ...]]]:
        task = samples.task()
        arrays, facts = sorted(task.arrays), sorted(task.metadata)
        place = st.integers(0, 10**6)
        return st.lists(
            st.one_of(
                st.tuples(
                    st.just("value"),
                    st.sampled_from(arrays),
                    place,
                    st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 99, -128, 127, 1e30, np.nan]),
                ),
                st.tuples(st.just("length"), st.sampled_from(arrays), st.integers(-3, 3)),
                st.tuples(
                    st.just("type"),
                    st.sampled_from(arrays),
                    st.sampled_from(["i1", "i8", "u1", "u8", "f4", "f8", "f2", "?", "S3", "U3", "c8", "M8[s]"]),
                ),
                st.tuples(st.just("shape"), st.sampled_from(arrays), st.sampled_from([(1,), (0,), (2, 2), (), (1, 1, 1)])),
                st.tuples(st.just("copy"), st.sampled_from(arrays), st.one_of(st.sampled_from(arrays), st.text(max_size=8))),
                st.tuples(st.just("drop"), st.sampled_from(arrays)),
                st.tuples(st.just("fact"), st.sampled_from(facts) | st.text(max_size=5), ANYTHING),
                st.tuples(st.just("no fact"), st.sampled_from(facts)),
                st.tuples(
                    st.just("variant"), st.text(max_size=5), st.dictionaries(st.sampled_from(facts), ANYTHING, max_size=2)
                ),
            ),
            min_size=1,
            max_size=3,
        )

    def run(self, edits: list[tuple[Any, ...]]) -> None:
        arrays, facts = dict(samples.task().arrays), dict(samples.task().metadata)
        try:
            for edit in edits:
                _change(arrays, facts, *edit)
            metadata = np.frombuffer(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode(), np.uint8)
            digest = np.frombuffer(bytes.fromhex(task_digest(arrays, facts)), np.uint8)
            np.savez(self.path, allow_pickle=False, **{**arrays, "metadata": metadata, "digest": digest})
        except (ValueError, TypeError, OverflowError, IndexError, RuntimeError):
            return  # nothing that a file can hold
        found = SelectionTask.load(self.path)
        for variant in ("", *found.metadata.get("variants", {})):
            play(found.at_variant(variant))
        play(found.at_instance(3) if found.tables is None else found)


@np.errstate(all="ignore")
def _change(arrays: dict[str, Any], facts: dict[str, Any], what: str, name: str, *rest: Any) -> None:
    """Do one edit; an array that an edit before took away stays away."""
    if what == "fact":
        facts[name] = rest[0]
    elif what == "no fact":
        facts.pop(name, None)
    elif what == "variant":
        facts["variants"] = {**samples.task().metadata["variants"], name: rest[0]}
    elif name in arrays:
        array = arrays.pop(name)
        if what == "value" and array.size:
            array = array.copy()
            array.reshape(-1)[rest[0] % array.size] = np.asarray(rest[1]).astype(array.dtype)
        elif what == "length":
            array = array[: rest[0]] if rest[0] < 0 else np.concatenate([array, array[: rest[0]]])
        elif what == "type":
            array = array.astype(rest[0])
        elif what == "shape":
            array = np.zeros(rest[0], array.dtype)
        elif what == "copy":
            arrays[rest[0]] = array
        if what != "drop":
            arrays[name] = array


def play(task: SelectionTask) -> None:
    """Two picks of every clustering, and everything that a task says of itself."""
    _ = task.name, task.classes, task.class_names, task.source_names, task.reported, task.class_shares
    for clustering in task.facts["clusterings"]:
        env = DataSelectEnv(task, clustering=clustering, budget=0.5, picks=2)
        env.reset(seed=0)
        for _ in range(2):
            env.step(int(np.argmax(env.action_masks())))


class _Stores:
    """Stores with rows of any values, whose checksums are right."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def rows() -> st.SearchStrategy[list[tuple[str, tuple[Any, ...]]]]:
        value = st.one_of(
            st.none(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(),
            st.text(max_size=8),
            st.binary(max_size=8),
            st.just(b"\x01\x02"),
        )
        return st.lists(
            st.one_of(
                st.tuples(st.just("scores"), st.tuples(*[value] * 6)),
                st.tuples(st.just("recipes"), st.tuples(*[value] * 3)),
            ),
            min_size=1,
            max_size=3,
        )

    def run(self, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()
        samples.store(self.path)
        with closing(sqlite3.connect(self.path)) as connection, contextlib.suppress(UnicodeEncodeError):
            for table, values in rows:
                columns = (
                    "task, recipe, facts, checksum"
                    if table == "recipes"
                    else "task, recipe, sample, counts, score, seconds, checksum"
                )
                signed = _signed(*values)
                marks = ", ".join("?" * len(signed))
                connection.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", signed)
            connection.commit()
        with ScoreStore(self.path, write=False) as opened:
            opened.get([entry.key for entry in samples.entries()])
            opened.info()
            opened.export(self.path.with_suffix(".jsonl"))
        merged = self.path.with_name("signed.sqlite.merged")
        with ScoreStore(merged) as opened:
            opened.merge(self.path, self.path.with_suffix(".jsonl"))
