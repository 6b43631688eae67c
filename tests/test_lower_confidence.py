"""The lower confidence bound of Φ over folds of the reward rows."""

import gymnasium as gym
import numpy as np
import pytest

from dsenv.errors import InputError
from dsenv.metrics import METRICS
from dsenv.picks import draw_counts
from dsenv.proxies import RowSample
from dsenv.proxies.lower_confidence import LowerConfidenceProxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.scoring import LinearScorer


@pytest.fixture(scope="module")
def env():
    return gym.make("DataSelect-Synthetic-v0").unwrapped


@pytest.fixture(scope="module")
def counts(env):
    rng = np.random.default_rng(0)
    return np.stack([draw_counts(env.plan, env.plan.sizes, rng) for _ in range(5)])


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_the_mean_over_folds_minus_standard_errors(env, counts, metric):
    ridge = RidgeProxy(env.task, env.plan, metric)
    weights = ridge.weights(counts).transpose(0, 2, 1).copy()
    rows = np.arange(len(env.task.reward))
    assert np.allclose(LinearScorer(env.task, metric, rows=rows).score(weights), ridge.score(counts))
    bounds = {kappa: LowerConfidenceProxy(env.task, env.plan, metric, kappa=kappa).score(counts) for kappa in (0.0, 1.0, 2.0)}
    assert np.allclose(bounds[0.0] - bounds[1.0], bounds[1.0] - bounds[2.0]) and (bounds[1.0] < bounds[0.0]).all()
    assert np.allclose(bounds[0.0], ridge.score(counts), atol=0.02)  # folds are equal parts of all reward rows


def test_folds_are_equal_parts_with_the_classes_shares(env):
    proxy = LowerConfidenceProxy(env.task, env.plan, "accuracy", folds=4)
    sizes = [len(scorer.labels) for scorer in proxy._scorers]
    assert sum(sizes) == len(env.task.reward) and max(sizes) - min(sizes) <= env.task.classes
    shares = np.stack([np.bincount(scorer.labels, minlength=env.task.classes) for scorer in proxy._scorers])
    assert np.ptp(shares, 0).max() <= 1


def test_bad_input_is_named(env, counts):
    for wrong, says in (({"folds": 1}, "folds 1"), ({"folds": 10**6}, "folds 1000000"), ({"kappa": -1.0}, "kappa -1.0")):
        with pytest.raises(InputError, match=says):
            LowerConfidenceProxy(env.task, env.plan, "accuracy", **wrong)
    with pytest.raises(InputError, match="folds"):
        LowerConfidenceProxy(env.task, env.plan, "accuracy").score(counts[:1], samples=[RowSample(0.5, 0)])
    with pytest.raises(InputError, match="auc"):
        LowerConfidenceProxy(env.task, env.plan, "auc")
