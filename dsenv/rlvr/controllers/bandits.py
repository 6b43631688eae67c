"""Bandits over clusters: an arm is worth what its groups lately had to teach (schedulers as in ADEPT, arXiv 2501.12620)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.by_cluster import Bools, ByCluster, check_share
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator


class Bandit(ByCluster):
    """Clusters are arms, a group is a pull, its payoff the unbiased estimate of p (1 - p) of its question.

    What GRPO can learn from a group is proportional to that in expectation (arXiv 2506.05316, theorem 1). Pulls are forgotten
    by and by, because training changes what an arm is worth. The questions of a round are chosen before any of them pays:
    until then a pull counts as one that paid the arm's mean.

    ADEPT schedules how many epochs a batch is trained on; that its bandits choose clusters is ours.

    Args:
        training: whose questions are chosen.
        memory: what a pull counts for after a round, as a share of before.
    """

    def __init__(self, training: Training, memory: float = 0.95) -> None:
        super().__init__(training)
        self.memory = check_share("memory", memory)
        self.pulls: Doubles = np.zeros(len(self.sizes))
        self.paid: Doubles = np.zeros(len(self.sizes))  # sums

    def values(self, pulls: Doubles, paid: Doubles, rng: np.random.Generator) -> Doubles:
        """Return (K,): the arm with the highest one is pulled."""
        raise NotImplementedError

    def choose(self) -> Ints:
        """Return the questions of one pull after the other."""
        rng = generator(self.training.seed, f"{type(self).__name__}, round {self.training.rounds}")
        pulls, paid = self.pulls.copy(), self.paid.copy()

        def next_cluster(free: Bools) -> int:
            values = np.where(free, self.values(pulls, paid, rng), -np.inf)
            k = int(rng.choice(np.flatnonzero(values == values.max())))
            paid[k] += paid[k] / pulls[k] if pulls[k] else 0
            pulls[k] += 1
            return k

        return self.pick(next_cluster)

    def learn(self, rollouts: Rollouts) -> None:
        """Forget a little and count the round's pulls."""
        arms = self.clusters_of(rollouts.questions)
        self.pulls, self.paid = self.memory * self.pulls, self.memory * self.paid
        np.add.at(self.pulls, arms, 1)
        np.add.at(self.paid, arms, rollouts.rewards.var(1, ddof=1))

    def state(self) -> Arrays:
        """Return pulls and payoffs."""
        return {**super().state(), "pulls": self.pulls.copy(), "paid": self.paid.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take them back."""
        super().restore(state)
        self.pulls, self.paid = state["pulls"].astype(np.float64), state["paid"].astype(np.float64)


class Ucb(Bandit):
    """Pull the arm with the highest upper confidence bound; every arm once before.

    Args:
        training: whose questions are chosen.
        memory: as for every ``Bandit``.
        exploration: c.
    """

    def __init__(self, training: Training, memory: float = 0.95, exploration: float = 0.1) -> None:
        super().__init__(training, memory)
        if not 0 <= exploration < np.inf:
            raise InputError(f"exploration {exploration!r}: allowed are finite numbers from 0")
        self.exploration = exploration

    def values(self, pulls: Doubles, paid: Doubles, rng: np.random.Generator) -> Doubles:
        """Return the bounds."""
        means = np.divide(paid, pulls, out=np.zeros_like(paid), where=pulls > 0)
        return upper_bounds(means, pulls, self.exploration)


class Thompson(Bandit):
    """Pull the arm with the highest draw from a normal distribution around its mean payoff.

    Args:
        training: whose questions are chosen.
        memory: as for every ``Bandit``.
        prior: mean payoff of an arm that was never pulled, worth one pull.
        deviation: of one pull's payoff; the mean of n pulls and the prior deviates by 1/√(n + 1) of it.
    """

    def __init__(self, training: Training, memory: float = 0.95, prior: float = 0.15, deviation: float = 0.2) -> None:
        super().__init__(training, memory)
        if not (0 < deviation < np.inf and np.isfinite(prior)):
            raise InputError(f"prior {prior!r}, deviation {deviation!r}: allowed are finite numbers, the second above 0")
        self.prior, self.deviation = prior, deviation

    def values(self, pulls: Doubles, paid: Doubles, rng: np.random.Generator) -> Doubles:
        """Return the draws."""
        return rng.normal((paid + self.prior) / (pulls + 1), self.deviation / np.sqrt(pulls + 1))


def upper_bounds(means: Doubles, pulls: Doubles, exploration: float) -> Doubles:
    """Return Q(a) + c √(ln t / N(a)) with t the number of all pulls, (K,); infinite for an arm that was never pulled.

    Args:
        means: (K,) Q, mean payoffs.
        pulls: (K,) N.
        exploration: c.
    """
    total = np.log(max(float(np.sum(pulls)), 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pulls > 0, means + exploration * np.sqrt(total / pulls), np.inf)
