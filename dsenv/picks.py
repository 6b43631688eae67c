"""How a row budget becomes picks: which rows stand behind a count of picks for each cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dsenv.clustering import Clustering
from dsenv.dataset import Ints, largest_remainder
from dsenv.errors import InputError, one_of

UNITS = ("rows", "cluster")
DEFAULT_PICKS = 64
LEFT_OVER = 0.2  # of the budget, at most, where the default horizon is 64


@dataclass(frozen=True, eq=False)
class PickPlan:
    """The picks of an episode.

    A pick of cluster k adds its next ``rows_per_pick`` rows; the last pick of a cluster adds what is left of it.

    Attributes:
        picks: picks an episode, the horizon.
        rows_per_pick: r; with ``unit="cluster"`` the largest cluster's size, so that one pick adds a whole cluster.
        sizes: (K,) rows of each cluster.
        capacity: (K,) picks after which a cluster is exhausted.
        order: (n,) training row numbers, cluster after cluster, in each cluster's order.
        starts: (K,) where each cluster begins in ``order``.
    """

    picks: int
    rows_per_pick: int
    sizes: Ints
    order: Ints = field(repr=False)
    capacity: Ints = field(repr=False)
    starts: Ints = field(repr=False)

    @property
    def clusters(self) -> int:
        """K."""
        return len(self.sizes)

    def taken(self, counts: npt.NDArray[np.integer]) -> Ints:
        """Return the rows taken from each cluster by ``counts`` picks; any shape ending in K."""
        return np.minimum(np.asarray(counts, np.int64) * self.rows_per_pick, self.sizes)

    def rows(self, counts: npt.NDArray[np.integer]) -> Ints:
        """Return the training row numbers that ``counts`` (K,) stand for, cluster after cluster."""
        taken = self.taken(self.check(counts))
        return np.concatenate([self.order[s : s + t] for s, t in zip(self.starts, taken, strict=True)])

    def check(self, counts: npt.NDArray[np.integer]) -> Ints:
        """Return ``counts`` as integers.

        Raises:
            InputError: for another shape than (K,), a count out of 0..capacity, or more picks than an episode has.
        """
        array = np.asarray(counts)
        if array.shape != (self.clusters,) or not np.issubdtype(array.dtype, np.integer):
            raise InputError(
                f"counts have the shape {array.shape} and type {array.dtype}; allowed are integers of shape ({self.clusters},)"
            )
        wrong = np.flatnonzero((array < 0) | (array > self.capacity))
        if len(wrong):
            k = wrong[0]
            raise InputError(f"cluster {k} cannot be picked {array[k]} times; allowed are 0 to {self.capacity[k]}")
        if array.sum() > self.picks:
            raise InputError(f"counts hold {array.sum()} picks; an episode has {self.picks}")
        return array.astype(np.int64)

    def check_batch(self, counts: npt.NDArray[np.integer]) -> Ints:
        """Return ``counts`` (B, K) as contiguous integers.

        Raises:
            InputError: for another shape, or a row that ``check`` refuses.
        """
        batch = np.ascontiguousarray(counts, np.int64)
        if batch.ndim != 2 or batch.shape[1] != self.clusters:
            raise InputError(f"counts have the shape {batch.shape}; allowed is (B, {self.clusters})")
        wrong = (batch < 0).any(1) | (batch > self.capacity).any(1) | (batch.sum(1) > self.picks)
        if wrong.any():
            self.check(batch[np.flatnonzero(wrong)[0]])
        return batch

    def clustering(self) -> Clustering:
        """Return the clusters that the picks are of."""
        cluster, position = np.empty(len(self.order), np.int64), np.empty(len(self.order), np.int64)
        cluster[self.order] = np.repeat(np.arange(self.clusters), self.sizes)
        position[self.order] = np.arange(len(self.order)) - np.repeat(self.starts, self.sizes)
        return Clustering(cluster, position)

    @property
    def budget_rows(self) -> int:
        """Rows of a proportional selection: what every row-level baseline may take."""
        return int(self.taken(self.complete(np.zeros(self.clusters, np.int64))).sum())

    def complete(self, counts: npt.NDArray[np.integer], shares: npt.NDArray[np.floating] | None = None) -> Ints:
        """Fill ``counts`` (K,) up to the whole budget with picks by shares (largest remainder, within capacity).

        Args:
            counts: picks made already.
            shares: (K,) of the clusters; default: their sizes, which are proportional picks.

        Returns:
            (K,) counts. Where every cluster with a share is exhausted before the budget is spent, all of these is taken.
        """
        weights = self.sizes.astype(np.float64) if shares is None else shares
        filled = np.asarray(counts, np.int64).copy()
        while (left := self.picks - int(filled.sum())) > 0:
            open_ = np.where(filled < self.capacity, weights, 0)
            if not open_.any():
                break
            filled = np.minimum(filled + largest_remainder(open_, left), self.capacity)
        return filled


def draw_counts(
    plan: PickPlan, weights: npt.NDArray[np.floating], rng: np.random.Generator, length: int | None = None
) -> Ints:
    """Return (K,) counts of ``length`` picks (default: the horizon) drawn by ``weights`` (K,), within capacity.

    Fewer, where the clusters of positive weight have no more.
    """
    wanted = plan.picks if length is None else length
    counts = np.zeros(plan.clusters, np.int64)
    while (left := wanted - int(counts.sum())) > 0 and (open_ := weights * (counts < plan.capacity)).any():
        counts = np.minimum(counts + rng.multinomial(left, open_ / open_.sum()), plan.capacity)
    return counts


def check_budget(budget: object) -> None:
    """Refuse what is no share of the rows.

    Raises:
        InputError: naming the value and what is allowed.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float, np.number)) or not 0 < budget <= 1:
        raise InputError(f"budget {budget!r} is not a share of the rows: allowed are above 0 up to 1")


