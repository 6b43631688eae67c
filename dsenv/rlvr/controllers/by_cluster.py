"""What controllers that choose clusters share: from picks of clusters to questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.controller import Arrays, Controller
from dsenv.rlvr.training import Training

Bools = npt.NDArray[np.bool_]


class ByCluster(Controller):
    """Chooses clusters; a cluster's questions are asked in a random order that begins anew when all were asked."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.orders = training.questions.orders(training.seed)
        self.sizes = np.array([len(order) for order in self.orders])
        self.asked = np.zeros(len(self.orders), np.int64)  # questions, of each cluster

    def pick(self, next_cluster: Callable[[Bools], int]) -> Ints:
        """Return a round's questions, different ones as long as the pool has that many.

        Args:
            next_cluster: (K,) True where a cluster still has questions for this round -> the cluster of one more.
        """
        used = np.zeros(len(self.sizes), np.int64)
        chosen = np.empty(self.training.settings.round_questions, np.int64)
        for place in range(len(chosen)):
            k = next_cluster(used < self.sizes * (1 + place // int(self.sizes.sum())))
            chosen[place] = self.orders[k][self.asked[k] % self.sizes[k]]
            used[k] += 1
            self.asked[k] += 1
        return chosen

    def draw(self, weights: Doubles, rng: np.random.Generator) -> Ints:
        """Return a round's questions of clusters drawn with probabilities proportional to weights (K,), all above 0."""

        def next_cluster(free: Bools) -> int:
            left = weights * free
            return int(rng.choice(len(left), p=left / left.sum()))

        return self.pick(next_cluster)

    def clusters_of(self, questions: Ints) -> Ints:
        """Return the clusters of training questions."""
        return self.training.questions.train.cluster[questions]

    def state(self) -> Arrays:
        """Return how many questions of each cluster were asked."""
        return {"asked": self.asked.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        self.asked = state["asked"].astype(np.int64)


def check_share(name: str, value: float) -> float:
    """Return a number above 0 and at most 1, or raise InputError."""
    if not 0 < value <= 1:
        raise InputError(f"{name} {value!r}: allowed are numbers above 0 up to 1")
    return value
