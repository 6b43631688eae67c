"""What a run's own rollouts tell about its clusters: what an agent of the second family sees."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.rlvr.questions import QuestionSet
from dsenv.rlvr.replay import Rollouts

UNKNOWN = 0.5  # difficulty of a cluster that was never asked


class ClusterHistory:
    """Difficulty, staleness and share asked of every cluster, (K,) each.

    Attributes:
        difficulty: 1 - pass rate of a cluster's rollouts when it was last asked; 0.5 before.
        last: the round after which it was last asked; -1 before.
        asked: questions asked so far, repeated ones too.
    """

    def __init__(self, questions: QuestionSet, horizon: int) -> None:
        self._cluster, count = questions.train.cluster, len(questions.clusters)
        self._sizes = np.maximum(np.bincount(self._cluster, minlength=count), 1)
        self._horizon = horizon
        self.difficulty: Doubles = np.full(count, UNKNOWN)
        self.last: Ints = np.full(count, -1)
        self.asked: Ints = np.zeros(count, np.int64)

    def see(self, rollouts: Rollouts, rounds: int) -> None:
        """Take note of a round's rollouts; ``rounds`` counts it."""
        clusters = self._cluster[rollouts.questions]
        seen, rates = cluster_means(clusters, rollouts.pass_rates)
        self.difficulty[seen] = 1 - rates
        self.last[clusters] = rounds
        self.asked += np.bincount(clusters, minlength=len(self.asked))

    def observe(self, rounds: int) -> dict[str, Doubles]:
        """Return what is seen before the next round, (K,) each.

        ``difficulty``; ``staleness``, rounds since a cluster was asked, as a share of the horizon, at most 1, and 1 before;
        ``trained``, the share of its questions asked, at most 1.
        """
        stale = np.where(self.last < 0, 1.0, np.minimum((rounds - self.last) / self._horizon, 1))
        trained = np.minimum(self.asked / self._sizes, 1)
        return {"difficulty": self.difficulty.copy(), "staleness": stale, "trained": trained}


def cluster_means(clusters: Ints, values: Doubles) -> tuple[Ints, Doubles]:
    """Return the clusters that occur, in ascending order, and the mean value of each.

    Args:
        clusters: (n,).
        values: (n,).
    """
    seen, places = np.unique(clusters, return_inverse=True)
    return seen, np.bincount(places, values) / np.bincount(places)
