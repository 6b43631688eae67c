"""Questions of clusters that are neither solved nor out of reach: the filter that needs no reference questions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.rlvr.controllers.controller import Arrays, Controller
from dsenv.rlvr.history import cluster_means
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator


class DifficultyFilter(Controller):
    """Draw uniformly from the clusters whose pass rate, as last measured by the run's own rollouts, is within bounds.

    A cluster that was not asked for ``patience`` rounds is asked again. Where the clusters within bounds have too few
    questions, the others fill the round.

    Args:
        training: whose questions are chosen.
        low: least pass rate.
        high: largest pass rate.
        patience: rounds.
    """

    def __init__(self, training: Training, low: float = 0.1, high: float = 0.9, patience: int = 10) -> None:
        super().__init__(training)
        check_bounds(low, high)
        check_whole("patience", patience, 1)
        self.low, self.high, self.patience = low, high, patience
        clusters = len(training.questions.clusters)
        self.rates, self.asked = np.full(clusters, np.nan), np.full(clusters, -patience)

    def choose(self) -> Ints:
        """Return questions drawn without replacement, those of clusters within bounds first."""
        training = self.training
        with np.errstate(invalid="ignore"):
            inside = (self.rates >= self.low) & (self.rates <= self.high)
        wanted = inside | (training.rounds - self.asked >= self.patience)
        rng = generator(training.seed, f"difficulty filter, round {training.rounds}")
        order = rng.permutation(len(training.questions.train))
        first = wanted[training.questions.train.cluster[order]]
        size = training.settings.round_questions
        return np.resize(np.concatenate([order[first], order[~first]]), size)

    def learn(self, rollouts: Rollouts) -> None:
        """Take the round's mean pass rates of the clusters that were asked."""
        clusters = self.training.questions.train.cluster[rollouts.questions]
        seen, means = cluster_means(clusters, rollouts.pass_rates)
        self.rates[seen], self.asked[seen] = means, self.training.rounds

    def state(self) -> Arrays:
        """Return the measured rates and when they were."""
        return {"rates": self.rates.copy(), "asked": self.asked.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take them back."""
        self.rates, self.asked = state["rates"].astype(np.float64), state["asked"].astype(np.int64)


def check_bounds(low: float, high: float) -> None:
    """Refuse what are no bounds of pass rates.

    Raises:
        InputError: naming both and what is allowed.
    """
    if not 0 <= low <= high <= 1:
        raise InputError(f"pass rates from {low!r} to {high!r}: allowed are bounds between 0 and 1, in this order")
