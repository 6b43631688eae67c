"""Questions drawn uniformly: plain GRPO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsenv.dataset import Ints
from dsenv.rlvr.controllers.controller import Controller
from dsenv.seeding import generator


class Uniform(Controller):
    """Pass over the training questions again and again, each time in a new random order."""

    def choose(self) -> Ints:
        """Return the next questions of the pass, different ones; what is too few for a round is left out of a pass."""
        seed, pool = self.training.seed, len(self.training.questions.train)

        def order(number: int) -> Ints:
            return generator(seed, f"uniform questions, pass {number}").permutation(pool)

        return part_of_pass(order, pool, self.training.settings.round_questions, self.training.rounds)


def part_of_pass(order: Callable[[int], Ints], pool: int, size: int, rounds: int) -> Ints:
    """Return the questions of a round of passes over a pool; a pool that is too small for a round is repeated in it.

    Args:
        order: number of a pass -> (pool,) its questions.
        pool: how many they are.
        size: questions of a round.
        rounds: done before.
    """
    number, place = divmod(rounds, max(1, pool // size))
    return np.resize(order(number), max(pool, size))[place * size : (place + 1) * size]
