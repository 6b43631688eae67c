"""Greedy search: the best next pick, among all clusters or among a random few."""

from __future__ import annotations

import numpy as np

from dsenv.search.evaluator import Evaluator

SLACK = 0.1  # ε of stochastic greedy


def greedy(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Add the best next pick, from nothing, until the budget is spent."""
    _grow(evaluator, rng, evaluator.plan.clusters)


def stochastic_greedy(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Add the best of a random few next picks; once complete, begin again with other ones (arXiv 1409.7938).

    A sample of K / picks * ln(1 / ε) clusters, ε = 0.1, at least 2.
    """
    plan = evaluator.plan
    few = max(2, int(np.ceil(plan.clusters / plan.picks * np.log(1 / SLACK))))
    idle = 0
    while idle < 20:
        before = evaluator.used
        _grow(evaluator, rng, few)
        idle = idle + 1 if evaluator.used == before else 0


def _grow(evaluator: Evaluator, rng: np.random.Generator, few: int) -> None:
    counts = np.zeros(evaluator.plan.clusters, np.int64)
    evaluator.unfinished = counts
    while not evaluator.complete(counts[None])[0]:
        left = np.flatnonzero(counts < evaluator.plan.capacity)
        if few < len(left):
            left = np.sort(rng.choice(left, few, replace=False))
        candidates = counts + np.eye(len(counts), dtype=np.int64)[left]
        counts = candidates[int(np.argmax(evaluator.score(candidates)))]
        evaluator.unfinished = counts
    evaluator.unfinished = None
