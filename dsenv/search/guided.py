"""The named learned agent: a policy says where to begin, and a belief about every move, learned on the way, what to try.

``pretrained`` scores the selection that the policy (``dsenv.policy``) chooses without any search. ``guided`` begins there:
it climbs by the moves that may help most under ``Gains``, and where nothing promises to help it begins again from a
selection shaken by what the belief says costs least, or between two of the best ends so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.policy import policy_shares, rounded_counts
from dsenv.search.evaluator import Evaluator
from dsenv.search.gains import Gains
from dsenv.search.moves import proportional_counts, swapped, swaps

FIRST = 8  # random moves that tell how large a gain is
LOOKED_AT = 50  # moves compared for each evaluation: the best of all leads into poorer ends
PATIENCE, LATER_PATIENCE = 60, 80  # evaluations without gain that end the first climb, and later ones
ENDS = 6  # of climbs: so many are gathered before two of them are crossed
SHAKEN, CROSSED_SHAKEN = 24, 2  # moves
IDLE = 5  # climbs in a row that meet nothing new: a small task is exhausted
TEMPERATURE = 2.0  # of the moves that shake, in deviations of their expected changes


@dataclass(frozen=True)
class _End:
    counts: Ints
    score: float


def pretrained(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Score what the policy chooses without any search."""
    evaluator.score(rounded_counts(evaluator.plan, _shares(evaluator))[None])


def guided(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Climb from the policy's choice by the moves that may help most, then between the best ends of climbs."""
    plan = evaluator.plan
    starts = np.stack([rounded_counts(plan, _shares(evaluator)), proportional_counts(plan)])
    scores = evaluator.score(starts)
    climb(evaluator, rng, starts[int(np.argmax(scores))])


def climb(evaluator: Evaluator, rng: np.random.Generator, start: Ints) -> None:
    """Climb from a start, as ``guided`` does."""
    plan = evaluator.plan
    score = float(evaluator.score(start[None])[0])
    possible = swaps(plan, start)
    if not len(possible):
        return
    tried = possible[rng.permutation(len(possible))[:FIRST]]
    changes = evaluator.score(swapped(start, tried)) - score
    gains = Gains(plan.clusters, float(changes.std()) or 1e-12)
    for move, change in zip(tried.tolist(), changes.tolist(), strict=True):
        gains.learn(start, (move[0], move[1]), change)
    ends = [_climb(evaluator, rng, gains, _End(start, score), PATIENCE)]
    idle = 0
    while idle < IDLE:
        before = evaluator.used
        if len(ends) < ENDS:
            counts = _shaken(plan, ends[0].counts, SHAKEN, gains, rng)
        else:
            first, second = rng.choice(len(ends), 2, replace=False)
            between = _crossed(plan, ends[first].counts, ends[second].counts, rng)
            counts = _shaken(plan, between, CROSSED_SHAKEN, gains, rng)
        gains.forget(0.5)
        begin = _End(counts, float(evaluator.score(counts[None])[0]))
        end = _climb(evaluator, rng, gains, begin, LATER_PATIENCE)
        if not any(np.array_equal(end.counts, other.counts) for other in ends):
            ends = sorted([*ends, end], key=lambda one: -one.score)[: 2 * ENDS]
        idle = idle + 1 if evaluator.used == before else 0


def _climb(evaluator: Evaluator, rng: np.random.Generator, gains: Gains, begin: _End, patience: int) -> _End:
    """Try, of random moves, the one that may help most, until nothing promises to or nothing has for long."""
    counts, score, capacity = begin.counts, begin.score, evaluator.plan.capacity
    failures = 0.0
    while failures < patience:
        allowed = (counts > 0)[:, None] & (counts < capacity)[None, :] & gains.untried
        np.fill_diagonal(allowed, False)
        expected, deviation = gains.expected(counts)
        hope = np.where(allowed, expected + deviation, -np.inf)
        if not hope.max() > 0:
            break
        looked_at = rng.random(hope.shape) < LOOKED_AT / allowed.sum()
        i, j = divmod(int(np.argmax(np.where(looked_at, hope, -np.inf))), len(counts))
        if not (looked_at[i, j] and hope[i, j] > 0):
            failures += 0.2
            continue
        neighbour = swapped(counts, np.array([[i, j]]))
        change = float(evaluator.score(neighbour)[0]) - score
        gains.learn(counts, (i, j), change)
        if change > 0:
            gains.moved((i, j), change)
            counts, score, failures = neighbour[0], score + change, 0
        else:
            failures += 1
    return _End(counts, score)


def _shaken(plan: PickPlan, counts: Ints, number: int, gains: Gains, rng: np.random.Generator) -> Ints:
    """Return (K,) the selection after random moves, those that are expected to cost least more often."""
    for _ in range(number):
        possible = swaps(plan, counts)
        if not len(possible):
            break
        expected = gains.expected(counts)[0][possible[:, 0], possible[:, 1]]
        weights = np.exp((expected - expected.max()) / (TEMPERATURE * expected.std() + 1e-300))
        counts = swapped(counts, possible[rng.choice(len(possible), p=weights / weights.sum())][None])[0]
    return counts


def _crossed(plan: PickPlan, one: Ints, other: Ints, rng: np.random.Generator) -> Ints:
    """Return (K,) a selection with each cluster's picks from one of two selections, as many in all as they have."""
    counts = np.where(rng.random(len(one)) < 0.5, one, other)
    low, high = np.minimum(one, other), np.maximum(one, other)
    while (missing := int(one.sum() - counts.sum())) != 0:
        if missing > 0:
            counts[rng.choice(np.flatnonzero(counts < high))] += 1
        else:
            counts[rng.choice(np.flatnonzero(counts > low))] -= 1
    return counts


def _shares(evaluator: Evaluator) -> Doubles:
    return policy_shares(evaluator.task, evaluator.plan, evaluator.metric)
