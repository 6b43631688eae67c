"""Searches that look at no score on their way: one random episode, proportional picks, the best of many."""

from __future__ import annotations

import numpy as np

from dsenv.search.evaluator import Evaluator
from dsenv.search.moves import proportional_counts, random_counts

BATCH = 64


def uniform(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Score one episode of uniform picks."""
    evaluator.score(random_counts(evaluator.plan, rng)[None])


def proportional(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Score picks by cluster size."""
    evaluator.score(proportional_counts(evaluator.plan)[None])


def best_of(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Score as many episodes of uniform picks as there are evaluations."""
    repeated = 0
    while repeated < 100:  # a small task may have fewer selections than evaluations
        before = evaluator.used
        evaluator.score(np.stack([random_counts(evaluator.plan, rng) for _ in range(BATCH)]))
        repeated = repeated + 1 if evaluator.used == before else 0
