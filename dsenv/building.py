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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.archives import Arrays
from dsenv.blocks import VectorRows, row_blocks
from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.dataset import SPLITS, Ints, Rows, TextDataset, as_dataset, stratified_sample
from dsenv.encoders import Encoder, encode
from dsenv.errors import InputError, check_whole, one_of
from dsenv.labels import class_ids
from dsenv.reduction import Dequantised, Part, checked_vectors, reduce_vectors
from dsenv.seeding import generator
from dsenv.splits import cut_record, cut_rows, warn_of_duplicates
from dsenv.task import REGULARISATION, REPORTED, SelectionTask, add_clustering, cut_validation, small_ints
from dsenv.task_file import CLUSTERINGS, FORMAT, MOST_COLUMNS, TEST, TRAIN

log = logging.getLogger(__name__)

DIMENSIONS = 64
FEWEST_DIMENSIONS = 16
ROWS_A_DIMENSION = 80  # of the pool, below the default: about as many rows as dimensions is where a linear model fits worst
CLUSTERS = 64
RESPONSE_DIMENSIONS = 32
RESPONSE_GROUPS = 8  # clusters of similar responses, which stand for classes
MAX_TRAINING_ROWS = 60_000


def build_task(
    data: TextDataset | Any = None,
    labels: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    encoder: str | Encoder = "minilm",
    vectors: Mapping[str, VectorRows] | VectorRows | None = None,
    clusters: int | None = None,
    dimensions: int | None = None,
    max_rows: int = MAX_TRAINING_ROWS,
    reported: str = "accuracy",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    **columns: Any,
) -> SelectionTask:
    """Encode, reduce, cut and cluster a dataset: ``build_task(texts, labels)``.

    Without splits, a tenth of the rows each become validation and test (``TextDataset.from_table``). Reduction, scaling and
    clustering are fitted on training rows only; validation is cut once, stratified by class and source, into reward and
    selection halves. Held-out rows that are near-duplicates of training rows are warned of.

    Of instruction data (prompts with responses, no classes) the prompts are encoded and clustered; the responses' vectors,
    reduced as well, are what the ridge proxy predicts, and groups of similar responses stand for classes.

    Args:
        data: a ``TextDataset``; or texts; or a table: a file, a dict of lists, a pandas DataFrame, a ``datasets.Dataset``;
            or None, with labels and vectors alone.
        labels: one a text, whole numbers or texts; where ``data`` is a table, it has them.
        encoder: as in ``encode``.
        vectors: your own vectors instead of an encoder's: (n, d), one a row of the table or a text, or
            ``{"train": (n, d), "validation": ..., "test": ...}``.
        clusters: K, for both clusterings; default 64, or as many as there are rows.
        dimensions: of the reduced vectors; default: 64, or fewer (from 16) where 5% of the pool are not four rows a dimension.
        max_rows: larger pools are cut by a seeded stratified sample.
        reported: ``accuracy`` or ``macro_f1``; decides the default reward metric too.
        seed: of the sample, the cut, the clusters and the row order.
        cache_dir: of the vectors.
        columns: ``text=``, ``label=`` and others that name a table's columns, as in ``TextDataset.from_columns``.

    Raises:
        InputError: for values outside what is allowed, vectors that are not finite or do not fit the rows, rows that
            ``TextDataset.from_columns`` refuses.
        MissingExtraError: where the encoder needs an extra.
    """
    if data is None:
        if labels is None or vectors is None:
            raise InputError("nothing to build a task of: give texts and labels, a table, or vectors and labels")
        return _build_task_from_arrays(vectors, labels, clusters, dimensions, max_rows, reported, seed, **columns)
    dataset = as_dataset(data, labels, **columns)
    check_whole("seed", seed, 0)
    splits = dataset.splits
    sizes = {split: len(rows) for split, rows in splits.items()}
    dimensions = _dimensions(dimensions, sizes["train"], max_rows)
    _check_sizes(sizes, reported, dimensions, max_rows, len(dataset.class_names))
    chosen, clusters = _pool(dataset.train.strata, max_rows, clusters, seed)
    if vectors is None:
        named = encoder if isinstance(encoder, str) else encoder.identity
        with _stage(dataset.name, "encode"):
            vectors = encode(dataset, encoder, train_rows=chosen, cache_dir=cache_dir)
        with _stage(dataset.name, "look for near-duplicates"):
            _warn_of_duplicates(dataset, vectors, chosen)
    else:
        if dataset.is_instructions:
            raise InputError("vectors= are of labelled rows: instruction data needs vectors of responses too, give encoder=")
        named, vectors = "own vectors", checked_vectors(_by_split(vectors, dataset), sizes)
    stated = {str(source.get("licence_as_stated", "none stated")) for source in dataset.meta.get("sources") or []}
    facts = {
        "name": dataset.name,
        "title": dataset.meta.get("title", dataset.name),
        "sources": dataset.meta.get("sources", []),
        "licences": "; ".join(sorted(stated)) or str(dataset.meta.get("licence", "none stated")),
        "derivation": dataset.derivation,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "encoder": named,
        "reported": reported,
        **({"split": dataset.meta["split"]} if "split" in dataset.meta else {}),
    }
    ids = {split: rows.labels for split, rows in splits.items()}
    responses: Arrays = {}
    if dataset.is_instructions:
        with _stage(dataset.name, "encode responses"):
            answered = replace(
                dataset,
                train=_only_responses(dataset.train),
                validation=_only_responses(dataset.validation),
                test=_only_responses(dataset.test),
            )
            encoded = encode(answered, encoder, train_rows=chosen, cache_dir=cache_dir)
        responses, groups = _reduced_responses(encoded, seed)
        ids = {**groups, "train": groups["train"] if chosen is None else _spread(groups["train"], chosen, sizes["train"])}
        count = max(int(found.max()) for found in groups.values()) + 1
        facts |= {"class_names": [f"responses {group}" for group in range(count)], "instructions": True}
    sources = [rows.sources for rows in splits.values()]
    strata, numbers = dataset.validation.strata, dataset.train.numbers
    task = _build(facts, vectors, ids, sources, strata, chosen, clusters, dimensions, seed, numbers)
    return SelectionTask({**task.arrays, **responses}, task.metadata) if responses else task


