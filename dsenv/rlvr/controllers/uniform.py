"""Questions drawn uniformly: plain GRPO."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.rlvr.controllers.controller import Controller
from dsenv.seeding import generator


class Uniform(Controller):
    """Pass over the training questions again and again, each time in a new random order."""

    def choose(self) -> Ints:
        """Return the next questions of the pass, different ones; what is too few for a round is left out of a pass."""
        size, pool = self.training.settings.round_questions, len(self.training.questions.train)
        rounds_a_pass = max(1, pool // size)
        number, place = divmod(self.training.rounds, rounds_a_pass)
        order = generator(self.training.seed, f"uniform questions, pass {number}").permutation(pool)
        return np.resize(order, max(pool, size))[place * size : (place + 1) * size]
