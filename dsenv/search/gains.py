"""What one more pick of each cluster is worth, learned from every move that was scored: a Kalman filter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.metrics import Doubles

BLOCK = 0.25  # deviation of one pick's own worth from its cluster's, in units of the scale
NOISE = 0.3  # what of a move's change neither explains (pairs of clusters), in units of the scale
CHANGED = 0.5  # variance added to a cluster's worth when a pick of it was added or removed, in squared units
DRIFT = 0.03  # variance added to every cluster's worth when the selection changed
CURVATURE = 0.2  # how much less the next pick of a cluster is worth, in units of the scale
FLOOR = 0.1  # the scale follows the changes met, down to this share of the first one


class Gains:
    """A belief about the gain of every cluster's next pick and the loss of its last one.

    A pick's gain is its cluster's worth plus the worth of its own rows, both normal. A move's change of Φ is a gain minus a
    loss plus noise, so a move tells of all moves that share a cluster with it; the cluster's part drifts as the selection
    changes, the rows' part stays. What a move of one pair of clusters did beyond that is remembered for the pair until
    one of the two changes.

    Args:
        clusters: K.
        scale: of a gain, a standard deviation.
    """

    def __init__(self, clusters: int, scale: float) -> None:
        self.clusters, self.first_scale, self.scale = clusters, scale, scale
        self._size = clusters
        self._mean = np.zeros(2 * clusters)
        self._cov = np.zeros((2 * clusters, 2 * clusters))
        self._cov[np.arange(clusters), np.arange(clusters)] = scale**2
        self._place = np.zeros((clusters, 1), np.int64) - 1  # of the rows' part of a cluster's n-th pick
        self._pair = np.zeros((clusters, clusters))
        self._unknown = np.ones((clusters, clusters))

    @property
    def untried(self) -> npt.NDArray[np.bool_]:
        """(K, K) False for moves that were tried on this very selection."""
        return np.asarray(self._unknown > 0)

    def expected(self, counts: Ints) -> tuple[Doubles, Doubles]:
        """Return the change of Φ expected of every move (K, K) of one pick from row i to column j, and its deviation."""
        gain, gain_variance = self._picks(counts)
        loss, loss_variance = self._picks(counts - 1)
        shared = self._cov[: self.clusters, : self.clusters]
        noise = (NOISE * self.scale) ** 2 * self._unknown
        variance = gain_variance[None, :] + loss_variance[:, None] - 2 * shared + noise
        return gain[None, :] - loss[:, None] + self._pair, np.sqrt(np.maximum(variance, 0))

    def learn(self, counts: Ints, move: tuple[int, int], change: float) -> None:
        """Update the belief by the change of Φ that a move (i, j) of one pick made to ``counts``."""
        i, j = move
        places = np.array([j, self._own(j, int(counts[j])), i, self._own(i, int(counts[i]) - 1)])
        signs = np.array([1.0, 1.0, -1.0, -1.0])
        size = self._size
        shared = self._cov[:size, places] @ signs
        variance = shared[places] @ signs + (NOISE * self.scale) ** 2
        step = shared / variance
        self._mean[:size] += step * (change - self._mean[places] @ signs)
        self._cov[:size, :size] -= np.outer(step, shared)
        self._pair[i, j] = change - self._mean[places] @ signs
        self._unknown[i, j] = 0

    def moved(self, move: tuple[int, int], change: float) -> None:
        """Follow an accepted move: the clusters' worths have changed a little, those of its two clusters more."""
        every = np.arange(self.clusters)
        self._cov[every, every] += DRIFT * self.scale**2
        self.forget(0.95)
        self._mean[move[0]] += CURVATURE * self.scale
        self._mean[move[1]] -= CURVATURE * self.scale
        for cluster in move:
            self._cov[cluster, cluster] += CHANGED * self.scale**2
            self._pair[cluster], self._pair[:, cluster] = 0, 0
            self._unknown[cluster], self._unknown[:, cluster] = 1, 1
        self.scale = max(0.98 * self.scale + 0.02 * abs(change), FLOOR * self.first_scale)

    def forget(self, kept: float) -> None:
        """Trust what is remembered of pairs less, by a factor."""
        self._pair *= kept
        self._unknown = 1 - (1 - self._unknown) * kept

    def _picks(self, number: Ints) -> tuple[Doubles, Doubles]:
        """Mean and variance (K,) of the worth of each cluster's pick with this number, from 0."""
        every = np.arange(self.clusters)
        inside = np.minimum(number, self._place.shape[1] - 1)
        places = np.where((number >= 0) & (number < self._place.shape[1]), self._place[every, inside], -1)
        known, at = places >= 0, np.maximum(places, 0)
        variance = np.diag(self._cov)
        own = np.where(known, variance[at] + 2 * self._cov[every, at], (BLOCK * self.scale) ** 2)
        return self._mean[every] + np.where(known, self._mean[at], 0), variance[every] + own

    def _own(self, cluster: int, number: int) -> int:
        """Return the place of the rows' part of a cluster's pick; made when it is first met."""
        if number >= self._place.shape[1]:
            more = np.full((self.clusters, number + 1 - self._place.shape[1]), -1)
            self._place = np.concatenate([self._place, more], 1)
        if self._place[cluster, number] < 0:
            if self._size == len(self._mean):
                self._mean = np.concatenate([self._mean, np.zeros(self._size)])
                self._cov = _widened(self._cov)
            self._place[cluster, number] = self._size
            self._cov[self._size, self._size] = (BLOCK * self.scale) ** 2
            self._size += 1
        return int(self._place[cluster, number])


def _widened(square: npt.NDArray[np.float64]) -> Doubles:
    wide = np.zeros((2 * len(square), 2 * len(square)))
    wide[: len(square), : len(square)] = square
    return wide
