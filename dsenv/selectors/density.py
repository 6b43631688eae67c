"""Density: rows drawn in inverse proportion to how crowded their place is."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.selectors.checks import check_positive
from dsenv.selectors.gumbel import gumbel_top
from dsenv.selectors.neighbours import Floats, distance_blocks, neighbours
from dsenv.selectors.pool import Pool, Vectors


def density(pool: Pool, count: int, rng: np.random.Generator, *, bandwidth: float | None = None) -> Ints:
    """Draw rows without replacement with probability proportional to 1 / their sum of Gaussian kernels to all rows.

    The sums are exact where the paper's are hashed: O(n² d) time, memory linear in n. Labels and reward rows are not read.

    Args:
        pool: the rows to choose from.
        count: rows to draw, 1 to n.
        rng: where the draw comes from.
        bandwidth: h of the kernel exp(-|x - y|² / 2h²), in the unit of the vectors; default: ``nearest_bandwidth``.

    Returns:
        (count,) rows in the order drawn.

    Raises:
        InputError: for a bandwidth not above 0.
        MissingExtraError: without faiss, where no bandwidth is given.

    Source: Sachdeva et al., "How to Train Data-Efficient LLMs", arXiv 2402.09668, its Density sampler.
    """
    if bandwidth is None:
        bandwidth = nearest_bandwidth(pool.vectors)
    return gumbel_top(-np.log(kernel_sums(pool.vectors, bandwidth)), count, rng)


def kernel_sums(vectors: Vectors, bandwidth: float) -> Floats:
    """Return the (n,) sums over all rows y, x itself included, of exp(-|x - y|² / 2h²): 1 to n.

    Args:
        vectors: (n, d).
        bandwidth: h, in the unit of the vectors.

    Raises:
        InputError: for a bandwidth not above 0.
    """
    check_positive("bandwidth", bandwidth)
    sums = np.empty(len(vectors))
    for part, distances in distance_blocks(vectors, vectors, "euclid"):
        distances *= distances  # in place: this is most of the time
        distances /= -2 * bandwidth**2
        sums[part] = np.exp(distances, out=distances).sum(axis=1)
    return sums


def nearest_bandwidth(vectors: Vectors) -> float:
    """Return the median Euclidean distance to the nearest other row, over the rows that have no duplicate.

    Args:
        vectors: (n, d); 1 is returned where every row has a duplicate, or there is one row.

    Raises:
        MissingExtraError: without faiss.
    """
    distances = neighbours(vectors, 1, "euclid")[1]
    apart = distances[distances > 0]
    return float(np.median(apart)) if apart.size else 1.0
