"""What searches are made of: random selections, and the neighbours of a selection."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.picks import PickPlan


def random_counts(plan: PickPlan, rng: np.random.Generator) -> Ints:
    """Return (K,) counts of an episode of uniform picks among the clusters that still have rows."""
    counts = np.zeros(plan.clusters, np.int64)
    for _ in range(plan.picks):
        left = np.flatnonzero(counts < plan.capacity)
        if not len(left):
            break
        counts[left[rng.integers(len(left))]] += 1
    return counts


def proportional_counts(plan: PickPlan) -> Ints:
    """Return (K,) the picks proportional to cluster sizes (largest remainder)."""
    return plan.complete(np.zeros(plan.clusters, np.int64))


def swaps(plan: PickPlan, counts: Ints) -> Ints:
    """Return (M, 2) every move (i, j) of one pick from cluster i to another cluster j that has rows left."""
    i, j = np.nonzero((counts > 0)[:, None] & (counts < plan.capacity)[None, :])
    return np.asarray(np.stack([i, j], 1)[i != j])


def swapped(counts: Ints, moves: Ints) -> Ints:
    """Return (M, K) the selections that moves (M, 2) of one pick lead to."""
    found = np.repeat(counts[None], len(moves), 0)
    here = np.arange(len(moves))
    found[here, moves[:, 0]] -= 1
    found[here, moves[:, 1]] += 1
    return found


def kicked(plan: PickPlan, counts: Ints, number: int, rng: np.random.Generator) -> Ints:
    """Return (K,) the selection after ``number`` random swaps."""
    for _ in range(number):
        possible = swaps(plan, counts)
        if not len(possible):
            break
        counts = swapped(counts, possible[rng.integers(len(possible))][None])[0]
    return counts
