"""Datasets to tasks: encode, reduce, cut and cluster, everything fitted on training rows only.

Time is linear in the rows. Vectors are read block by block, three times; beside the 8-bit result and a few ids a row, memory
is bounded by a block, d x d sums and the rows that clusters are fitted on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.dataset import SPLITS, Ints, TextDataset, stratified_sample
from dsenv.encoders import Encoder, VectorRows, Vectors, encode, row_blocks
from dsenv.errors import InputError, one_of, require
from dsenv.seeding import generator
from dsenv.task import (
    CLUSTERINGS,
    FORMAT,
    REGULARISATION,
    REPORTED,
    TEST,
    TRAIN,
    Arrays,
    SelectionTask,
    add_clustering,
    cut_validation,
    small_ints,
)

log = logging.getLogger(__name__)

DIMENSIONS = 64
CLUSTERS = 64
MAX_TRAINING_ROWS = 60_000


@dataclass(frozen=True)
class _Part:
    """One split, as building sees it.

    Attributes:
        split: its name.
        vectors: of all its rows.
        labels: (n,) class ids.
        strata: (n,) ids of the groups that a draw is stratified by.
        sources: n names, or None.
        chosen: the rows that are used, ascending; None: all.
        read: the numbers of the used rows in ``vectors``, where those hold others too.
    """

    split: str
    vectors: VectorRows
    labels: Ints
    strata: Ints
    sources: Sequence[str] | None = None
    chosen: Ints | None = None
    read: Ints | None = None

    @property
    def used(self) -> int:
        return len(self.labels) if self.chosen is None else len(self.chosen)

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield the used rows' vectors with their places among the used rows.

        Raises:
            InputError: for a vector that is not finite.
        """
        for part in row_blocks(self.used):
            yield part, self._block(part)

    def _block(self, part: slice) -> npt.NDArray[np.float64]:
        block = np.asarray(self.vectors[part] if self.read is None else self.vectors[self.read[part]], np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = part.start + int(np.argmin(finite))
            row = row if self.read is None else int(self.read[row])
            raise InputError(f"vectors of {self.split!r} hold NaN or infinity, first in row {row}")
        return block.astype(np.float64)


@dataclass(frozen=True)
class _Dequantised:
    """Reduced vectors as the task's features will be, made when rows are asked for."""

    stored: npt.NDArray[np.int8]
    scale: Vectors

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def __getitem__(self, rows: Any) -> Vectors:
        return np.asarray(self.stored[rows] * self.scale)


def build_task(
    dataset: TextDataset,
    *,
    encoder: str | Encoder = "minilm",
    vectors: Mapping[str, VectorRows] | None = None,
    clusters: int | None = None,
    dimensions: int = DIMENSIONS,
    max_rows: int = MAX_TRAINING_ROWS,
    reported: str = "accuracy",
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> SelectionTask:
    """Encode, reduce, cut and cluster a dataset.

    Reduction, scaling and clustering are fitted on training rows only; validation is cut once, stratified by class and
    source, into reward and selection halves.

    Args:
        dataset: the rows.
        encoder: as in ``encode``.
        vectors: your own vectors instead of an encoder's, ``{"train": (n, d), "validation": ..., "test": ...}``.
        clusters: K, for both clusterings; default 64, or as many as there are rows.
        dimensions: of the reduced vectors.
        max_rows: larger pools are cut by a seeded stratified sample.
        reported: ``accuracy`` or ``macro_f1``; decides the default reward metric too.
        seed: of the sample, the cut, the clusters and the row order.
        cache_dir: of the vectors.

    Raises:
        InputError: for values outside what is allowed, vectors that are not finite or do not fit the rows.
    """
    splits = dataset.splits
    sizes = {split: len(rows) for split, rows in splits.items()}
    _check_sizes(sizes, reported, dimensions, max_rows, len(dataset.class_names))
    chosen = _pool_rows(dataset.train.strata, max_rows, seed)
    clusters = _checked_clusters(clusters, sizes["train"] if chosen is None else len(chosen))
    read = chosen
    if vectors is None:
        named = encoder if isinstance(encoder, str) else encoder.identity
        with _stage(dataset.name, "encode"):
            vectors = encode(dataset, encoder, train_rows=chosen, cache_dir=cache_dir)
        read = None
    else:
        named = "own vectors"
        vectors = _checked_vectors(vectors, sizes)
    parts = [
        _Part(split, vectors[split], rows.labels, rows.strata, rows.sources, *((chosen, read) if split == "train" else ()))
        for split, rows in splits.items()
    ]
    facts = {
        "name": dataset.name,
        "title": dataset.meta.get("title", dataset.name),
        "sources": dataset.meta.get("sources", []),
        "licences": _licences(dataset.meta),
        "derivation": dataset.derivation,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "encoder": named,
        "reported": reported,
    }
    return _build(parts, facts, clusters, dimensions, seed)


def build_task_from_vectors(
    vectors: Mapping[str, VectorRows],
    labels: Mapping[str, npt.ArrayLike],
    *,
    name: str = "own",
    class_names: Sequence[str] | None = None,
    sources: Mapping[str, Sequence[str]] | None = None,
    encoder: str = "own vectors",
    clusters: int | None = None,
    dimensions: int = DIMENSIONS,
    max_rows: int | None = None,
    reported: str = "accuracy",
    seed: int = 0,
) -> SelectionTask:
    """Reduce, cut and cluster vectors of your own, without any text, as ``build_task`` does.

    The vectors may be larger than memory: arrays, memory-mapped files (float32, float16), anything with a ``shape`` that
    takes slices. They are read block by block, four times. The task's fingerprint is ``fingerprint_vectors``.

    Args:
        vectors: ``{"train": (n, d), "validation": ..., "test": ...}``, finite.
        labels: for each split (n,) class ids 0 to C - 1.
        name: of the task.
        class_names: C names; default: the class ids of training, as texts.
        sources: for each split n names of where a row comes from; validation is then cut by class and source.
        encoder: what made the vectors, for the metadata.
        clusters: K, for both clusterings; default 64, or as many as there are rows.
        dimensions: of the reduced vectors.
        max_rows: larger pools are cut by a seeded stratified sample; default: all rows are used.
        reported: ``accuracy`` or ``macro_f1``; decides the default reward metric too.
        seed: of the sample, the cut, the clusters and the row order.

    Raises:
        InputError: for values outside what is allowed, labels or sources that do not fit the vectors, one class only, or
            vectors that are not finite.
    """
    ids = {split: _checked_labels(split, labels) for split in SPLITS}
    if len(np.unique(ids["train"])) < 2:
        raise InputError("the training labels are of one class only; at least two are needed")
    names = [str(c) for c in range(int(ids["train"].max()) + 1)] if class_names is None else [str(c) for c in class_names]
    for split, found in ids.items():
        if found.max() >= len(names):
            raise InputError(f"{split!r} has the label {found.max()}; allowed are 0 to {len(names) - 1}")
    sizes = {split: len(found) for split, found in ids.items()}
    most = sizes["train"] if max_rows is None else max_rows
    _check_sizes(sizes, reported, dimensions, most, len(names))
    vectors = _checked_vectors(vectors, sizes)
    given = {split: _checked_sources(split, sources, size) for split, size in sizes.items()}
    strata = {split: _strata(found, given[split]) for split, found in ids.items()}
    chosen = _pool_rows(strata["train"], most, seed)
    clusters = _checked_clusters(clusters, sizes["train"] if chosen is None else len(chosen))
    parts = [
        _Part(split, vectors[split], ids[split], strata[split], given[split], *((chosen, chosen) if split == "train" else ()))
        for split in SPLITS
    ]
    with _stage(name, "fingerprint"):
        fingerprint = fingerprint_vectors(vectors, ids)
    facts = {
        "name": name,
        "title": name,
        "sources": [],
        "licences": "none stated",
        "derivation": {},
        "class_names": names,
        "fingerprint": fingerprint,
        "encoder": encoder,
        "reported": reported,
    }
    return _build(parts, facts, clusters, dimensions, seed)


def fingerprint_vectors(vectors: Mapping[str, VectorRows], labels: Mapping[str, npt.ArrayLike]) -> str:
    """Return the SHA-256 over every label and every vector, as float32, of every split, read block by block."""
    digest = hashlib.sha256()
    for split in SPLITS:
        ids = np.asarray(labels[split])
        digest.update(f"{split}:{vectors[split].shape};".encode())
        for part in row_blocks(len(ids)):
            digest.update(ids[part].astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(vectors[split][part], "<f4").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def compare_tasks(ours: SelectionTask, theirs: SelectionTask) -> dict[str, float | bool]:
    """Say how far two builds of the same dataset agree, on two machines say.

    Returns:
        ``same_digest``, for each clustering the share of rows with the same cluster id, and ``largest_difference`` of
        the reduced features (in units of the first component's standard deviation).

    Raises:
        InputError: where the two were not built from the same rows.
    """
    if (
        ours.metadata["fingerprint"] != theirs.metadata["fingerprint"]
        or ours.train_rows.tolist() != theirs.train_rows.tolist()
    ):
        raise InputError(f"tasks {ours.name!r} and {theirs.name!r} were built from different rows: nothing to compare")
    report: dict[str, float | bool] = {"same_digest": ours.digest == theirs.digest}
    for name in CLUSTERINGS:
        same = ours.clustering(name).cluster == theirs.clustering(name).cluster
        report[f"same_cluster_{name}"] = float(same.mean())
    if ours.train.features.shape != theirs.train.features.shape:
        raise InputError(f"tasks {ours.name!r} and {theirs.name!r} have different dimensions")
    report["largest_difference"] = float(np.abs(ours.train.features - theirs.train.features).max())
    return report


def _build(parts: list[_Part], facts: dict[str, Any], clusters: int, dimensions: int, seed: int) -> SelectionTask:
    """Make the task of three splits: train, validation, test."""
    train, validation, test = parts
    name = facts["name"]
    with _stage(name, "reduce"):
        quantised, scale, explained = _reduce(parts, dimensions)
    own_labels = train.labels if train.chosen is None else train.labels[train.chosen]
    reduced = _Dequantised(quantised[: train.used], scale)
    with _stage(name, "cluster"):
        clusterings = {
            "stratified": cluster_stratified(reduced, own_labels, clusters, seed),
            "kmeans": cluster_kmeans(reduced, clusters, seed),
        }
    with _stage(name, "assemble"):
        labels = np.concatenate([own_labels, validation.labels, test.labels])
        pool_sources = train.sources
        if pool_sources is not None and train.chosen is not None:
            pool_sources = [pool_sources[row] for row in train.chosen.tolist()]
        source_names, sources = _source_ids([pool_sources, validation.sources, test.sources], len(labels))
        cut = cut_validation(validation.strata, generator(seed, "cut"))
        split = np.concatenate([np.full(train.used, TRAIN, np.int8), cut, np.full(test.used, TEST, np.int8)])
        arrays: Arrays = {
            "vectors": quantised,
            "column_scale": scale,
            "labels": small_ints(labels),
            "sources": small_ints(sources),
            "split": split,
            "train_rows": (np.arange(train.used) if train.chosen is None else train.chosen).astype(np.int32),
        }
        for kind in CLUSTERINGS:
            add_clustering(arrays, kind, clusterings[kind])
        metadata = {
            **facts,
            "format": FORMAT,
            "source_names": source_names,
            "rows": {
                "train": len(train.labels),
                "pool": train.used,
                "validation": validation.used,
                "test": test.used,
            },
            "explained_variance": round(explained, 6),
            "regularisation": REGULARISATION,
            "clusterings": list(CLUSTERINGS),
            "clusters": clusters,
            "seed": seed,
            "versions": _versions(),
        }
        task = SelectionTask(arrays, metadata)
    return task


@contextmanager
def _stage(name: str, stage: str) -> Iterator[None]:
    """Log what a part of the work took; ``benchmarks.scaling`` reads the arguments of these records."""
    started = time.perf_counter()
    yield
    log.info("build %s: %s in %.2f s", name, stage, time.perf_counter() - started)


def _check_sizes(sizes: Mapping[str, int], reported: str, dimensions: int, max_rows: int, classes: int) -> None:
    one_of("reported metric", reported, REPORTED)
    for what, value, least in (("dimensions", dimensions, 1), ("max_rows", max_rows, classes)):
        if value < least:
            raise InputError(f"{what} {value!r} is below {least}")
    if sizes["validation"] < 2:
        raise InputError(f"validation has {sizes['validation']} row: at least 2 are cut into the reward and selection halves")


def _pool_rows(strata: Ints, max_rows: int, seed: int) -> Ints | None:
    """The rows of a pool above ``max_rows``, ascending, or None: all."""
    return stratified_sample(strata, max_rows, generator(seed, "pool")) if len(strata) > max_rows else None


def _checked_clusters(clusters: int | None, rows: int) -> int:
    clusters = min(CLUSTERS, rows) if clusters is None else clusters
    if not 1 <= clusters <= rows:
        raise InputError(f"{clusters} clusters of {rows} training rows: allowed are 1 to {rows}")
    return clusters


def _checked_vectors(vectors: Mapping[str, VectorRows], sizes: Mapping[str, int]) -> dict[str, VectorRows]:
    found: dict[str, VectorRows] = {}
    for split, wanted in sizes.items():
        if split not in vectors:
            raise InputError(f"vectors have no {split!r} split; found: {', '.join(vectors)}")
        rows = vectors[split]
        rows = rows if hasattr(rows, "shape") else np.asarray(rows, np.float32)
        if len(rows.shape) != 2 or rows.shape[0] != wanted:
            raise InputError(f"vectors of {split!r} have the shape {tuple(rows.shape)}; allowed is ({wanted}, d)")
        found[split] = rows
    if len({rows.shape[1] for rows in found.values()}) != 1:
        raise InputError(f"vectors have different widths: { {split: rows.shape[1] for split, rows in found.items()} }")
    return found


def _checked_labels(split: str, labels: Mapping[str, npt.ArrayLike]) -> Ints:
    if split not in labels:
        raise InputError(f"labels have no {split!r} split; found: {', '.join(labels)}")
    found = np.asarray(labels[split])
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise InputError(
            f"labels of {split!r} have the shape {found.shape} and type {found.dtype}; allowed are (n,) whole numbers"
        )
    if found.min() < 0:
        raise InputError(f"{split!r} has the label {found.min()}; class ids start at 0")
    return found.astype(np.int64, copy=False)


def _checked_sources(split: str, sources: Mapping[str, Sequence[str]] | None, rows: int) -> Sequence[str] | None:
    if sources is None:
        return None
    if split not in sources or len(sources[split]) != rows:
        found = len(sources[split]) if split in sources else "no"
        raise InputError(f"{split!r} has {found} sources; allowed is one for each of its {rows} rows")
    return sources[split]


def _strata(labels: Ints, sources: Sequence[str] | None) -> Ints:
    """As ``Rows.strata``."""
    if sources is None:
        return labels
    names, ids = np.unique(np.asarray(sources), return_inverse=True)
    return np.asarray(labels * len(names) + ids)


def _reduce(parts: list[_Part], dimensions: int) -> tuple[npt.NDArray[np.int8], Vectors, float]:
    """PCA fitted on training rows, scaled so that the first component has unit variance, int8 with a scale a column.

    Returns:
        The (rows, d) vectors of all splits, the (d,) scales, and the share of the variance that is kept.
    """
    train = parts[0]
    mean, components, explained = _principal_components(train, dimensions)
    shift = mean[None, :] @ components.T

    def project(block: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        reduced = block @ components.T
        reduced -= shift
        return np.asarray(reduced)

    largest = np.zeros(len(components))
    first = _Spread()
    for _, block in train.blocks():
        reduced = project(block)
        np.maximum(largest, np.maximum(reduced.max(axis=0), -reduced.min(axis=0)), out=largest)
        first.add(reduced[:, 0])
    spread = first.deviation
    largest /= spread
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    quantised = np.empty((sum(part.used for part in parts), len(components)), np.int8)
    start = 0
    for part in parts:
        for rows, block in part.blocks():
            reduced = project(block)
            reduced /= spread
            reduced /= scale
            np.clip(np.rint(reduced, out=reduced), -127, 127, out=reduced)
            quantised[start + rows.start : start + rows.stop] = reduced
        start += part.used
    return quantised, scale, explained


class _Spread:
    """The standard deviation of numbers that come in parts (Chan, Golub and LeVeque 1979, equation 2.1)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        count, mean = len(values), float(values.mean())
        total, difference = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + difference**2 * self.count * count / total
        self.mean = mean if self.count == 0 else self.mean + difference * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self.squares / self.count))


def _principal_components(train: _Part, dimensions: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return the mean (D,), the components (d, D), and the share of the variance that they keep.

    The covariance is summed over blocks and its eigenvectors are taken, as scikit-learn's ``covariance_eigh`` does for
    rows in memory: one block gives the same bits, which the digests of all tasks so far depend on. Where there are fewer
    rows than columns, scikit-learn does it.
    """
    width = train.vectors.shape[1]
    rows = train.used
    kept = min(dimensions, width, max(1, rows - 1))
    total = np.zeros(width)
    gram = np.zeros((width, width))
    lowest, highest = np.full(width, np.inf), np.full(width, -np.inf)
    for _, block in train.blocks():
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
        if rows > width:
            total += block.sum(axis=0)
            gram += block.T @ block
    if not (highest - lowest).max() > 0:
        raise InputError("all training vectors are the same: nothing can be clustered")
    if rows <= width:
        decomposition = require("sklearn.decomposition", "build")
        data = np.concatenate([block for _, block in train.blocks()])
        pca: Any = decomposition.PCA(kept, svd_solver="full").fit(data)
        return pca.mean_, pca.components_, float(pca.explained_variance_ratio_.sum())
    mean = total / rows
    gram -= rows * mean[:, None] * mean[None, :]
    gram /= rows - 1
    values, vectors = np.linalg.eigh(gram)
    values, components = np.maximum(values[::-1], 0), vectors[:, ::-1].T
    largest = components[np.arange(width), np.abs(components).argmax(axis=1)]
    components = (components * np.sign(largest)[:, None])[:kept].copy()
    return mean, components, float((values / values.sum())[:kept].sum())


def _source_ids(columns: list[Sequence[str] | None], rows: int) -> tuple[list[str], Ints]:
    if any(column is None for column in columns):
        return [], np.full(rows, -1)
    values = [value for column in columns for value in column or ()]
    names = sorted(set(values))
    ids = {name: number for number, name in enumerate(names)}
    return names, np.array([ids[value] for value in values])


def _licences(meta: Mapping[str, Any]) -> str:
    stated = {str(source.get("licence_as_stated", "none stated")) for source in meta.get("sources") or []}
    return "; ".join(sorted(stated)) or str(meta.get("licence", "none stated"))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("dsenv-gym", "numpy", "scikit-learn", "faiss-cpu", "sentence-transformers", "transformers", "torch"):
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
