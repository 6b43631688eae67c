"""Questions by how often their right answers would be given, read off the policy instead of counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import check_whole
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.by_cluster import ByCluster, check_share
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator
from dsenv.selectors.checks import check_positive
from dsenv.selectors.gumbel import gumbel_top

LEAST = 1e-9  # of what a question teaches: one that cannot be answered is hardly drawn
PRIOR = (0.1, 0.4)  # rights and wrongs before anything is known


class Likelihood(ByCluster):
    """Draw what has most to teach, p (1 - p)^b, where p is read off the policy: clusters first, then questions of theirs.

    One forward pass over a question's right answer gives its probability, which is the question's pass rate where it has one
    right completion, without the noise of sampling eight. A pass is charged as a rollout. A few questions of every cluster
    are read before the first round; with the run's own rollouts and what is read later they make a Beta belief about the
    pass rate of every cluster. For a round, candidates are drawn from the clusters in proportion to what they are expected to
    teach, read, and some of them drawn by what they themselves teach. For questions with reasoning before the answer the
    probability is no pass rate, and this controller is not made for them.

    Ours; UFO-RL (arXiv 2505.12457) reads answers once, before training.

    Args:
        training: whose questions are chosen.
        first: questions of every cluster that are read before the first round.
        candidates: questions read for each that is asked; 1: none, the belief alone chooses.
        weight: rollouts that a reading counts for.
        memory: what the counts are worth after a round, as a share of before.
        hard: b; above 1, questions that are seldom solved are preferred to those that often are.
        sharpness: candidates are drawn by this power of what they teach; the larger, the more surely the best.
    """

    def __init__(
        self,
        training: Training,
        first: int = 2,
        candidates: int = 3,
        weight: float = 8.0,
        memory: float = 0.85,
        hard: float = 2.0,
        sharpness: float = 2.0,
    ) -> None:
        super().__init__(training)
        for name, value, least in (("first", first, 0), ("candidates", candidates, 1)):
            check_whole(name, value, least)
        for what, number in (("weight", weight), ("hard", hard), ("sharpness", sharpness)):
            check_positive(what, number)
        self.first, self.candidates, self.hard, self.sharpness = first, candidates, hard, sharpness
        self.weight, self.memory = weight, check_share("memory", memory)
        self.right: Doubles = np.zeros(len(self.sizes))
        self.wrong: Doubles = np.zeros(len(self.sizes))

    def next_charge(self) -> int:
        """Return the number of readings of the next choice."""
        first = 0 if self.training.rounds else int(np.minimum(self.sizes, self.first).sum())
        return first + self._read_for_a_round()

    def choose(self) -> Ints:
        """Read, and draw."""
        training = self.training
        rng = generator(training.seed, f"likelihood, round {training.rounds}")
        if not training.rounds and self.first:
            self._read(np.concatenate([rng.permutation(order)[: self.first] for order in self.orders]))
        members = training.questions.train.cluster
        clusters = teaching(self.right, self.wrong, self.hard)
        self.predictions = ((self.right + PRIOR[0]) / (self.right + self.wrong + sum(PRIOR)))[members]
        count = self._read_for_a_round()
        if not count:
            return self.draw(clusters, rng)
        chances = clusters[members]
        ids = rng.choice(len(chances), count, replace=False, p=chances / chances.sum())
        rates = self._read(ids)
        scores = self.sharpness * np.log(np.maximum(rates * (1 - rates) ** self.hard, LEAST))
        return ids[gumbel_top(scores, training.settings.round_questions, rng)]

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

    def _read_for_a_round(self) -> int:
        """Return the number of candidates; none where they would not be more than are asked, or than there are."""
        asked = self.training.settings.round_questions
        found = min(self.candidates * asked, int(self.sizes.sum()))
        return found if found > asked else 0

    def _read(self, ids: Ints) -> Doubles:
        """Return the probabilities of right answers (n,), and count each."""
        rates = np.exp([float(found.sum()) for found in self.training.answer_logprobs(ids)])
        self._count(ids, self.weight * rates, self.weight * (1 - rates))
        return np.asarray(rates)

    def _count(self, questions: Ints, right: Doubles, wrong: Doubles) -> None:
        clusters = self.clusters_of(questions)
        np.add.at(self.right, clusters, right)
        np.add.at(self.wrong, clusters, wrong)


def teaching(right: Doubles, wrong: Doubles, hard: float) -> Doubles:
    """Return E[p (1 - p)^b] under Beta(right + .1, wrong + .4), (K,)."""
    from scipy.special import betaln

    a, b = right + PRIOR[0], wrong + PRIOR[1]
    return np.asarray(np.exp(betaln(a + 1, b + hard) - betaln(a, b)))
