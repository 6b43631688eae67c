"""The ridge on random, tiny, nearly singular and one-class problems: equal to scikit-learn, and the same from anywhere."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from dsenv.clustering import Clustering
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.metrics import METRICS, score
from dsenv.picks import plan_picks
from dsenv.proxies import Memory, RowSample, empty_score, make_proxy, recipe_digest, sampled_rows
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.ridge_torch import TorchRidgeProxy
from dsenv.search import random_counts, search
from dsenv.synthetic import synthetic_task
from dsenv.task import Split


class Problem:
    """A task made of arrays, without a file: only what a proxy reads."""

    tables, is_instructions = None, False
    name = variant = digest = "made here"
    instance = 0

    def __init__(self, features, labels, classes, regularisation, reward):
        self.train = Split(features, labels, np.full(len(labels), -1))
        self.reward = reward
        self.classes, self.regularisation = classes, regularisation
        self.class_shares = np.bincount(labels, minlength=classes) / len(labels)
        self.train_labels = labels

    def train_features(self, rows):
        return self.train.features[rows]


@st.composite
def problems(draw):
    """(task, plan, seed): few rows or many, few columns or more than rows, equal rows, one class or several."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, width = draw(st.integers(2, 60)), draw(st.integers(1, 12))
    classes, clusters = draw(st.integers(2, 5)), draw(st.integers(1, min(rows, 6)))
    kind = draw(st.sampled_from(["random", "equal rows", "thin", "one class"]))
    x = rng.normal(size=(rows, width))
    if kind == "equal rows":
        x = np.repeat(x[:1], rows, 0)
    if kind == "thin":  # one direction with almost no variance
        x = x[:, :1] + 1e-4 * x
    y = np.zeros(rows, np.int64) if kind == "one class" else rng.integers(0, classes, rows)

    def with_constant(values):
        return np.concatenate([values, np.ones((len(values), 1))], 1).astype(np.float32)

    reward = Split(with_constant(rng.normal(size=(20, width))), rng.integers(0, classes, 20), np.full(20, -1))
    task = Problem(with_constant(x), y, classes, draw(st.sampled_from([1e-3, 1e-2, 1.0])), reward)
    cluster = rng.permutation(np.arange(rows) % clusters)
    position = np.zeros(rows, np.int64)
    for k in range(clusters):
        position[cluster == k] = np.arange((cluster == k).sum())
    picks = draw(st.integers(1, min(rows, 8)))
    return task, plan_picks(Clustering(cluster, position), budget=1.0, picks=picks), rng


def fitted(task, rows):
    """scikit-learn's W (d, C) on the very rows."""
    model = Ridge(alpha=task.regularisation * len(rows), fit_intercept=False, solver="cholesky")
    model.fit(task.train.features[rows].astype(np.float64), np.eye(task.classes)[task.train.labels[rows]])
    return model.coef_.T.reshape(-1, task.classes)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_weights_scores_and_predictions_equal_scikit_learn(made):
    task, plan, rng = made
    counts = random_counts(plan, rng)
    expected = fitted(task, plan.rows(counts))
    x, labels = task.reward.features.astype(np.float64), task.reward.labels
    for precision, tolerance in (("float64", 1e-6), ("float32", 1e-3)):
        proxy = RidgeProxy(task, plan, "brier_skill", precision=precision)
        found = proxy.weights(counts[None])[0]
        assert np.abs(found - expected).max() <= tolerance * max(1, np.abs(expected).max())
        for metric in ("brier_skill", "balanced_brier_skill"):
            value = RidgeProxy(task, plan, metric, precision=precision).score(counts[None])[0]
            truth = float(score(metric, x @ expected, labels, task.class_shares))
            assert value == pytest.approx(truth, rel=tolerance, abs=tolerance)
        top = np.sort(x @ expected, 1)
        clear = top[:, -1] - top[:, -2] > 10 * tolerance * max(1, np.abs(expected).max())
        assert np.array_equal((x @ found).argmax(1)[clear], (x @ expected).argmax(1)[clear])
        accuracy = RidgeProxy(task, plan, "accuracy", precision=precision).score(counts[None])[0]
        assert abs(accuracy - ((x @ expected).argmax(1) == labels).mean()) <= (~clear).mean() + 1e-12


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(sorted(METRICS)))
def test_scores_are_the_same_from_anywhere(made, metric):
    """Fresh, in a batch, carried on from any earlier selection, remembered: bit by bit the same (log loss: to 1e-12)."""
    task, plan, rng = made
    proxy = RidgeProxy(task, plan, metric, memo=0)
    batch = np.stack([random_counts(plan, rng) for _ in range(6)])
    batch[rng.random(batch.shape) < 0.3] = 0
    singles = np.array([proxy.score(row[None])[0] for row in batch])
    memory = Memory()
    proxy.score(np.stack([random_counts(plan, rng) for _ in range(6)]), memory=memory)
    order = rng.permutation(6)
    remembering = RidgeProxy(task, plan, metric, memo=3)
    ways = {
        "batch": proxy.score(batch),
        "carried on": proxy.score(batch[order], memory=memory.at(order))[np.argsort(order)],
        "again": proxy.score(batch, memory=memory),
        "remembered": [remembering.score(batch, memory=Memory()) for _ in range(2)][1],
    }
    for way, found in ways.items():
        tolerance = 1e-12 if metric == "neg_log_loss" else 0
        np.testing.assert_allclose(found, singles, rtol=0, atol=tolerance, err_msg=way)
    assert len(remembering._memo) <= 3


