"""Simulated annealing over swaps (Kirkpatrick et al. 1983), in cycles that each end cold."""

from __future__ import annotations

import numpy as np

from dsenv.search.evaluator import Evaluator
from dsenv.search.moves import proportional_counts, swapped, swaps

FIRST_CYCLE = 256  # evaluations; every later cycle takes as many as bring the total to four times as many
IDLE = 2_000  # moves in a row that meet nothing new: a small task is exhausted
HOT, COLD = 1.0, 0.01  # temperatures, in typical changes of the score by one swap


def annealing(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Accept a worse neighbour with probability exp(change / temperature); each cycle starts where the best was found."""
    plan = evaluator.plan
    counts = proportional_counts(plan)
    value = float(evaluator.score(counts[None])[0])
    changes: list[float] = []
    end, idle = FIRST_CYCLE, 0
    while idle < IDLE:
        begin = evaluator.used
        while evaluator.used < end and idle < IDLE:
            possible = swaps(plan, counts)
            if not len(possible):
                return
            before = evaluator.used
            neighbour = swapped(counts, possible[rng.integers(len(possible))][None])
            found = float(evaluator.score(neighbour)[0])
            idle = idle + 1 if evaluator.used == before else 0
            changes.append(abs(found - value))
            cooled = (evaluator.used - begin) / (end - begin)
            temperature = float(np.median(changes[:64])) * HOT * (COLD / HOT) ** cooled
            if found >= value or rng.random() < np.exp((found - value) / max(temperature, 1e-300)):
                counts, value = neighbour[0], found
        assert evaluator.best_counts is not None
        counts, value, end = evaluator.best_counts, evaluator.best_score, 4 * end
