"""A model of Φ with pairs of clusters, fitted to the scores so far; what a local search on it proposes is scored next."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.picks import PickPlan
from dsenv.search.climb import Predictor, fit_predictor
from dsenv.search.evaluator import Evaluator
from dsenv.search.moves import kicked, proportional_counts, swapped

FIRST, BATCH, EACH = 32, 32, 2  # selections scored before the first fit, for each fit, and of each climb
WINDOW = 256  # selections that a fit reads: the best ones
LOOKED_AT = 64  # neighbours that a step of the local search compares
STEPS = 4  # of a local search, at most


def pairwise(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Fit ridge regression on clusters and pairs of clusters, climb on its predictions, score where that ends, repeat."""
    plan = evaluator.plan
    start = proportional_counts(plan)
    far = max(1, plan.picks // 4)
    known = {counts.tobytes(): counts for counts in (start, *(kicked(plan, start, far, rng) for _ in range(FIRST)))}
    scores = dict(zip(known, evaluator.score(np.stack(list(known.values()))).tolist(), strict=True))
    idle = 0
    while idle < 20:
        best = sorted(known, key=lambda key: -scores[key])[:WINDOW]
        predict = fit_predictor(np.stack([known[key] for key in best]), np.array([scores[key] for key in best]))
        proposed: dict[bytes, Ints] = {}
        for attempt in range(BATCH // EACH):
            begin = known[best[0]]
            if attempt:
                begin = kicked(plan, known[best[int(rng.integers(min(8, len(best))))]], int(rng.integers(1, 5)), rng)
            proposed |= _climb(plan, begin, predict, known, rng)
        for _ in range(BATCH - len(proposed)):  # where climbs end at what is known, others near the best
            other = kicked(plan, known[best[0]], int(rng.integers(1, far + 1)), rng)
            if other.tobytes() not in known:
                proposed[other.tobytes()] = other
        idle = 0 if len(proposed) >= BATCH // 4 else idle + 1  # hardly anything near the best is left without a score
        if proposed:
            found = evaluator.score(np.stack(list(proposed.values()))).tolist()
            known |= proposed
            scores |= dict(zip(proposed, found, strict=True))


def _climb(
    plan: PickPlan, counts: Ints, predict: Predictor, known: dict[bytes, Ints], rng: np.random.Generator
) -> dict[bytes, Ints]:
    """Return the best predicted selections (K,) without a score that a climb from ``counts`` meets."""
    met: dict[bytes, tuple[float, Ints]] = {}
    here = float(predict(counts[None])[0])
    for _ in range(STEPS):
        neighbours = swapped(counts, _random_swaps(plan, counts, rng))
        if not len(neighbours):
            break
        predicted = predict(neighbours)
        order = np.argsort(-predicted, kind="stable")
        for place in order[: 2 * EACH].tolist():
            if (key := neighbours[place].tobytes()) not in known:
                met[key] = (float(predicted[place]), neighbours[place])
        if predicted[order[0]] <= here:
            break
        counts, here = neighbours[order[0]], float(predicted[order[0]])
    best = sorted(met, key=lambda key: -met[key][0])[:EACH]
    return {key: met[key][1] for key in best}


def _random_swaps(plan: PickPlan, counts: Ints, rng: np.random.Generator) -> Ints:
    """Return (M, 2) random moves of one pick."""
    given, open_ = np.flatnonzero(counts), np.flatnonzero(counts < plan.capacity)
    if not len(open_):
        return np.zeros((0, 2), np.int64)
    moves = np.stack([rng.choice(given, LOOKED_AT), rng.choice(open_, LOOKED_AT)], 1)
    return np.asarray(moves[moves[:, 0] != moves[:, 1]])
