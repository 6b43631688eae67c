"""CLIMB-Disc on objectives whose optimum is known."""

import itertools

import numpy as np
import pytest

from dsenv.clustering import Clustering
from dsenv.picks import plan_picks
from dsenv.search import Evaluator, run
from dsenv.search.climb import ROUNDS, choose, climb, dirichlet_counts, fit_predictor, nearby, untested
from tests.test_search import Modular


def test_the_modular_oracle():
    last = run(climb, Evaluator(Modular([3, 1, 2, 0], picks=2), 50), 0)[-1]
    assert last.score == 5 and last.counts.tolist() == [1, 0, 1, 0]


def test_a_linear_objective_is_predicted_at_its_best_vertex():
    """Of six affinely independent samples in six clusters, as many as there are unknowns."""
    weights = np.array([0.3, -1.0, 2.0, 0.5, 0.1, -0.2])
    rng = np.random.default_rng(0)
    known = np.stack([rng.multinomial(12, rng.dirichlet(np.ones(6))) for _ in range(24)])
    assert np.linalg.matrix_rank(known) == 6
    vertices = 12 * np.eye(6, dtype=np.int64)
    assert np.argmax(fit_predictor(known, known @ weights)(vertices)) == np.argmax(weights)


def test_all_of_the_top_hold_the_exhaustive_optimum():
    """N=6, H=2, a perfect predictor and all 15 sets in the top: scoring them all finds the best."""
    candidates = np.array([np.isin(np.arange(6), pair) for pair in itertools.combinations(range(6), 2)]).astype(np.int64)
    scores = np.random.default_rng(1).normal(size=15)
    lookup = {row.tobytes(): value for row, value in zip(candidates, scores, strict=True)}

    def predict(batch):
        return np.array([lookup[row.tobytes()] for row in batch])

    tested = choose(candidates, predict, size=15, top=15, rng=np.random.default_rng(0))
    assert len(tested) == 15 and predict(tested).max() == scores.max()
    best = choose(candidates, predict, size=3, top=5, rng=np.random.default_rng(0))
    assert set(predict(best)) <= set(np.sort(scores)[-5:])


def test_pairs_are_learned():
    """A linear model cannot know that two clusters are worth more together."""
    rng = np.random.default_rng(0)
    counts = (rng.random((400, 8)) < 0.5).astype(np.int64)
    truth = 2.0 * counts[:, 0] * counts[:, 1] - counts[:, 2] * counts[:, 3]
    found = fit_predictor(counts[:300], truth[:300])(counts[300:])
    assert np.corrcoef(found, truth[300:])[0, 1] > 0.95


def test_rounds_are_scored_in_the_published_ratio(monkeypatch):
    batches = []
    proxy = Modular(np.random.default_rng(0).normal(size=30), picks=5)
    evaluator = Evaluator(proxy, 112)
    score = evaluator.score
    monkeypatch.setattr(evaluator, "score", lambda counts: (batches.append(len(counts)), score(counts))[1])
    run(climb, evaluator, 0)
    assert tuple(batches[:3]) == ROUNDS[:3] and evaluator.used == 112


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_budgets_are_kept_and_seeds_repeat(limit):
    weights = np.random.default_rng(0).normal(size=9)
    found = [run(climb, Evaluator(Modular(weights, picks=4), limit), 1)[-1] for _ in range(2)]
    assert found[0].used <= limit and found[0].counts.sum() == 4
    assert np.array_equal(found[0].counts, found[1].counts)


def test_candidates_are_possible():
    sizes = np.array([9, 1, 3, 2, 5, 4])
    clustering = Clustering(np.repeat(np.arange(6), sizes), np.concatenate([np.arange(size) for size in sizes]))
    plan = plan_picks(clustering, budget=1.0, picks=8)
    rng = np.random.default_rng(0)
    drawn = np.stack([dirichlet_counts(plan, rng) for _ in range(50)])
    for counts in (*drawn, *nearby(plan, drawn, rng)):
        assert plan.check(counts).sum() == 8
    assert len(untested(plan, {drawn[0].tobytes(): drawn[0]}, list(drawn))) == len(np.unique(drawn, axis=0)) - 1


def test_a_problem_with_one_selection_ends():
    assert run(climb, Evaluator(Modular([1, 2], picks=2), 50), 0)[-1].used == 1