def plan_picks(clustering: Clustering, *, unit: str = "rows", budget: float = 0.05, picks: int | None = None) -> PickPlan:
    """Turn a budget into picks.

    Args:
        clustering: of the n training rows.
        unit: ``rows``: a pick adds r = floor(budget * n / picks) rows; ``cluster``: it adds the whole cluster.
        budget: share of the rows (``rows``) or of the clusters (``cluster``), above 0 and at most 1.
        picks: the horizon; default 64, or as many as the budget has rows, or from 32 as many as spend it best where 64
            would leave more than a fifth of it; for ``cluster`` max(1, floor(budget * K + 1e-9)).

    Raises:
        InputError: for a budget outside (0, 1] or below one row, an unknown unit, or picks that do not fit.
    """
    one_of("unit", unit, UNITS)
    check_budget(budget)
    sizes = clustering.sizes
    if unit == "cluster":
        most, default = len(sizes), max(1, math.floor(budget * len(sizes) + 1e-9))
    else:
        most = math.floor(budget * len(clustering.cluster) + 1e-9)
        if most < 1:
            raise InputError(f"budget {budget!r} of {len(clustering.cluster)} rows is less than one row")
        default = min(DEFAULT_PICKS, most)
        if most % default > LEFT_OVER * most:
            default = max(range(DEFAULT_PICKS // 2, DEFAULT_PICKS + 1), key=lambda fewer: (most - most % fewer, fewer))
    count = default if picks is None else picks
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= most:
        raise InputError(f"picks {picks!r} do not fit the budget: allowed are 1 to {most}")
    per_pick = int(sizes.max()) if unit == "cluster" else most // int(count)
    order = np.lexsort((clustering.position, clustering.cluster))
    starts = np.cumsum(sizes) - sizes
    return PickPlan(int(count), per_pick, sizes, order, -(-sizes // per_pick), starts)