@pytest.mark.parametrize("task", ["googleplay", "banking77", "hateunion:target"])
@pytest.mark.parametrize("metric", METRICS)
def test_episodes_carry_exact_sums_on(task, metric):
    """64 picks added one by one end at the very score of the selection scored alone."""
    env = DataSelectEnv(task, metric=metric)
    proxy = RidgeProxy(env.task, env.plan, metric, memo=0)
    rng = np.random.default_rng(0)
    counts, memory = np.zeros((3, env.plan.clusters), np.int64), Memory()
    for _ in range(env.plan.picks):
        for row in counts:
            row[rng.choice(np.flatnonzero(row < env.plan.capacity))] += 1
        last = proxy.score(counts, memory=memory)
    fresh = RidgeProxy(env.task, env.plan, metric, memo=0).score(counts)
    np.testing.assert_allclose(last, fresh, rtol=0, atol=1e-12 if metric == "neg_log_loss" else 0)
    single = RidgeProxy(env.task, env.plan, metric, precision="float32")
    assert np.abs(single.score(counts) - fresh).max() < 2e-3


def test_the_first_of_equal_classes_wins():
    """A selection of one class leaves all others at score 0: among them argmax takes the first, and so do we."""
    task = synthetic_task()
    env = DataSelectEnv(task, metric="accuracy")
    for k in range(0, env.plan.clusters, 5):
        counts = np.zeros((1, env.plan.clusters), np.int64)
        counts[0, k] = 1
        for metric in ("accuracy", "macro_f1"):
            proxy = RidgeProxy(task, env.plan, metric)
            scores = task.reward.features.astype(np.float64) @ proxy.weights(counts)[0]
            assert proxy.score(counts)[0] == pytest.approx(float(score(metric, scores, task.reward.labels, task.class_shares)))


def test_samples_are_scored_on_their_rows():
    env = DataSelectEnv("googleplay:noisy")
    rng = np.random.default_rng(0)
    counts = np.stack([random_counts(env.plan, rng) for _ in range(3)])
    counts[1] = 0
    samples = [RowSample(0.5, seed) for seed in range(3)]
    for metric in METRICS:
        proxy = make_proxy("ridge", env.task, env.plan, metric)
        found = proxy.score(counts, samples=samples)
        for i, sample in enumerate(samples):
            rows = sampled_rows(env.task, sample)
            assert len(rows) == round(len(env.task.reward) / 2) and len(set(rows.tolist())) == len(rows)
            if not counts[i].any():
                assert found[i] == empty_score(env.task, metric, sample)
                continue
            scores = env.task.reward.features[rows].astype(np.float64) @ proxy.weights(counts[i : i + 1])[0]
            assert found[i] == pytest.approx(
                float(score(metric, scores, env.task.reward.labels[rows], env.task.class_shares)), abs=1e-12
            )
    with pytest.raises(InputError, match="one for each"):
        proxy.score(counts, samples=samples[:2])
    whole = proxy.score(counts, samples=[RowSample(1.0, 0)] * 3)
    np.testing.assert_allclose(whole, proxy.score(counts), atol=1e-12)


def test_recipes_tell_proxies_apart():
    env, other = DataSelectEnv("synthetic"), DataSelectEnv("synthetic", instance=1)
    digests = {
        recipe_digest(RidgeProxy(e.task, e.plan, metric, precision=precision))
        for e in (env, other, DataSelectEnv("synthetic", picks=8))
        for metric in ("accuracy", "brier_skill")
        for precision in ("float64", "float32")
    }
    assert len(digests) == 12


