"""Surfaces that read files: task files, selections, results, stores, tables, checkpoints, caches."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz import samples
from benchmarks.fuzz.surface import Surface
from dsenv.checkpoints import load_checkpoint
from dsenv.dataset import TextDataset
from dsenv.encoders import TfidfEncoder, encode
from dsenv.evaluation import load_rows
from dsenv.finetuning import TargetResult
from dsenv.leaderboard import load_constants, load_leaderboard
from dsenv.proxies.entries import read_lines
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.surrogate import SurrogateProxy
from dsenv.selection import Selection
from dsenv.tables import read_table
from dsenv.task import SelectionTask

META = b'{"title": "x", "label_names": ["positive", "neutral", "negative"], "sources": [{"licence_as_stated": "none"}]}'


def file_surfaces(folder: Path) -> list[Surface]:
    """Return the surfaces; the input of each lies in the folder while it is read."""
    genuine = Path(tempfile.mkdtemp(dir=folder))

    def of(name: str, file: str, read: Callable[[Path], Any], seeds: Callable[[], list[bytes]]) -> Surface:
        path = folder / file

        def run(data: bytes) -> None:
            path.write_bytes(data)
            read(path)

        return Surface(name, run, seeds=seeds)

    def made(write: Callable[[Path], Path], *files: str) -> Callable[[], list[bytes]]:
        return lambda: [write(genuine / file).read_bytes() for file in files]

    def as_json(*values: Callable[[], Any]) -> Callable[[], list[bytes]]:
        return lambda: [json.dumps(value()).encode() for value in values]

    found = [
        of("task file", "task.npz", SelectionTask.load, made(samples.task().save, "task.npz")),
        of("selection", "selection.json", _selection, as_json(lambda: samples.as_json(samples.selection()))),
        of("results", "results.jsonl", _results, lambda: [_lines().encode()]),
        of("target result", "target.json", TargetResult.load, as_json(lambda: samples.as_json(samples.target_result()))),
        of("leaderboard", "leaderboard.json", lambda path: load_leaderboard([path], {}), as_json(samples.summary)),
        of("constants", "constants.json", load_constants, as_json(samples.constants)),
        of("store", "scores.sqlite", _store, made(samples.store, "scores.sqlite")),
        of("exported scores", "scores.jsonl", lambda path: list(read_lines(path)), lambda: [_exported(genuine)]),
        of("table *.csv", "table.csv", _dataset, made(samples.table, "table.csv", "table.tsv")),
        of("table *.jsonl", "table.jsonl", _dataset, made(samples.table, "table.jsonl")),
        of("table *.parquet", "table.parquet", _dataset, made(samples.table, "table.parquet")),
        of("meta.json", "data/meta.json", _folder, lambda: [META]),
        of("checkpoint", "a.checkpoint", _checkpoint, made(samples.checkpoint, "a.checkpoint")),
        of("surrogate", "a.safetensors", _surrogate, made(samples.surrogate, "a.safetensors")),
    ]  # fmt: skip
    data = folder / "data"
    data.mkdir()
    samples.table(data / "train.jsonl")
    return [*found, _vector_cache(folder / "cache")]


def _selection(path: Path) -> None:
    """What was read is written and read as the same."""
    found = Selection.load(path)
    found.save(path)
    if Selection.load(path) != found:
        raise AssertionError("a selection that was read is not written as it is")


def _results(path: Path) -> None:
    for row in load_rows(path):
        path.write_text(row.to_json(), encoding="utf-8")
        if load_rows(path) != [row]:
            raise AssertionError("a result that was read is not written as it is")


def _store(path: Path) -> None:
    for beside in (Path(f"{path}-wal"), Path(f"{path}-shm")):
        beside.unlink(missing_ok=True)
    keys = [entry.key for entry in samples.entries()]
    with ScoreStore(path, write=False) as opened:
        opened.get(keys)
        opened.export(path.with_suffix(".exported.jsonl"))
        opened.info()
    with ScoreStore(path) as opened:
        opened.put(samples.entries())
        if set(opened.get(keys)) != set(keys):
            raise AssertionError("a score that was put is not there")


def _dataset(path: Path) -> None:
    TextDataset.from_columns({"train": read_table(path)})


def _folder(path: Path) -> None:
    TextDataset.from_folder(path.parent)


def _checkpoint(path: Path) -> None:
    load_checkpoint(path, *samples.weights(), "cpu", "mine")


def _surrogate(path: Path) -> None:
    env = samples.environment()
    found = SurrogateProxy.load(path, samples.task(), env.plan)
    if not np.isfinite(found.score(np.eye(env.plan.clusters, dtype=np.int64))).all():
        raise AssertionError("a surrogate's scores are not finite")


def _vector_cache(folder: Path) -> Surface:
    """Vectors that are kept from one build to the next."""
    dataset = TextDataset.from_columns({"train": samples.texts()})
    encoder = TfidfEncoder(dataset.train.texts)
    encode(dataset, encoder, cache_dir=folder)
    path = sorted(folder.rglob("*.npz"))[0]
    genuine = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        found = encode(dataset, encoder, cache_dir=folder)
        for split, rows in dataset.splits.items():
            if len(found[split]) != len(rows) or not np.isfinite(found[split]).all():
                raise AssertionError("cached vectors do not fit the rows, or are not finite")

    return Surface("vector cache", run, seeds=lambda: [genuine])


def _lines() -> str:
    return f"{samples.result().to_json()}\n{samples.failure().to_json()}\n"


def _exported(folder: Path) -> bytes:
    with ScoreStore(samples.store(folder / "exported.sqlite"), write=False) as opened:
        opened.export(folder / "exported.jsonl")
    return (folder / "exported.jsonl").read_bytes()
