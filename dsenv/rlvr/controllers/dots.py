"""DOTS: questions whose predicted pass rate is near one half (arXiv 2506.05316)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.controller import Arrays, Controller
from dsenv.rlvr.difficulty import DifficultyPredictor, recalibrate, sampling_scores
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator
from dsenv.selectors.gumbel import gumbel_top


class Dots(Controller):
    """Measure some reference questions, predict all training questions from them, draw those near a pass rate of α.

    Published: the reference questions are rolled out before every round (``reference=256, refresh=1, memory=1,
    own_rollouts=False, temperature=1e-3``) and are all that predictions are made from. Ours by default: they are few and
    measured now and then, and what the rounds themselves rolled out is measured too, for nothing.

    Args:
        training: whose questions are chosen.
        reference: K, reference questions a measurement.
        refresh: rounds between measurements.
        memory: rounds that a measured value serves for; older ones are dropped when new ones come.
        own_rollouts: whether chosen questions count as measured.
        target: α, the pass rate wanted.
        temperature: τ, how far from it a question may be.
        fits: training steps of the predictor a round.
    """

    def __init__(
        self,
        training: Training,
        reference: int = 16,
        refresh: int = 8,
        memory: int = 8,
        own_rollouts: bool = True,
        target: float = 0.5,
        temperature: float = 0.05,
        fits: int = 8,
    ) -> None:
        super().__init__(training)
        pool = len(training.questions.reference)
        for what, value in (("reference", reference), ("refresh", refresh), ("memory", memory), ("fits", fits)):
            check_whole(what, value, 0 if what == "fits" else 1)
        if not 2 <= reference <= pool:
            raise InputError(f"reference {reference!r}: allowed are 2 to the {pool} reference questions")
        if not 0 <= target <= 1 or not temperature > 0:
            raise InputError(f"target {target!r}, temperature {temperature!r}: allowed are 0 to 1, and numbers above 0")
        self.reference, self.refresh, self.memory, self.own_rollouts = reference, refresh, memory, own_rollouts
        self.target, self.temperature, self.fits = target, temperature, fits
        self.trained = len(training.questions.train)  # a reference question's number is its id behind these
        vectors = [training.embeddings(part) for part in ("train", "reference")]
        self.predictor = DifficultyPredictor(np.concatenate(vectors), training.seed)
        self.measured, self.when = np.empty(0, np.int64), np.empty(0, np.int64)
        self.values: Doubles = np.empty(0)

    def next_charge(self) -> int:
        """Return the reference rollouts of a measurement where one is due."""
        return 0 if self.training.rounds % self.refresh else self.reference * self.training.settings.group

    def choose(self) -> Ints:
        """Measure where it is due, predict, and draw questions without replacement."""
        training = self.training
        rng = generator(training.seed, f"dots, round {training.rounds}")
        if self.next_charge():
            ids = rng.choice(len(training.questions.reference), self.reference, replace=False)
            self._remember(training.roll_out(ids, "reference"), self.trained)
        self.predictor.fit(self.measured, self.values, self.fits)
        found = self.predictor.predict(np.arange(self.trained), self.measured, self.values)
        self.predictions = recalibrate(found, self.predictor.predict_each(self.measured, self.values), self.values)
        scores = sampling_scores(self.predictions, self.target, self.temperature)
        drawn = gumbel_top(scores, min(training.settings.round_questions, self.trained), rng)
        return np.resize(drawn, training.settings.round_questions)

    def learn(self, rollouts: Rollouts) -> None:
        """Count the round's questions as measured."""
        if self.own_rollouts:
            self._remember(rollouts, 0)

    def state(self) -> Arrays:
        """Return what was measured, and the predictor."""
        return {"measured": self.measured, "when": self.when, "values": self.values, **self.predictor.state()}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take them back."""
        rest = dict(state)
        self.measured, self.when = (rest.pop(name).astype(np.int64) for name in ("measured", "when"))
        self.values = rest.pop("values").astype(np.float64)
        self.predictor.restore(rest)

    def _remember(self, rollouts: Rollouts, offset: int) -> None:
        """Keep the newest value of each question, for as long as the memory goes."""
        now = self.training.rounds
        numbers = rollouts.questions + offset
        kept = ~np.isin(self.measured, numbers) & (self.when > now - self.memory)
        self.measured = np.concatenate([self.measured[kept], numbers])
        self.values = np.concatenate([self.values[kept], rollouts.pass_rates])
        self.when = np.concatenate([self.when[kept], np.full(len(numbers), now)])
