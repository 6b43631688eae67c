"""A bandit over clusters: upper confidence bounds on what one more pick of a cluster adds (Auer et al. 2002)."""

from __future__ import annotations

import numpy as np

from dsenv.search.evaluator import Evaluator

MEMORY = 0.8  # weight of what was known of a cluster against what a new pick of it shows
WIDTH = 1.0  # of the bounds, in typical gains


def bandit(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Build selections pick by pick, each time the cluster whose gain may be highest; one evaluation a pick.

    Gains fall while a selection grows, so a cluster is compared by its gain minus the mean gain at the same pick.
    """
    plan = evaluator.plan
    value, pulls = np.zeros(plan.clusters), np.zeros(plan.clusters)
    baseline, spread = np.full(plan.picks, np.nan), 0.0
    idle = 0
    while idle < 50:
        before = evaluator.used
        counts = np.zeros(plan.clusters, np.int64)
        evaluator.unfinished = counts
        score = float(evaluator.score(counts[None])[0])
        for pick in range(plan.picks):
            open_ = counts < plan.capacity
            if not open_.any():
                break
            bound = value + WIDTH * spread * np.sqrt(np.log(1 + pulls.sum()) / np.maximum(pulls, 1e-9))
            bound = np.where(pulls > 0, bound, np.inf)
            best = np.flatnonzero(open_ & (bound == bound[open_].max()))
            chosen = int(rng.choice(best))
            counts = counts.copy()
            counts[chosen] += 1
            found = float(evaluator.score(counts[None])[0])
            evaluator.unfinished = counts
            gain, score = found - score, found
            baseline[pick] = gain if np.isnan(baseline[pick]) else 0.9 * baseline[pick] + 0.1 * gain
            advantage = gain - baseline[pick]
            spread = 0.99 * spread + 0.01 * abs(advantage) if spread else abs(advantage)
            value[chosen] = advantage if not pulls[chosen] else MEMORY * value[chosen] + (1 - MEMORY) * advantage
            pulls[chosen] += 1
        evaluator.unfinished = None
        idle = idle + 1 if evaluator.used == before else 0