def build_task_from_vectors(
    vectors: Mapping[str, VectorRows],
    labels: Mapping[str, npt.ArrayLike],
    *,
    name: str = "own",
    class_names: Sequence[str] | None = None,
    sources: Mapping[str, Sequence[str]] | None = None,
    encoder: str = "own vectors",
    clusters: int | None = None,
    dimensions: int | None = None,
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
        dimensions: of the reduced vectors; default: 64, or fewer (from 16) where 5% of the pool are not four rows a dimension.
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
    if class_names is None and int(ids["train"].max()) >= len(ids["train"]):
        raise InputError(
            f"'train' has the label {ids['train'].max()} in {len(ids['train'])} rows: class ids are 0 to C - 1; give "
            "class_names= where some have no row"
        )
    if class_names is not None and (isinstance(class_names, (str, Mapping)) or not isinstance(class_names, Sequence)):
        raise InputError(f"class_names {class_names!r}: a list of names is needed")
    names = [str(c) for c in range(int(ids["train"].max()) + 1)] if class_names is None else [str(c) for c in class_names]
    for split, found in ids.items():
        if found.max() >= len(names):
            raise InputError(f"{split!r} has the label {found.max()}; allowed are 0 to {len(names) - 1}")
    check_whole("seed", seed, 0)
    sizes = {split: len(found) for split, found in ids.items()}
    most = sizes["train"] if max_rows is None else max_rows
    dimensions = _dimensions(dimensions, sizes["train"], most)
    _check_sizes(sizes, reported, dimensions, most, len(names))
    vectors = checked_vectors(vectors, sizes)
    given = {split: _checked_sources(split, sources, size) for split, size in sizes.items()}
    chosen, clusters = _pool(_strata(ids["train"], given["train"]), most, clusters, seed)
    with _stage(name, "fingerprint"):
        fingerprint = fingerprint_vectors(vectors, ids)
    facts = {"name": name, "class_names": names, "fingerprint": fingerprint, "encoder": encoder, "reported": reported}
    strata = _strata(ids["validation"], given["validation"])
    return _build(facts, vectors, ids, [*given.values()], strata, chosen, clusters, dimensions, seed)


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
    if ours.train.features.shape != theirs.train.features.shape:
        raise InputError(f"tasks {ours.name!r} and {theirs.name!r} have different dimensions")
    same = {name: ours.clustering(name).cluster == theirs.clustering(name).cluster for name in CLUSTERINGS}
    return {
        "same_digest": ours.digest == theirs.digest,
        **{f"same_cluster_{name}": float(rows.mean()) for name, rows in same.items()},
        "largest_difference": float(np.abs(ours.train.features - theirs.train.features).max()),
    }


def _build(
    facts: dict[str, Any],
    vectors: Mapping[str, VectorRows],
    labels: Mapping[str, Ints],
    sources: Sequence[Sequence[str] | None],
    strata: Ints,
    chosen: Ints | None,
    clusters: int,
    dimensions: int,
    seed: int,
    numbers: Ints | None = None,
) -> SelectionTask:
    """Make the task of three splits, in the order of ``SPLITS``.

    The strata are validation's; the chosen rows, and the numbers by which a selection names rows, are training's.
    """
    # An encoder was given the chosen rows alone.
    read = chosen if vectors["train"].shape[0] == len(labels["train"]) else None
    parts = [Part(split, vectors[split], read if split == "train" else None) for split in SPLITS]
    train, validation, test = parts
    name = facts["name"]
    with _stage(name, "reduce"):
        quantised, scale, explained = reduce_vectors(parts, dimensions)
    own_labels = labels["train"] if chosen is None else labels["train"][chosen]
    reduced = Dequantised(quantised[: len(train)], scale)
    with _stage(name, "cluster"):
        clusterings = {
            "stratified": cluster_stratified(reduced, own_labels, clusters, seed),
            "kmeans": cluster_kmeans(reduced, clusters, seed),
        }
    with _stage(name, "assemble"):
        source_names, source_ids = _source_ids(sources, chosen, sum(map(len, parts)))
        cut = cut_validation(strata, generator(seed, "cut"))
        arrays: Arrays = {
            "vectors": quantised,
            "column_scale": scale,
            "labels": small_ints(np.concatenate([own_labels, labels["validation"], labels["test"]])),
            "sources": small_ints(source_ids),
            "split": np.concatenate([np.full(len(train), TRAIN, np.int8), cut, np.full(len(test), TEST, np.int8)]),
            "train_rows": (np.arange(len(train)) if chosen is None else chosen).astype(np.int32),
        }
        if numbers is not None:
            arrays["row_ids"] = numbers[arrays["train_rows"]].astype(np.int64)
        for kind in CLUSTERINGS:
            add_clustering(arrays, kind, clusterings[kind])
        metadata = {
            **{"title": name, "sources": [], "licences": "none stated", "derivation": {}, **facts},
            "format": FORMAT,
            "source_names": source_names,
            "rows": {"train": len(labels["train"]), "pool": len(train), "validation": len(validation), "test": len(test)},
            "explained_variance": round(explained, 6),
            "regularisation": REGULARISATION,
            "clusterings": list(CLUSTERINGS),
            "clusters": clusters,
            "seed": seed,
            "versions": _versions(),
        }
        return SelectionTask(arrays, metadata)


def _build_task_from_arrays(
    vectors: Any,
    labels: Sequence[Any] | npt.NDArray[Any],
    clusters: int | None,
    dimensions: int | None,
    max_rows: int,
    reported: str,
    seed: int,
    *,
    name: str = "own",
    split_seed: int = 0,
) -> SelectionTask:
    """Make a task of one array of vectors (n, d) and n labels; equal vectors are duplicates."""
    if isinstance(vectors, Mapping):
        raise InputError("vectors by split have labels by split: build_task_from_vectors builds a task of them")
    array = _array(vectors, len(labels))
    names, ids = class_ids(labels)
    rows = cut_rows([row.tobytes() for row in array], ids.tolist(), SPLITS[1:], split_seed)
    task = build_task_from_vectors(
        {split: array[places] for split, places in rows.items()},
        {split: ids[places] for split, places in rows.items()},
        name=name,
        class_names=names,
        clusters=clusters,
        dimensions=dimensions,
        max_rows=max_rows,
        reported=reported,
        seed=seed,
    )
    cut = {"split": cut_record(SPLITS[1:], split_seed)}
    arrays = {**task.arrays, "row_ids": rows["train"][task.train_rows]}
    return SelectionTask(arrays, {**task.metadata, **cut})


def _only_responses(rows: Rows) -> Rows:
    return Rows(list(rows.responses or []), rows.labels)


def _spread(groups: Ints, chosen: Ints, size: int) -> Ints:
    """The groups of the chosen rows in their places among all; the others' are not read."""
    found = np.zeros(size, np.int64)
    found[chosen] = groups
    return found


def _reduced_responses(vectors: Mapping[str, VectorRows], seed: int) -> tuple[Arrays, dict[str, Ints]]:
    """Return the responses' arrays of a task, and the group of similar responses of every row, fitted on training rows."""
    parts = [Part(split, vectors[split]) for split in SPLITS]
    quantised, scale, _ = reduce_vectors(parts, RESPONSE_DIMENSIONS)
    sizes = [len(part) for part in parts]
    train, *held_out = np.split(np.asarray(quantised * scale, np.float64), np.cumsum(sizes)[:-1])
    groups = cluster_kmeans(train.astype(np.float32), min(RESPONSE_GROUPS, len(train)), seed).cluster
    centroids = np.stack([train[groups == group].mean(0) for group in range(int(groups.max()) + 1)])
    nearest = [((centroids**2).sum(1) - 2 * rows @ centroids.T).argmin(1) for rows in held_out]
    return {"responses": quantised, "response_scale": scale}, dict(zip(SPLITS, (groups, *nearest), strict=True))


def _array(vectors: Any, rows: int) -> npt.NDArray[np.float32]:
    """Return vectors of all rows of a table (n, d).

    Raises:
        InputError: for what is no array of as many finite rows.
    """
    try:
        array = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"vectors are no array of numbers: {error}") from error
    if array.ndim != 2 or len(array) != rows:
        raise InputError(f"vectors have the shape {array.shape}; allowed is ({rows}, d), one a row")
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise InputError(f"row {int(np.argmin(finite))} of the vectors holds NaN or infinity")
    return array


