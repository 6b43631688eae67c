"""Vectors to clusters: K-Means and Stratified-KMeans (arXiv 2509.25850, appendix), with faiss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.blocks import VectorRows, row_blocks
from dsenv.dataset import Ints
from dsenv.errors import InputError, require
from dsenv.seeding import generator

ITERATIONS = 50
SAMPLE_ROWS = 2**17
LARGEST_SEED = 2**31 - 1  # that faiss takes


@dataclass(frozen=True)
class Clustering:
    """Which cluster each row is in, and the fixed random order of the rows inside it.

    Attributes:
        cluster: (n,) cluster ids 0..K-1, none empty.
        position: (n,) place of the row in its cluster's order, 0-based.
    """

    cluster: Ints
    position: Ints

    @property
    def clusters(self) -> int:
        """The number of clusters, K."""
        return int(self.cluster.max()) + 1

    @property
    def sizes(self) -> Ints:
        """(K,) rows in each cluster."""
        return np.bincount(self.cluster)

    def part(self, kept: npt.NDArray[np.bool_]) -> Clustering:
        """Return the clusters of the rows that are kept (n,), in the same order; clusters that lose all rows are dropped."""
        cluster = _compact(self.cluster[kept])
        return Clustering(cluster, _places(np.lexsort((self.position[kept], cluster)), cluster))

    def reordered(self, rng: np.random.Generator) -> Clustering:
        """Return the same clusters with a fresh random row order inside each."""
        return Clustering(self.cluster, _positions(self.cluster, rng))


def cluster_kmeans(vectors: VectorRows, clusters: int, seed: int) -> Clustering:
    """Plain K-Means over all rows: the paper's form.

    Centroids are fitted on at most ``SAMPLE_ROWS`` rows, a seeded sample where there are more, and rows are assigned
    block by block: time is linear in the rows, and memory beside the result bounded. One thread does it, so that clusters
    are the same however many there are.

    Args:
        vectors: (n, d), an array or anything that takes slices and row numbers.
        clusters: K; clusters that end up empty are dropped.
        seed: of the sample, the centroids and the row order.

    Raises:
        InputError: for K below 1 or above n.
    """
    rows = _checked_rows(vectors, clusters)
    return _finish(_kmeans(vectors, np.arange(rows), clusters, SAMPLE_ROWS, seed), seed)


def cluster_stratified(vectors: VectorRows, labels: Ints, clusters: int, seed: int) -> Clustering:
    """K-Means inside each class, with max(1, round(K * class share)) clusters a class.

    Args:
        vectors: (n, d), as in ``cluster_kmeans``; a sample is shared by the classes as the rows are.
        labels: (n,) class ids.
        clusters: K; the result has about as many, at least one a class that occurs.
        seed: of the sample, the centroids and the row order.

    Raises:
        InputError: for K below 1 or above n.
    """
    total = _checked_rows(vectors, clusters)
    found = np.empty(len(labels), np.int64)
    used = 0
    for rows in _groups(labels):
        if not len(rows):
            continue
        wanted = max(1, round(clusters * len(rows) / len(labels)))
        sample = len(rows) if total <= SAMPLE_ROWS else max(wanted, round(SAMPLE_ROWS * len(rows) / total))
        inside = _compact(_kmeans(vectors, rows, wanted, sample, seed))
        found[rows] = used + inside
        used += int(inside.max()) + 1
    return _finish(found, seed)


def _checked_rows(vectors: VectorRows, clusters: int) -> int:
    rows = vectors.shape[0]
    if not 1 <= clusters <= rows:
        raise InputError(f"{clusters} clusters of {rows} rows: allowed are 1 to {rows}")
    return rows


def _kmeans(vectors: VectorRows, rows: Ints, clusters: int, sample: int, seed: int) -> Ints:
    """Cluster the given rows; ids 0..K-1 of which some may be empty."""
    faiss = require("faiss", "build")
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed {seed!r}: allowed are 0 to {LARGEST_SEED}")
    fitted = rows
    if len(rows) > sample:
        drawn = generator(seed, "k-means sample").choice(len(rows), sample, replace=False)
        fitted = rows[np.sort(drawn)]
    data = np.ascontiguousarray(vectors[fitted], np.float32)
    nearest = np.empty(len(rows), np.int64)
    with _one_thread(faiss):
        kmeans = faiss.Kmeans(
            data.shape[1],
            clusters,
            niter=ITERATIONS,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=len(data),
        )
        kmeans.train(data)
        for part in row_blocks(len(rows)):
            block = np.ascontiguousarray(vectors[rows[part]], np.float32)
            nearest[part] = kmeans.index.search(block, 1)[1][:, 0]
    return nearest


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Keep faiss to one thread: the last bits of its distances, and with them clusters, depend on how many it has."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _finish(cluster: Ints, seed: int) -> Clustering:
    cluster = _compact(cluster)
    return Clustering(cluster, _positions(cluster, generator(seed, "row order")))


def _compact(cluster: Ints) -> Ints:
    """Ids 0..K-1 in the same order, none empty."""
    return (np.cumsum(np.bincount(cluster) > 0) - 1)[cluster]


def _groups(ids: Ints) -> list[Ints]:
    """The rows of each id 0, 1, ..., ascending."""
    return np.split(_sorted_rows(ids), np.cumsum(np.bincount(ids))[:-1])


def _sorted_rows(ids: Ints) -> Ints:
    """Rows by id, ascending inside an id; ids of two bytes are sorted in time linear in the rows."""
    return np.argsort(ids.astype(np.int16) if ids.max() < 2**15 else ids, kind="stable")


def _positions(cluster: Ints, rng: np.random.Generator) -> Ints:
    shuffled = rng.permutation(len(cluster))
    return _places(shuffled[_sorted_rows(cluster[shuffled])], cluster)


def _places(grouped: Ints, cluster: Ints) -> Ints:
    """Each row's place in its cluster, of rows listed cluster after cluster."""
    sizes = np.bincount(cluster)
    position = np.empty(len(cluster), np.int64)
    position[grouped] = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return position
