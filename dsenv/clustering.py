"""Vectors to clusters: K-Means and Stratified-KMeans (arXiv 2509.25850, appendix), with faiss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, require
from dsenv.seeding import generator

Floats = npt.NDArray[np.floating]

ITERATIONS = 50


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

    def reordered(self, rng: np.random.Generator) -> Clustering:
        """Return the same clusters with a fresh random row order inside each."""
        return Clustering(self.cluster, _positions(self.cluster, rng))


def cluster_kmeans(vectors: Floats, clusters: int, seed: int) -> Clustering:
    """Plain K-Means over all rows: the paper's form.

    Args:
        vectors: (n, d).
        clusters: K; clusters that end up empty are dropped.
        seed: of the centroids and of the row order.

    Raises:
        InputError: for K below 1 or above n.
    """
    if not 1 <= clusters <= len(vectors):
        raise InputError(f"{clusters} clusters of {len(vectors)} rows: allowed are 1 to {len(vectors)}")
    return _finish(_kmeans(vectors, clusters, seed), seed)


def cluster_stratified(vectors: Floats, labels: Ints, clusters: int, seed: int) -> Clustering:
    """K-Means inside each class, with max(1, round(K * class share)) clusters a class.

    Args:
        vectors: (n, d).
        labels: (n,) class ids.
        clusters: K; the result has about as many, at least one a class that occurs.
        seed: of the centroids and of the row order.

    Raises:
        InputError: for K below 1 or above n.
    """
    if not 1 <= clusters <= len(vectors):
        raise InputError(f"{clusters} clusters of {len(vectors)} rows: allowed are 1 to {len(vectors)}")
    found = np.empty(len(labels), np.int64)
    used = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        wanted = max(1, round(clusters * len(rows) / len(labels)))
        inside = _compact(_kmeans(vectors[rows], wanted, seed))
        found[rows] = used + inside
        used += int(inside.max()) + 1
    return _finish(found, seed)


def _kmeans(vectors: Floats, clusters: int, seed: int) -> Ints:
    faiss = require("faiss", "build")
    data = np.ascontiguousarray(vectors, np.float32)
    kmeans = faiss.Kmeans(
        data.shape[1],
        clusters,
        niter=ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(data),
    )
    kmeans.train(data)
    _, nearest = kmeans.index.search(data, 1)
    return np.asarray(nearest[:, 0], np.int64)


def _finish(cluster: Ints, seed: int) -> Clustering:
    cluster = _compact(cluster)
    return Clustering(cluster, _positions(cluster, generator(seed, "row order")))


def _compact(cluster: Ints) -> Ints:
    return np.unique(cluster, return_inverse=True)[1].astype(np.int64)


def _positions(cluster: Ints, rng: np.random.Generator) -> Ints:
    shuffled = rng.permutation(len(cluster))
    grouped = shuffled[np.argsort(cluster[shuffled], kind="stable")]
    sizes = np.bincount(cluster)
    position = np.empty(len(cluster), np.int64)
    position[grouped] = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return position
