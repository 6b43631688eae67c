"""Swap search: move one pick at a time, from proportional picks, and begin again where nothing helps."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.search.evaluator import Evaluator
from dsenv.search.moves import kicked, proportional_counts, swapped

IDLE = 3  # climbs in a row that meet nothing new: a small task is exhausted
KICKS = 3  # random swaps before a restart


def swap(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Take the first move that helps, in random order; restart from the proportional start, shaken by a few random moves."""
    start = proportional_counts(evaluator.plan)
    counts, idle = start, 0
    while idle < IDLE:
        before = evaluator.used
        _climb(evaluator, counts, rng)
        idle = idle + 1 if evaluator.used == before else 0
        counts = kicked(evaluator.plan, start, KICKS, rng)


def _climb(evaluator: Evaluator, counts: Ints, rng: np.random.Generator) -> None:
    best = float(evaluator.score(counts[None])[0])
    pairs = np.argwhere(~np.eye(len(counts), dtype=bool))
    improved = True
    while improved:
        improved = False
        for move in rng.permutation(pairs):
            if counts[move[0]] == 0 or counts[move[1]] == evaluator.plan.capacity[move[1]]:
                continue
            neighbour = swapped(counts, move[None])
            value = float(evaluator.score(neighbour)[0])
            if value > best:
                counts, best, improved = neighbour[0], value, True
