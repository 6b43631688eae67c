"""What controllers that score questions share: score candidates, keep the best, pass over them, score again."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.controller import Arrays, Controller
from dsenv.rlvr.controllers.uniform import Uniform, part_of_pass
from dsenv.rlvr.training import Training
from dsenv.seeding import generator
from dsenv.selectors.pool import highest
from dsenv.training import folded

log = logging.getLogger(__name__)


class Subset(Controller):
    """Trains on the highest scored of some candidates, in passes.

    Args:
        training: whose questions are chosen.
        candidates: questions that are scored, drawn uniformly anew each time; None for all.
        keep: questions to train on; fewer where fewer candidates may be chosen.
        warmup: rounds of uniform questions before.
        stage: rounds after which candidates are scored again; 0: never.
        folds: L, to order passes by folding (DELT, arXiv 2506.21545), from low scores to high ones L times, each pass behind
            the last one; 0: in random orders, and what is too few for a round is left out of a pass.
    """

    def __init__(
        self, training: Training, candidates: int | None, keep: int, warmup: int = 0, stage: int = 0, folds: int = 0
    ) -> None:
        super().__init__(training)
        pool = len(training.questions.train)
        for name, value, least in (("keep", keep, 1), ("warmup", warmup, 0), ("stage", stage, 0), ("folds", folds, 0)):
            check_whole(name, value, least)
        if candidates is not None:
            check_whole("candidates", candidates, 1)
            if candidates < keep:
                raise InputError(f"candidates {candidates}: allowed are numbers from keep, {keep}")
        self.candidates, self.keep = pool if candidates is None else min(candidates, pool), min(keep, pool)
        self.warmup, self.stage, self.folds = warmup, stage, folds
        self.chosen: Ints = np.empty(0, np.int64)
        self.scores: Doubles = np.empty(0)  # of the chosen ones
        self.since = 0  # the round they were chosen in
        self.trained = 0  # rounds of them since
        self._uniform = Uniform(training)

    def score(self, ids: Ints) -> Doubles:
        """Return scores (n,) of candidates, -inf where one may not be chosen."""
        raise NotImplementedError

    def pool(self, rng: np.random.Generator) -> Ints:
        """Return the candidates of a scoring."""
        return rng.permutation(len(self.training.questions.train))[: self.candidates]

    def due(self) -> bool:
        """Return whether the next choice scores candidates."""
        rounds = self.training.rounds
        first = rounds == self.warmup
        return first or (self.stage > 0 and rounds > self.warmup and rounds - self.since >= self.stage)

    def choose(self) -> Ints:
        """Score where it is due, and return the pass's next questions.

        Where no candidate may be chosen, as where a policy answers nothing, questions are uniform until the next scoring,
        which is logged.
        """
        training = self.training
        if self.due():
            ids = self.pool(generator(training.seed, f"candidates, round {training.rounds}"))
            scores = self.score(ids)
            allowed = np.isfinite(scores)
            best = highest(scores[allowed], self.keep)
            self.chosen, self.scores = ids[allowed][best], scores[allowed][best]
            self.since, self.trained = training.rounds, 0
            if not len(best):
                log.warning("round %d: none of %d candidates may be chosen, questions are uniform", training.rounds, len(ids))
        if not len(self.chosen):
            return self._uniform.choose()
        self.trained += 1
        return self._next(training.settings.round_questions, self.trained - 1)

    def state(self) -> Arrays:
        """Return what was chosen, and when."""
        return {"chosen": self.chosen, "scores": self.scores, "since": np.array(self.since), "trained": np.array(self.trained)}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        self.chosen, self.scores = state["chosen"].astype(np.int64), state["scores"].astype(np.float64)
        self.since, self.trained = int(state["since"]), int(state["trained"])

    def _next(self, size: int, trained: int) -> Ints:
        """Return the questions of a round after so many others of them."""
        if self.folds:
            places = trained * size + np.arange(size)
            return self.chosen[folded(self.scores, self.folds)][places % len(self.chosen)]

        def order(number: int) -> Ints:
            return generator(self.training.seed, f"pass {number} from round {self.since}").permutation(self.chosen)

        return part_of_pass(order, len(self.chosen), size, trained)
