"""LFR: learn everything, focus on what is not learned, review everything (arXiv 2409.06131)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import check_whole, one_of
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.by_cluster import ByCluster, check_share
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.history import cluster_means
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator
from dsenv.selectors.pool import highest

MEASURES = ("signal", "failure")


class LearnFocusReview(ByCluster):
    """Rounds over all clusters, then rounds over the share with the highest measure, then over all again; from the start.

    Published: blocks of a text corpus by perplexity. In RL with verifiable rewards a block is a cluster, and what is measured
    comes from the run's own rollouts, for nothing: ``failure``, 1 - pass rate, is nearest to perplexity, and highest where
    nothing can be learned; so by default it is ``signal``, the share of groups with rights and wrongs.

    Args:
        training: whose questions are chosen.
        learn, focus, review: rounds of each phase.
        share: of the clusters that are focused on.
        measure: ``signal`` or ``failure``.
    """

    def __init__(
        self,
        training: Training,
        learn: int = 8,
        focus: int = 20,
        review: int = 4,
        share: float = 0.25,
        measure: str = "signal",
    ) -> None:
        super().__init__(training)
        for name, value, least in (("learn", learn, 1), ("focus", focus, 1), ("review", review, 0)):
            check_whole(name, value, least)
        self.phases, self.share = (learn, focus, review), check_share("share", share)
        self.measure = one_of("measure", measure, MEASURES)
        self.measured: Doubles = np.zeros(len(self.sizes))  # of each cluster, when it was last asked

    def choose(self) -> Ints:
        """Return questions of the phase's clusters, each as likely as it is large."""
        rng = generator(self.training.seed, f"learn, focus, review, round {self.training.rounds}")
        learn, focus, _ = self.phases
        place = self.training.rounds % sum(self.phases)
        wanted = np.full(len(self.sizes), 1e-9)  # the others fill a round where these have too few questions
        wanted[focused(self.measured, self.share) if learn <= place < learn + focus else slice(None)] = 1
        return self.draw(wanted * self.sizes, rng)

    def learn(self, rollouts: Rollouts) -> None:
        """Measure the clusters that were asked."""
        values = rollouts.signal if self.measure == "signal" else 1 - rollouts.pass_rates
        seen, means = cluster_means(self.clusters_of(rollouts.questions), values)
        self.measured[seen] = means

    def state(self) -> Arrays:
        """Return what was measured."""
        return {**super().state(), "measured": self.measured.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        super().restore(state)
        self.measured = state["measured"].astype(np.float64)


def focused(measured: npt.ArrayLike, share: float) -> Ints:
    """Return the blocks with the highest measure, in ascending order, at least one.

    Args:
        measured: (K,) perplexity, or what stands for it.
        share: of the blocks, rounded.
    """
    values = np.asarray(measured, np.float64)
    count = max(1, round(share * len(values)))
    return np.sort(highest(values, count))
