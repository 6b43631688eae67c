"""Datasets to tasks: encode, reduce, cut and cluster, everything fitted on training rows only."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.dataset import Ints, TextDataset, stratified_sample
from dsenv.encoders import Encoder, Vectors, encode
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

DIMENSIONS = 64
CLUSTERS = 64
MAX_TRAINING_ROWS = 60_000


def build_task(
    dataset: TextDataset,
    *,
    encoder: str | Encoder = "minilm",
    vectors: Mapping[str, npt.NDArray[np.floating]] | None = None,
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
    one_of("reported metric", reported, REPORTED)
    for what, value, least in (("dimensions", dimensions, 1), ("max_rows", max_rows, len(dataset.class_names))):
        if value < least:
            raise InputError(f"{what} {value!r} is below {least}")
    if len(dataset.validation) < 2:
        raise InputError(
            f"validation has {len(dataset.validation)} row: at least 2 are cut into the reward and selection halves"
        )
    rows = np.arange(len(dataset.train))
    if len(rows) > max_rows:
        rows = stratified_sample(dataset.train.strata, max_rows, generator(seed, "pool"))
    clusters = min(CLUSTERS, len(rows)) if clusters is None else clusters
    if not 1 <= clusters <= len(rows):
        raise InputError(f"{clusters} clusters of {len(rows)} training rows: allowed are 1 to {len(rows)}")
    if vectors is None:
        named = encoder if isinstance(encoder, str) else encoder.identity
        found = encode(dataset, encoder, train_rows=rows, cache_dir=cache_dir)
    else:
        named = "own vectors"
        found = _own_vectors(vectors, dataset, rows)
    quantised, scale, explained = _reduce(found, dimensions)
    train = dataset.train.take(rows)
    labels = np.concatenate([train.labels, dataset.validation.labels, dataset.test.labels])
    source_names, sources = _source_ids([train.sources, dataset.validation.sources, dataset.test.sources], len(labels))
    cut = cut_validation(dataset.validation.strata, generator(seed, "cut"))
    split = np.concatenate([np.full(len(train), TRAIN, np.int8), cut, np.full(len(dataset.test), TEST, np.int8)])
    arrays: Arrays = {
        "vectors": quantised,
        "column_scale": scale,
        "labels": small_ints(labels),
        "sources": small_ints(sources),
        "split": split,
        "train_rows": rows.astype(np.int32),
    }
    reduced = quantised[: len(train)] * scale
    add_clustering(arrays, "stratified", cluster_stratified(reduced, train.labels, clusters, seed))
    add_clustering(arrays, "kmeans", cluster_kmeans(reduced, clusters, seed))
    metadata = {
        "format": FORMAT,
        "name": dataset.name,
        "title": dataset.meta.get("title", dataset.name),
        "sources": dataset.meta.get("sources", []),
        "licences": _licences(dataset.meta),
        "derivation": dataset.derivation,
        "class_names": list(dataset.class_names),
        "source_names": source_names,
        "fingerprint": dataset.fingerprint,
        "rows": {
            "train": len(dataset.train),
            "pool": len(train),
            **{s: len(dataset.splits[s]) for s in ("validation", "test")},
        },
        "encoder": named,
        "explained_variance": round(explained, 6),
        "regularisation": REGULARISATION,
        "clusterings": list(CLUSTERINGS),
        "clusters": clusters,
        "reported": reported,
        "seed": seed,
        "versions": _versions(),
    }
    return SelectionTask(arrays, metadata)


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


def _own_vectors(vectors: Mapping[str, npt.NDArray[np.floating]], dataset: TextDataset, rows: Ints) -> dict[str, Vectors]:
    found = {}
    for split, wanted in dataset.splits.items():
        if split not in vectors:
            raise InputError(f"vectors have no {split!r} split; found: {', '.join(vectors)}")
        array = np.asarray(vectors[split], np.float32)
        if array.ndim != 2 or len(array) != len(wanted):
            raise InputError(f"vectors of {split!r} have the shape {array.shape}; allowed is ({len(wanted)}, d)")
        if not np.isfinite(array).all():
            raise InputError(
                f"vectors of {split!r} hold NaN or infinity, first in row {np.argwhere(~np.isfinite(array))[0][0]}"
            )
        found[split] = array[rows] if split == "train" else array
    if len({array.shape[1] for array in found.values()}) != 1:
        raise InputError(f"vectors have different widths: { {split: array.shape[1] for split, array in found.items()} }")
    return found


def _reduce(vectors: Mapping[str, Vectors], dimensions: int) -> tuple[npt.NDArray[np.int8], Vectors, float]:
    """PCA fitted on training rows, scaled so that the first component has unit variance, int8 with a scale a column."""
    decomposition = require("sklearn.decomposition", "build")
    train = vectors["train"].astype(np.float64)
    if not np.ptp(train, axis=0).max() > 0:
        raise InputError("all training vectors are the same: nothing can be clustered")
    kept = min(dimensions, train.shape[1], max(1, len(train) - 1))
    pca: Any = decomposition.PCA(kept, svd_solver="covariance_eigh" if len(train) > train.shape[1] else "full").fit(train)
    reduced = np.concatenate([pca.transform(vectors[split].astype(np.float64)) for split in ("train", "validation", "test")])
    spread = float(reduced[: len(train), 0].std())
    reduced /= spread
    largest = np.abs(reduced[: len(train)]).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    quantised = np.clip(np.rint(reduced / scale), -127, 127).astype(np.int8)
    return quantised, scale, float(pca.explained_variance_ratio_.sum())


def _source_ids(columns: list[list[str] | None], rows: int) -> tuple[list[str], Ints]:
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
