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
    """Trains on the highest scored of some candidates, in passes; what is too few for a round is left out of a pass.

    Args:
        training: whose questions are chosen.
        candidates: questions that are scored, drawn uniformly anew each time; None for all.
        keep: questions to train on; fewer where fewer candidates may be chosen.
        warmup: rounds of uniform questions before.
        stage: rounds after which candidates are scored again; 0: never.
        folds: L, to order every pass by folding (DELT, arXiv 2506.21545): from low scores to high ones L times; 0: in random
            orders.
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
        if training.rounds >= self.warmup and self.due():
            ids = self.pool(generator(training.seed, f"candidates, round {training.rounds}"))
            scores = self.score(ids)
            allowed = np.isfinite(scores)
            best = highest(scores[allowed], self.keep)
            self.chosen, self.scores, self.since = ids[allowed][best], scores[allowed][best], training.rounds
            if not len(best):
                log.warning("round %d: none of %d candidates may be chosen, questions are uniform", training.rounds, len(ids))
        if not len(self.chosen):
            return self._uniform.choose()
        return part_of_pass(self._order, len(self.chosen), training.settings.round_questions, training.rounds - self.since)

    def state(self) -> Arrays:
        """Return what was chosen, and when."""
        return {"chosen": self.chosen, "scores": self.scores, "since": np.array(self.since)}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        if "chosen" not in state:
            raise InputError(f"{type(self).__name__} needs the state 'chosen', the snapshot has {', '.join(sorted(state))}")
        self.chosen, self.scores = state["chosen"].astype(np.int64), state["scores"].astype(np.float64)
        self.since = int(state["since"])

    def _order(self, number: int) -> Ints:
        if self.folds:
            return self.chosen[folded(self.scores, self.folds)]
        return generator(self.training.seed, f"pass {number} from round {self.since}").permutation(self.chosen)
