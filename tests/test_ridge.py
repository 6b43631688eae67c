"""The ridge proxy against scikit-learn's Ridge fitted on the very rows, for every metric."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, f1_score

from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.metrics import METRICS, score
from dsenv.proxies import empty_score, make_proxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.registration import IDS, SMALL
from dsenv.search import random_counts
from dsenv.task import load_bundled


def independent_scores(task, rows):
    """Every metric from scikit-learn's Ridge and metrics, without dsenv's formulas."""
    classes = task.classes
    onehot = np.eye(classes)
    model = Ridge(alpha=task.regularisation * len(rows), fit_intercept=False)
    model.fit(task.train.features[rows].astype(np.float64), onehot[task.train.labels[rows]])
    predicted = model.predict(task.reward.features.astype(np.float64)).reshape(-1, classes)
    labels = task.reward.labels
    clipped = np.clip(predicted, 1e-3, 1)
    clipped /= clipped.sum(1, keepdims=True)
    shares = np.bincount(task.train.labels, minlength=classes) / len(task.train.labels)
    errors = ((onehot[labels] - predicted) ** 2).sum(1)
    baseline = ((onehot[labels] - shares) ** 2).sum(1)
    weights = np.bincount(labels)[labels] ** -0.5
    return {
        "accuracy": accuracy_score(labels, predicted.argmax(1)),
        "macro_f1": f1_score(labels, predicted.argmax(1), labels=np.unique(labels), average="macro", zero_division=0),
        "neg_log_loss": np.log(clipped[np.arange(len(labels)), labels]).mean(),
        "brier_skill": 1 - errors.sum() / baseline.sum(),
        "balanced_brier_skill": 1 - (errors * weights).sum() / (baseline * weights).sum(),
    }


@pytest.mark.parametrize("task", ["synthetic", "googleplay", "googleplay:noisy", "banking77", "hateunion:target"])
def test_all_metrics_equal_scikit_learn_on_the_very_rows(task):
    rng = np.random.default_rng(0)
    env = DataSelectEnv(task)
    for size in (1, 5, env.plan.picks):
        counts = np.zeros(env.plan.clusters, np.int64)
        counts[rng.choice(env.plan.clusters, min(size, env.plan.clusters), replace=False)] = 1
        expected = independent_scores(env.task, env.plan.rows(counts))
        for metric in METRICS:
            found = make_proxy("ridge", env.task, env.plan, metric).score(counts[None])[0]
            assert found == pytest.approx(expected[metric], abs=1e-9), (metric, size)


@pytest.mark.parametrize("id", [name for name in IDS if "Small" in name])
def test_small_tables_equal_scikit_learn(id):
    """200 random selections and the optimum, every metric."""
    task = load_bundled(IDS[id]["task"])
    env = DataSelectEnv(task, **SMALL)
    rng = np.random.default_rng(1)
    selections = [env.proxy.best()[0]]
    while len(selections) < 201:
        counts = np.zeros(20, np.int64)
        counts[rng.choice(20, rng.integers(1, 5), replace=False)] = 1
        selections.append(counts)
    tables = {metric: make_proxy("table", task, env.plan, metric).score(np.stack(selections)) for metric in METRICS}
    for i, counts in enumerate(selections):
        expected = independent_scores(task, env.plan.rows(counts))
        for metric in METRICS:
            assert tables[metric][i] == pytest.approx(expected[metric], abs=1e-9), (metric, counts)


@pytest.mark.parametrize("metric", METRICS)
def test_the_empty_selection_predicts_class_shares(metric):
    env = DataSelectEnv("googleplay:noisy", metric=metric)
    found = env.proxy.score(np.zeros((1, env.plan.clusters), np.int64))[0]
    assert found == pytest.approx(empty_score(env.task, metric), abs=1e-12)
    labels = env.task.reward.labels
    if "brier" in metric:
        assert found == pytest.approx(0, abs=1e-12)
    if metric == "accuracy":
        assert found == (labels == env.task.class_shares.argmax()).mean()


def test_batches_equal_single_scores_bit_by_bit():
    for task in ("synthetic", "banking77"):
        for metric in METRICS:
            env = DataSelectEnv(task, metric=metric)
            rng = np.random.default_rng(2)
            batch = np.stack([random_counts(env.plan, rng) for _ in range(70)])
            batch[3] = 0
            singles = np.array([env.proxy.score(row[None])[0] for row in batch])
            assert np.array_equal(env.proxy.score(batch), singles)


def test_a_step_touches_no_row():
    """Scoring reads sums made once: changing the rows afterwards changes no Brier score."""
    env = DataSelectEnv("synthetic")
    proxy = RidgeProxy(env.task, env.plan, env.metric, memo=0)
    counts = random_counts(env.plan, np.random.default_rng(0))[None]
    before = proxy.score(counts)
    vectors = env.task.arrays["vectors"].copy()
    env.task.arrays["vectors"][:] = 0
    try:
        assert np.array_equal(proxy.score(counts), before)
        assert not np.array_equal(RidgeProxy(env.task, env.plan, env.metric).score(counts), before)
    finally:
        env.task.arrays["vectors"][:] = vectors


def test_impossible_counts_are_refused():
    for env in (DataSelectEnv("synthetic"), DataSelectEnv("banking77:small", **SMALL)):
        good = env.plan.complete(np.zeros(env.plan.clusters, np.int64))
        over = np.zeros_like(good)
        over[3] = env.plan.capacity[3] + 1
        for wrong in (over[None], -good[None], good, np.ones((1, 3), np.int64), np.ones((1, env.plan.clusters), np.int64) * 2):
            with pytest.raises(InputError):
                env.proxy.score(wrong)


def test_metrics_by_hand():
    scores = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    labels, shares = np.array([0, 1, 1]), np.array([0.5, 0.5])
    assert score("accuracy", scores, labels, shares) == pytest.approx(2 / 3)
    assert score("macro_f1", scores, labels, shares) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert score("neg_log_loss", scores, labels, shares) == pytest.approx(np.log([0.7, 0.4, 0.8]).mean())
    errors = np.array([0.18, 0.72, 0.08])
    assert score("brier_skill", scores, labels, shares) == pytest.approx(1 - errors.sum() / 1.5)
    weights = np.array([1, 2**-0.5, 2**-0.5])
    assert score("balanced_brier_skill", scores, labels, shares) == pytest.approx(1 - errors @ weights / (0.5 * weights.sum()))
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        score("accuracyy", scores, labels, shares)
    outside = np.array([[-0.5, 1.5]])
    assert score("neg_log_loss", outside, np.array([0]), shares) == pytest.approx(np.log(1e-3 / 1.001))
