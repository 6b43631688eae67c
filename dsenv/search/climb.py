"""CLIMB-Disc: CLIMB's loop of predicting and scoring mixtures (arXiv 2504.13161), over counts of picks instead of weights.

Published: mixtures drawn from a Dirichlet distribution are scored, a regressor is fitted to all scores so far, and random
ones of the best predicted untested mixtures are scored next; 64, 32 and 16 of them. That arXiv 2509.25850 searches sets of
clusters in this way is all that could be read of its CLIMB-Disc. Ours: selections drawn by Dirichlet weights; candidates
near the best selections beside freshly drawn ones; rounds that go on after the third; and kernel ridge regression in the
place of LightGBM, which is no dependency here and cannot split below some twenty points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan, draw_counts
from dsenv.search.evaluator import Evaluator

ROUNDS = (64, 32, 16, 32)  # evaluations: three as published, and a size for all later rounds
DRAWN, NEAR = 256, 768  # candidates of a round: drawn afresh, and near the best
PARENTS, LONGEST = 8, 4  # candidates are 1 to 4 swaps away from one of the 8 best
TOP_SHARE = 2  # of twice as many best predicted candidates as are scored, those scored are random
WINDOW = 384  # selections that a fit reads, the best ones: its cost grows with their third power
PENALTIES = 10.0 ** np.arange(-4, 4)  # of the ridge regression, as shares of the kernel's mean diagonal
PAIRS = 0.25  # weight of the pairwise kernel against the linear one

Predictor = Callable[[Ints], Doubles]


def climb(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Score random ones of the best predicted selections, fit the predictor to all scores, and repeat."""
    plan = evaluator.plan
    seen: dict[bytes, Ints] = {}
    scores: list[float] = []
    number = repeated = 0
    while repeated < 20:
        size = ROUNDS[min(number, len(ROUNDS) - 1)]
        if number == 0:
            batch = untested(plan, seen, [dirichlet_counts(plan, rng) for _ in range(4 * size)])[:size]
        else:
            known = np.stack(list(seen.values()))
            candidates = untested(plan, seen, propose(plan, known, np.array(scores), rng))
            best = np.argsort(-np.array(scores), kind="stable")[:WINDOW]
            predict = fit_predictor(known[best], np.array(scores)[best])
            batch = choose(candidates, predict, size, TOP_SHARE * size, rng)
        repeated = 0 if len(batch) else repeated + 1
        if len(batch):
            seen |= {counts.tobytes(): counts for counts in batch}
            scores += evaluator.score(batch).tolist()
        number += 1


def dirichlet_counts(plan: PickPlan, rng: np.random.Generator) -> Ints:
    """Return (K,) counts of a complete selection, drawn by Dirichlet weights around the clusters' shares of the rows."""
    concentration = np.exp(rng.uniform(np.log(0.5), np.log(8.0)))  # from a few clusters to nearly all of them
    weights = rng.gamma(concentration * plan.clusters * plan.sizes / plan.sizes.sum()) + 1e-12
    return draw_counts(plan, weights, rng)


def propose(plan: PickPlan, known: Ints, scores: Doubles, rng: np.random.Generator) -> list[Ints]:
    """Return candidates: drawn afresh, and a few swaps away from the best known selections."""
    parents = known[np.argsort(-scores, kind="stable")[:PARENTS]]
    near = nearby(plan, parents[rng.integers(len(parents), size=NEAR)], rng)
    return [*(dirichlet_counts(plan, rng) for _ in range(DRAWN)), *near]


def nearby(plan: PickPlan, counts: Ints, rng: np.random.Generator) -> Ints:
    """Return (C, K) selections one to a few random swaps away from each of ``counts`` (C, K)."""
    found = counts.copy()
    length = rng.integers(1, LONGEST + 1, len(found))
    for step in range(LONGEST):
        moved = np.flatnonzero(length > step)
        given = np.argmax(rng.random((len(moved), plan.clusters)) * (found[moved] > 0), 1)
        open_ = found[moved] < plan.capacity
        open_[np.arange(len(moved)), given] = False
        taken = np.argmax(rng.random((len(moved), plan.clusters)) * open_, 1)
        possible = open_[np.arange(len(moved)), taken] & (found[moved, given] > 0)
        moved, given, taken = moved[possible], given[possible], taken[possible]
        found[moved, given] -= 1
        found[moved, taken] += 1
    return found


def untested(plan: PickPlan, seen: dict[bytes, Ints], candidates: list[Ints]) -> Ints:
    """Return (C, K) the different candidates that have no score yet."""
    fresh = {counts.tobytes(): counts for counts in candidates if counts.tobytes() not in seen}
    return np.stack(list(fresh.values())) if fresh else np.zeros((0, plan.clusters), np.int64)


def choose(candidates: Ints, predict: Predictor, size: int, top: int, rng: np.random.Generator) -> Ints:
    """Return ``size`` random ones (M, K) of the ``top`` best predicted candidates, or all of these where they are fewer."""
    if not len(candidates):
        return candidates
    best = np.argsort(-predict(candidates), kind="stable")[:top]
    chosen: Ints = candidates[rng.permutation(best)[:size]]
    return chosen


def fit_predictor(counts: Ints, scores: Doubles) -> Predictor:
    """Fit kernel ridge regression to selections (N, K) with scores (N,), with the penalty of least leave-one-out error.

    The kernel is linear in the counts, their square roots (a second pick of a cluster is worth less) and in which clusters
    are picked at all, plus the square of that: pairs of clusters.
    """
    centre = _features(counts).mean(0)
    inputs = _features(counts) - centre
    gram = inputs @ inputs.T
    unit = max(float(np.trace(gram)) / len(gram), 1e-12)

    def kernel(products: Doubles) -> Doubles:
        share = products / unit
        return share + PAIRS * share**2

    values, vectors = np.linalg.eigh(kernel(gram))
    values = np.maximum(values, 0)
    mean = float(scores.mean())
    turned = vectors.T @ (scores - mean)
    errors = []
    for penalty in PENALTIES:
        shrink = 1 / (values + penalty)
        inverse = (vectors**2) @ shrink
        errors.append(float((((vectors @ (shrink * turned)) / inverse) ** 2).sum()))
    weights = vectors @ (turned / (values + PENALTIES[int(np.argmin(errors))]))

    def predict(candidates: Ints) -> Doubles:
        found: Doubles = mean + kernel((_features(candidates) - centre) @ inputs.T) @ weights
        return found

    return predict


def _features(counts: npt.NDArray[np.integer]) -> Doubles:
    picked = np.asarray(counts, np.float64)
    return np.concatenate([picked, np.sqrt(picked), np.minimum(picked, 1)], 1)
