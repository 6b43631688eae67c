"""Clusters by how often their right answers would be given, read off the policy instead of counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.by_cluster import ByCluster, check_share
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator


class Likelihood(ByCluster):
    """Draw clusters in proportion to what their questions have to teach, p (1 - p)^b, expected under a belief about p.

    The belief is a Beta distribution for every cluster. It counts the run's own rollouts, and now and then a few questions
    of every cluster are *read*: one forward pass over the right answer gives its probability, which is the question's pass
    rate where it has one right completion, without the noise of sampling eight. A pass is charged as a rollout. For questions
    with reasoning before the answer the probability is no pass rate, and this controller is not made for them.

    Ours; UFO-RL (arXiv 2505.12457) reads answers once, before training.

    Args:
        training: whose questions are chosen.
        first: questions of every cluster that are read before the first round.
        more: as many every ``refresh`` rounds.
        refresh: rounds.
        weight: rollouts that one reading counts for.
        memory: what the counts are worth after a round, as a share of before.
        hard: b; above 1, questions that are seldom solved are preferred to those that often are.
    """

    def __init__(
        self,
        training: Training,
        first: int = 4,
        more: int = 1,
        refresh: int = 8,
        weight: float = 8.0,
        memory: float = 0.85,
        hard: float = 2.0,
    ) -> None:
        super().__init__(training)
        for name, value, least in (("first", first, 1), ("more", more, 0), ("refresh", refresh, 1)):
            check_whole(name, value, least)
        if not weight > 0 or not hard > 0:
            raise InputError(f"weight {weight!r}, hard {hard!r}: allowed are numbers above 0")
        self.first, self.more, self.refresh, self.weight, self.hard = first, more, refresh, weight, hard
        self.memory = check_share("memory", memory)
        self.right: Doubles = np.zeros(len(self.sizes))
        self.wrong: Doubles = np.zeros(len(self.sizes))

    def next_charge(self) -> int:
        """Return the number of readings that are due."""
        rounds = self.training.rounds
        return 0 if rounds % self.refresh else int(np.minimum(self.sizes, self.more if rounds else self.first).sum())

    def choose(self) -> Ints:
        """Read where it is due, and draw."""
        rng = generator(self.training.seed, f"likelihood, round {self.training.rounds}")
        if self.next_charge():
            count = self.more if self.training.rounds else self.first
            ids = np.concatenate([rng.permutation(order)[:count] for order in self.orders])
            rates = np.exp([float(found.sum()) for found in self.training.answer_logprobs(ids)])
            self._count(ids, self.weight * rates, self.weight * (1 - rates))
        return self.draw(teaching(self.right, self.wrong, self.hard), rng)

    def learn(self, rollouts: Rollouts) -> None:
        """Forget a little and count the round's rollouts."""
        self.right, self.wrong = self.memory * self.right, self.memory * self.wrong
        self._count(rollouts.questions, rollouts.rewards.sum(1), (1 - rollouts.rewards).sum(1))

    def state(self) -> Arrays:
        """Return the counts."""
        return {**super().state(), "right": self.right.copy(), "wrong": self.wrong.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take them back."""
        super().restore(state)
        self.right, self.wrong = state["right"].astype(np.float64), state["wrong"].astype(np.float64)

    def _count(self, questions: Ints, right: Doubles, wrong: Doubles) -> None:
        clusters = self.clusters_of(questions)
        np.add.at(self.right, clusters, right)
        np.add.at(self.wrong, clusters, wrong)


PRIOR = (0.1, 0.4)  # rights and wrongs before anything is known


def teaching(right: Doubles, wrong: Doubles, hard: float) -> Doubles:
    """Return E[p (1 - p)^b] under Beta(right + .1, wrong + .4), (K,)."""
    from scipy.special import betaln

    a, b = right + PRIOR[0], wrong + PRIOR[1]
    return np.asarray(np.exp(betaln(a + 1, b + hard) - betaln(a, b)))