def test_a_proxy_of_another_problem_is_refused():
    env = DataSelectEnv("synthetic")
    assert DataSelectEnv("synthetic", proxy=env.proxy).proxy is env.proxy
    for keywords, text in (
        ({"instance": 1}, "of task 'synthetic' or of other picks"),
        ({"picks": 8}, "other picks"),
        ({"metric": "accuracy"}, "measures 'brier_skill'"),
    ):
        with pytest.raises(InputError, match=text):
            DataSelectEnv("synthetic", proxy=env.proxy, **keywords)
    with pytest.raises(InputError, match="unknown proxy 'rigde'. Did you mean 'ridge'"):
        DataSelectEnv("synthetic", proxy="rigde")
    with pytest.raises(InputError, match="trained before it serves"):
        DataSelectEnv("synthetic", proxy="surrogate")
    with pytest.raises(InputError, match="dataset="):
        DataSelectEnv("synthetic", proxy="finetune")
    with pytest.raises(InputError, match="precision"):
        RidgeProxy(env.task, env.plan, "accuracy", precision="float16")


@pytest.mark.parametrize("task", ["synthetic", "googleplay:noisy", "banking77"])
def test_torch_gives_the_same_scores(task):
    env = DataSelectEnv(task)
    rng = np.random.default_rng(0)
    batch = np.stack([random_counts(env.plan, rng) for _ in range(5)] + [np.zeros(env.plan.clusters, np.int64)])
    batch[1, env.plan.clusters // 2 :] = 0
    for metric in METRICS:
        expected = RidgeProxy(env.task, env.plan, metric).score(batch)
        for precision, tolerance in (("float64", 1e-8), ("float32", 2e-3)):
            proxy = TorchRidgeProxy(env.task, env.plan, metric, precision=precision, device="cpu")
            assert np.abs(proxy.score(batch) - expected).max() < tolerance, (metric, precision)
    copied = pickle.loads(pickle.dumps(proxy))
    np.testing.assert_array_equal(copied.score(batch), proxy.score(batch))
    with pytest.raises(InputError, match="device 'gpu0' cannot be used"):
        TorchRidgeProxy(env.task, env.plan, metric, device="gpu0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_same_scores():
    env = DataSelectEnv("googleplay:noisy")
    batch = np.stack([random_counts(env.plan, np.random.default_rng(i)) for i in range(64)])
    for metric in METRICS:
        found = TorchRidgeProxy(env.task, env.plan, metric, device="cuda").score(batch)
        assert np.abs(found - RidgeProxy(env.task, env.plan, metric).score(batch)).max() < 2e-3


def test_equal_classes_are_told_apart_as_argmax_does():
    """The same rows under two labels give two classes equal weights: the first of them is predicted, not both."""
    rng = np.random.default_rng(0)
    half = np.concatenate([rng.normal(size=(30, 4)), np.ones((30, 1))], 1).astype(np.float32)
    labels = np.repeat([0, 1], 30)
    reward = Split(
        np.concatenate([rng.normal(size=(40, 4)), np.ones((40, 1))], 1).astype(np.float32), np.arange(40) % 3, np.full(40, -1)
    )
    task = Problem(np.concatenate([half, half]), labels, 3, 1e-3, reward)
    plan = plan_picks(Clustering(np.zeros(60, np.int64), np.arange(60)), budget=1.0, picks=1)
    counts = np.ones((1, 1), np.int64)
    for metric in ("accuracy", "macro_f1"):
        for proxy in (RidgeProxy(task, plan, metric), TorchRidgeProxy(task, plan, metric, precision="float64", device="cpu")):
            weights = proxy.weights(counts)[0]
            weights[:, 1] = weights[:, 0]
            expected = float(score(metric, reward.features.astype(np.float64) @ weights, reward.labels, task.class_shares))
            assert proxy.score(counts)[0] == pytest.approx(expected)


def test_single_precision_forgets_nothing_after_a_large_cluster_leaves():
    env = DataSelectEnv("googleplay", unit="cluster", clustering="kmeans")
    exact = RidgeProxy(env.task, env.plan, "brier_skill")
    single = RidgeProxy(env.task, env.plan, "brier_skill", precision="float32", memo=0)
    large, small = int(env.plan.sizes.argmax()), int(env.plan.sizes.argmin())
    counts, memory = np.zeros((2, env.plan.clusters), np.int64), Memory()
    counts[0, [large, small]] = counts[1, small] = 1
    for row in (counts[:1], counts[1:]):
        assert single.score(row, memory=memory)[0] == pytest.approx(exact.score(row)[0], abs=1e-3)


def test_searches_share_a_torch_proxy():
    env = DataSelectEnv("synthetic", picks=6, budget=0.02)
    proxy = TorchRidgeProxy(env.task, env.plan, env.metric, device="cpu")
    found = [search(proxy, method, evaluations=200).score for method in ("greedy", "swap", "best_of", "greedy")]
    assert found[0] == found[3]