def _by_split(vectors: Mapping[str, VectorRows] | VectorRows, dataset: TextDataset) -> Mapping[str, VectorRows]:
    if isinstance(vectors, Mapping):
        return vectors
    array = _array(vectors, sum(map(len, dataset.splits.values())))
    if "split" not in dataset.meta or len(dataset.meta["split"]["cut"]) + 1 < len(SPLITS):
        raise InputError("one array of vectors goes with one table: give {'train': ..., 'validation': ..., 'test': ...}")
    return {split: array[rows.ids] for split, rows in dataset.splits.items()}


def _warn_of_duplicates(dataset: TextDataset, vectors: Mapping[str, VectorRows], chosen: Ints | None) -> None:
    pool = dataset.train if chosen is None else dataset.train.take(chosen)
    splits = {**dataset.splits, "train": pool}
    warn_of_duplicates(
        dataset.name,
        {split: np.asarray(vectors[split]) for split in splits},
        {split: rows.texts if rows.pairs is None else [*map(" ".join, zip(rows.texts, rows.pairs, strict=True))]
         for split, rows in splits.items()},
        {split: rows.ids for split, rows in splits.items()},
    )  # fmt: skip


@contextmanager
def _stage(name: str, stage: str) -> Iterator[None]:
    """Log what a part of the work took; ``benchmarks.scaling`` reads the arguments of these records."""
    started = time.perf_counter()
    yield
    log.info("build %s: %s in %.2f s", name, stage, time.perf_counter() - started)


