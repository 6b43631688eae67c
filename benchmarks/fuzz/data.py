"""Columns, texts and vectors of strange kinds, up to a task that is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.drawing import ANYTHING, NUMBERS, WEIRD_TEXTS, readable
from benchmarks.fuzz.signed import play
from benchmarks.fuzz.surface import Surface
from dsenv.building import build_task, build_task_from_vectors
from dsenv.dataset import TextDataset
from dsenv.task import SelectionTask


def data_surfaces(folder: Path) -> list[Surface]:
    """Return the surfaces; what is kept lies in the folder."""
    return [
        Surface("columns", _columns, _tables()),
        Surface("build", _Builds(folder / "build").run, _pools()),
        Surface("vectors", _vectors, _vector_splits()),
    ]


def _tables() -> st.SearchStrategy[tuple[dict[str, Any], dict[str, Any]]]:
    cell = st.one_of(WEIRD_TEXTS, NUMBERS)
    labels = st.lists(st.sampled_from([0, 1]), min_size=20, max_size=40) | st.lists(cell, max_size=40)
    texts = st.lists(readable(), min_size=20, max_size=40) | st.lists(WEIRD_TEXTS, max_size=40)
    other = texts | st.lists(cell, max_size=40)
    columns = st.fixed_dictionaries({"text": texts, "label": labels}, optional={"source": other, "text_pair": other})
    named = {
        "label": st.just("label") | WEIRD_TEXTS,
        "split_seed": st.integers(0, 5) | NUMBERS,
        "meta": st.dictionaries(st.sampled_from(["label_names", "sources", "title"]), ANYTHING),
    }
    return st.tuples(columns, st.fixed_dictionaries({}, optional=named))


def _columns(drawn: tuple[dict[str, Any], dict[str, Any]]) -> None:
    columns, options = drawn
    length = min(map(len, columns.values()))
    found = TextDataset.from_columns({"train": {name: values[:length] for name, values in columns.items()}}, **options)
    _ = found.fingerprint, found.train.digest


def _pools() -> st.SearchStrategy[tuple[list[str], list[Any], dict[str, Any]]]:
    texts = st.lists(readable(), min_size=20, max_size=60)
    labels = st.lists(st.sampled_from(["x", "y", "z"]), min_size=20, max_size=60)
    options = st.fixed_dictionaries(
        {},
        optional={
            "clusters": st.integers(1, 9) | NUMBERS,
            "dimensions": st.integers(1, 9) | NUMBERS,
            "max_rows": st.just(99) | NUMBERS,
            "seed": st.just(1) | NUMBERS,
        },
    )
    return st.tuples(texts, labels, options)


class _Builds:
    """Tasks of strange texts, from the table to an episode."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, drawn: tuple[list[str], list[Any], dict[str, Any]]) -> None:
        texts, labels, options = drawn
        length = min(len(texts), len(labels))
        task = build_task(texts[:length], labels[:length], encoder="tfidf", cache_dir=self.folder, **options)
        path = task.save(self.folder / "task.npz")
        play(SelectionTask.load(path))


def _vector_splits() -> st.SearchStrategy[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    def array(shape: tuple[int, ...], kind: str, seed: int) -> Any:
        values = np.random.default_rng(seed).normal(size=shape)
        if kind == "nan" and values.size:
            values.flat[0] = np.nan
        elif kind == "huge":
            values *= 1e300
        elif kind == "large":
            values *= 1e30
        elif kind == "constant":
            values[:] = 1.0
        return values.astype(np.float32, copy=False) if kind == "f4" else values.astype("U5") if kind == "text" else values

    with np.errstate(all="ignore"):
        kinds = st.sampled_from(["f4", "f8", "nan", "huge", "large", "constant", "text"])
        shapes = st.sampled_from([(30, 4), (30, 3), (0, 4), (1, 4), (30,), (30, 4, 1)])
        made = st.builds(array, shapes, kinds, st.integers(0, 99)) | ANYTHING
        labels = st.sampled_from(
            [
                [0, 1] * 15,
                [0] * 30,
                [0, 5] * 15,
                [0.0, 1.0] * 15,
                [-1, 1] * 15,
                [np.nan] * 30,
                ["a", "b"] * 15,
                [0, 1],
                [],
                [[0, 1]] * 15,
                list(range(30)),
                [2**40, 1] * 15,
            ]
        )
        splits = ("train", "validation", "test")
        options = st.fixed_dictionaries(
            {},
            optional={
                "clusters": NUMBERS,
                "dimensions": NUMBERS,
                "class_names": ANYTHING,
                "sources": ANYTHING,
                "seed": NUMBERS,
            },
        )
        usual = st.just(array((30, 4), "f4", 1))
        return st.tuples(
            st.fixed_dictionaries({split: usual | made for split in splits}),
            st.fixed_dictionaries({split: st.just([0, 1] * 15) | labels for split in splits}),
            options,
        )


def _vectors(drawn: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
    vectors, labels, options = drawn
    with np.errstate(all="ignore"):
        play(build_task_from_vectors(vectors, labels, **options))
