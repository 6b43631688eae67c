"""The cross-entropy method over shares of picks (Rubinstein 1999)."""

from __future__ import annotations

import numpy as np

from dsenv.picks import draw_counts
from dsenv.search.evaluator import Evaluator
from dsenv.search.moves import proportional_counts

BATCH, ELITE = 32, 8
STEP = 0.3  # how far the shares move towards the elite's
FLOOR = 1e-3  # share that no cluster falls below, divided by K


def cross_entropy(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Draw selections by shares of clusters, move the shares towards the best quarter; begin again where nothing is new."""
    plan = evaluator.plan
    start = proportional_counts(plan).astype(np.float64) + 0.5
    shares, repeated, restarts = start / start.sum(), 0, 0
    while restarts < 20:
        before = evaluator.used
        drawn = np.stack([draw_counts(plan, shares, rng) for _ in range(BATCH)])
        elite = drawn[np.argsort(-evaluator.score(drawn), kind="stable")[:ELITE]]
        shares = (1 - STEP) * shares + STEP * elite.mean(0) / elite.mean(0).sum()
        shares = np.maximum(shares, FLOOR / plan.clusters)
        shares /= shares.sum()
        repeated = repeated + 1 if evaluator.used - before <= 1 else 0
        if repeated == 5:
            shares, repeated, restarts = start / start.sum(), 0, restarts + 1
