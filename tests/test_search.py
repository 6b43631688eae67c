"""Searches on set functions whose optimum is known, and what ``select`` returns."""

import itertools

import numpy as np
import pytest

from dsenv.clustering import Clustering
from dsenv.errors import InputError
from dsenv.picks import plan_picks
from dsenv.search import SEARCHES, Evaluator, random_counts, search, select


class Modular:
    """Φ = sum of weights over picked clusters (methods: a modular potential, whose greedy choice is optimal)."""

    metric = "modular"

    def __init__(self, weights, picks, unit="cluster", sizes=None):
        self.weights = np.asarray(weights, float)
        sizes = np.full(len(weights), 4) if sizes is None else np.asarray(sizes)
        cluster = np.repeat(np.arange(len(sizes)), sizes)
        clustering = Clustering(cluster, np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes))
        self.plan = plan_picks(clustering, unit=unit, budget=1.0, picks=picks)
        self.scored = []

    def score(self, counts, memory=None, samples=None):
        counts = np.asarray(counts)
        self.scored += [tuple(row) for row in counts.tolist() if any(row)]  # the empty selection is free
        return counts @ self.weights


def test_greedy_is_optimal_on_a_modular_function():
    proxy = Modular([3, 1, 2, 0], picks=2)
    found = search(proxy, "greedy", evaluations=50)
    assert found.score == 5 and found.counts.tolist() == [1, 0, 1, 0]
    for order in itertools.permutations([0, 2]):  # every order of the same clusters ends at the same selection
        counts = np.zeros(4, np.int64)
        for k in order:
            counts[k] += 1
        assert proxy.score(counts[None])[0] == 5


def test_swap_reaches_the_optimum_and_stops():
    proxy = Modular([3, 1, 2, 0, -1, 5], picks=3)
    found = search(proxy, "swap", evaluations=1000)
    assert found.score == 10 and found.used <= 20  # there are only 20 selections of 3 of 6 clusters


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize("evaluations", [1, 7, 100])
def test_evaluations_are_counted_distinct_and_never_exceeded(method, evaluations):
    proxy = Modular(np.random.default_rng(0).normal(size=9), picks=4)
    found = search(proxy, method, evaluations=evaluations, seed=1)
    assert found.used == len(set(proxy.scored)) == len(proxy.scored) <= evaluations
    assert found.counts.sum() == 4 and found.score == pytest.approx(float(found.counts @ proxy.weights))
    assert found.score == pytest.approx(
        max(value for row, value in ((row, float(np.array(row) @ proxy.weights)) for row in proxy.scored) if sum(row) == 4)
    )
    again = search(Modular(proxy.weights, picks=4), method, evaluations=evaluations, seed=1)
    assert np.array_equal(again.counts, found.counts)


@pytest.mark.parametrize("method", SEARCHES)
def test_every_number_of_evaluations_ends_in_a_complete_selection(method):
    weights = np.random.default_rng(1).normal(size=6)
    for evaluations in (*range(1, 16), 40, 59):
        found = search(Modular(weights, picks=4, unit="rows", sizes=[9, 1, 3, 2, 5, 4]), method, evaluations=evaluations)
        assert found.used <= evaluations and found.counts.sum() == 4


def test_best_of_ends_on_a_task_with_fewer_selections_than_evaluations():
    found = search(Modular([1, 2, 3], picks=2), "best_of", evaluations=1000)
    assert found.score == 5 and found.used == 3


def test_an_unfinished_greedy_is_completed_by_proportional_picks():
    proxy = Modular(np.arange(10.0), picks=5)
    found = search(proxy, "greedy", evaluations=12)  # 10 for the first pick, 1 of the second, 1 kept back
    assert found.counts.sum() == 5 and found.counts[9] == 1 and found.used == 12


def test_repeated_rows_in_one_batch_are_scored_once():
    proxy = Modular([1, 2], picks=1)
    evaluator = Evaluator(proxy, 10)
    assert evaluator.score(np.array([[1, 0], [0, 1], [1, 0]])).tolist() == [1, 2, 1]
    assert evaluator.used == 2 == len(proxy.scored)


def test_plans():
    clustering = Clustering(np.repeat([0, 1, 2], [5, 3, 2]), np.array([4, 2, 0, 1, 3, 0, 1, 2, 1, 0]))
    plan = plan_picks(clustering, budget=0.8, picks=4)
    assert (plan.picks, plan.rows_per_pick, plan.capacity.tolist()) == (4, 2, [3, 2, 1])
    assert plan.rows(np.array([1, 2, 0])).tolist() == [2, 3, 5, 6, 7]
    assert plan.taken(np.array([3, 2, 1])).tolist() == [5, 3, 2]
    assert plan.complete(np.zeros(3, np.int64)).tolist() == [2, 1, 1]
    assert plan.complete(np.array([0, 0, 1])).sum() == 4
    assert plan_picks(clustering, budget=0.3).picks == 3  # fewer than 64, because the budget has three rows
    whole = plan_picks(clustering, unit="cluster", budget=0.7)
    assert (whole.picks, whole.capacity.tolist(), len(whole.rows(np.array([1, 0, 1])))) == (2, [1, 1, 1], 7)
    full = plan_picks(clustering, budget=1.0, picks=3)
    assert full.complete(np.zeros(3, np.int64)).sum() == 3
    for wrong in (np.array([0.5, 0, 0]), np.array([1, 1]), np.array([4, 0, 0]), np.array([3, 2, 0])):
        with pytest.raises(InputError):
            plan.rows(wrong)


def test_random_counts_stay_within_capacity():
    plan = Modular([1, 2, 3], picks=7, unit="rows", sizes=[9, 2, 3]).plan
    for seed in range(20):
        counts = random_counts(plan, np.random.default_rng(seed))
        assert counts.sum() == plan.picks and (counts <= plan.capacity).all()


def test_select_returns_row_ids_of_the_dataset(tiny, tiny_task):
    chosen = select(tiny_task, method="greedy", budget=0.2, evaluations=300)
    assert len(chosen.rows) == len(set(chosen.rows)) and chosen.fingerprint == tiny.fingerprint
    assert len(chosen.rows) == 48 and chosen.evaluations <= 300 and max(chosen.rows) < len(tiny.train)
    assert chosen.rows == select(tiny_task, method="greedy", budget=0.2, evaluations=300).rows
    proportional = select(tiny_task, method="proportional", budget=0.2)
    assert proportional.score <= select(tiny_task, method="swap", budget=0.2).score
    for arguments, says in (
        ({"method": "gredy"}, "Did you mean 'greedy'"),
        ({"budget": 2}, "above 0 up to 1"),
        ({"evaluations": 0}, "evaluations 0"),
        ({"evaluations": 2.5}, "evaluations 2.5"),
        ({"seed": -1}, "seed -1"),
        ({"metrik": "accuracy"}, "unknown argument 'metrik'"),
        ({"metric": "auc"}, "accuracy"),
    ):
        with pytest.raises(InputError, match=says):
            select(tiny_task, **arguments)
