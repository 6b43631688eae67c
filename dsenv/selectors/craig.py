"""Rows whose gradients stand for all others': CRAIG (arXiv 1906.01827)."""

from __future__ import annotations

import heapq

import numpy as np

from dsenv.dataset import Ints, largest_remainder
from dsenv.metrics import Doubles
from dsenv.selectors.head import REGULARISATION, fit_head, gradient_factors
from dsenv.selectors.per_class import interleave, select_per_class
from dsenv.selectors.pool import Pool

MOST_ROWS = 5_000  # of one table of distances


def craig(pool: Pool, count: int, rng: np.random.Generator, *, regularisation: float = REGULARISATION) -> Ints:
    """Keep, class by class, the rows that minimise the summed distance of every row's gradient to the nearest kept one.

    Gradients are those of the log loss in the weights of a head fitted on the whole pool; each class has its share of
    ``count``. A class with more than 5,000 rows is cut into random blocks of at most so many, because the distances are a
    table; nothing is drawn from ``rng`` otherwise.

    Args:
        pool: the rows.
        count: rows to keep.
        rng: of the blocks of large classes.
        regularisation: of the head, above 0.

    Raises:
        InputError: for a regularisation that is not above 0.
    """
    weights = fit_head(pool.vectors, pool.labels, pool.classes, regularisation)
    features, errors = gradient_factors(pool.vectors, pool.labels, weights)

    def choose(_: int, rows: Ints, quota: int) -> Ints:
        blocks = _blocks(len(rows), rng)
        shares = largest_remainder(np.array([len(block) for block in blocks], np.float64), quota)
        return interleave(
            [
                block[representatives(gradient_distances(features[rows[block]], errors[rows[block]]), int(share))[0]]
                for block, share in zip(blocks, shares, strict=True)
                if share
            ]
        )

    return select_per_class(pool.labels, pool.classes, count, choose)


def representatives(distances: Doubles, count: int) -> tuple[Ints, Ints, float]:
    """Choose rows that minimise Σ_i min over chosen j of d_ij, by lazy greedy (arXiv 1906.01827, algorithm 1).

    Greedy is within 1 - 1/e of the best reduction from the start, where every row is as far as the largest distance.
    A gain only shrinks as rows are chosen, so an old gain is an upper bound and few are computed anew. Gains often tie, as
    of two rows that each stand for the other alone: ties, to nine places of the largest distance, go to the row with the
    smallest sum of distances, which does not hang on the order of the rows, and then to the first.

    Args:
        distances: (n, n), symmetric.
        count: rows to choose, at most n.

    Returns:
        The rows (count,) in order of choice; their weights (count,), how many rows each is the nearest
        of; and the cost, the sum.
    """
    scale = float(distances.max(initial=0)) or 1.0
    nearest = np.full(len(distances), scale)
    sums = distances.sum(1)

    def entry(place: int) -> tuple[float, float, int]:
        gain = float(np.maximum(nearest - distances[place], 0).sum()) / scale
        return -round(gain, 9), float(sums[place]), place

    queue = [entry(place) for place in range(len(distances))]
    heapq.heapify(queue)
    chosen: list[int] = []
    while len(chosen) < count:
        fresh = entry(queue[0][2])
        heapq.heapreplace(queue, fresh)
        if queue[0] == fresh:
            chosen.append(heapq.heappop(queue)[2])
            np.minimum(nearest, distances[chosen[-1]], out=nearest)
    rows = np.array(chosen, np.int64)
    owners = distances[rows].argmin(0) if count else rows
    return rows, np.bincount(owners, minlength=count), float(nearest.sum())


def gradient_distances(features: Doubles, errors: Doubles) -> Doubles:
    """Return Euclidean distances (n, n) of the gradients features_i ⊗ errors_i, without forming them.

    The inner product of two is the product of the inner products of their factors.

    Args:
        features: (n, d).
        errors: (n, C).
    """
    products = features @ features.T
    products *= errors @ errors.T
    squares = np.diagonal(products).copy()
    products *= -2
    products += squares[:, None]
    products += squares
    np.maximum(products, 0, out=products)
    np.fill_diagonal(products, 0)
    return np.asarray(np.sqrt(products, out=products))


def _blocks(rows: int, rng: np.random.Generator) -> list[Ints]:
    if rows <= MOST_ROWS:
        return [np.arange(rows)]
    return [np.sort(block) for block in np.array_split(rng.permutation(rows), -(-rows // MOST_ROWS))]
