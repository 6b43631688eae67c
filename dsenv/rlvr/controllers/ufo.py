"""UFO-RL: questions of which the policy is neither sure nor clueless, by one pass over the answer (arXiv 2505.12457)."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.subset import Subset
from dsenv.rlvr.training import Training
from dsenv.selectors.ufo import ufo_scores


class Ufo(Subset):
    """Keep the candidates whose answers' confidence is nearest to the candidates' mean.

    The confidence is the mean log-probability of the right answer's tokens (without the end) in one forward pass, which is
    charged as a rollout. Published: once, before training, all questions, a tenth is kept.

    Args:
        training: whose questions are chosen.
        candidates, keep, warmup, stage, folds: as for every ``Subset``.
    """

    def __init__(
        self,
        training: Training,
        candidates: int | None = 1024,
        keep: int = 256,
        warmup: int = 0,
        stage: int = 0,
        folds: int = 0,
    ) -> None:
        super().__init__(training, candidates, keep, warmup, stage, folds)

    def next_charge(self) -> int:
        """Return how many candidates are read."""
        return self.candidates if self.due() else 0

    def score(self, ids: Ints) -> Doubles:
        """Read the candidates' answers."""
        return ufo_scores(np.array([found[:-1].mean() for found in self.training.answer_logprobs(ids)]))