def _dimensions(asked: int | None, rows: int, max_rows: int) -> int:
    check_whole("max_rows", max_rows, 1)
    pool = min(rows, max_rows)
    return min(DIMENSIONS, max(FEWEST_DIMENSIONS, pool // ROWS_A_DIMENSION)) if asked is None else asked


def _check_sizes(sizes: Mapping[str, int], reported: str, dimensions: int, max_rows: int, classes: int) -> None:
    one_of("reported metric", reported, REPORTED)
    check_whole("max_rows", max_rows, classes)
    check_whole("dimensions", dimensions, 1)
    if dimensions > MOST_COLUMNS:
        raise InputError(f"dimensions {dimensions!r}: allowed are 1 to {MOST_COLUMNS}")
    if sizes["validation"] < 2:
        raise InputError(f"validation has {sizes['validation']} row: at least 2 are cut into the reward and selection halves")


def _pool(strata: Ints, max_rows: int, clusters: int | None, seed: int) -> tuple[Ints | None, int]:
    """Return the rows of a pool above ``max_rows``, ascending, or None: all; and the number of clusters."""
    chosen = stratified_sample(strata, max_rows, generator(seed, "pool")) if len(strata) > max_rows else None
    rows = len(strata) if chosen is None else len(chosen)
    clusters = min(CLUSTERS, rows) if clusters is None else clusters
    if isinstance(clusters, bool) or not isinstance(clusters, (int, np.integer)) or not 1 <= clusters <= rows:
        raise InputError(f"{clusters!r} clusters of {rows} training rows: allowed are 1 to {rows}")
    return chosen, clusters


def _checked_labels(split: str, labels: Mapping[str, npt.ArrayLike]) -> Ints:
    if not isinstance(labels, Mapping) or split not in labels:
        raise InputError(f"labels have no {split!r} split: allowed are (n,) labels by split")
    try:
        found = np.asarray(labels[split])
    except ValueError as error:  # lists of different lengths
        raise InputError(f"labels of {split!r} are no column: {error}") from error
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
    if not isinstance(sources, Mapping) or not all(isinstance(column, Sequence) for column in sources.values()):
        raise InputError("sources are names by split: a dict of lists")
    found = len(sources[split]) if split in sources else "no"
    if found != rows:
        raise InputError(f"{split!r} has {found} sources; allowed is one for each of its {rows} rows")
    return sources[split]


def _strata(labels: Ints, sources: Sequence[str] | None) -> Ints:
    """As ``Rows.strata``."""
    if sources is None:
        return labels
    names, ids = np.unique(np.asarray(sources), return_inverse=True)
    return np.asarray(labels * len(names) + ids)


def _source_ids(columns: Sequence[Sequence[str] | None], chosen: Ints | None, rows: int) -> tuple[list[str], Ints]:
    """Return the names of the sources, and the source of every used row, -1 where a split has none."""
    known = [column for column in columns if column is not None]
    if len(known) < len(columns):
        return [], np.full(rows, -1)
    if chosen is not None:
        known[0] = [known[0][row] for row in chosen.tolist()]
    values = [value for column in known for value in column]
    names = sorted(set(values))
    ids = {name: number for number, name in enumerate(names)}
    return names, np.array([ids[value] for value in values])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("dsenv-gym", "numpy", "scikit-learn", "faiss-cpu", "sentence-transformers", "transformers", "torch"):
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
