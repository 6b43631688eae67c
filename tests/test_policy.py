"""The policy that needs no search: what it sees, what it chooses, how it is trained."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from safetensors import safe_open

from agents.pretraining import Problem, save_weights, train
from dsenv.policy import (
    EVERY,
    FIRST_WEIGHTS,
    WEIGHTS,
    policy_inputs,
    policy_shares,
    rounded_counts,
    shipped_weights,
)
from dsenv.proxies.ridge import RidgeProxy
from dsenv.registration import MAIN
from dsenv.selectors import select
from dsenv.synthetic import synthetic_task
from dsenv.task_file import TEST

ID = "DataSelect-GooglePlayNoisy-v0"


@pytest.fixture(scope="module")
def env():
    return gym.make(ID).unwrapped


def relabelled(task, change):
    """The task with other labels for some rows."""
    arrays = dict(task.arrays)
    key = f"{task.variant}:labels" if f"{task.variant}:labels" in arrays else "labels"
    arrays[key] = change(arrays[key].copy(), arrays["split"])
    return replace(task, arrays=arrays)


def test_inputs_name_no_class_and_read_no_test_row(env):
    inputs = policy_inputs(env.task, env.plan, env.metric)
    assert inputs.shape == (env.plan.clusters, len(FIRST_WEIGHTS)) and np.isfinite(inputs).all()

    def shuffle_test(labels, split):
        labels[split == TEST] = np.roll(labels[split == TEST], 7)
        return labels

    other = relabelled(env.task, shuffle_test)
    assert np.array_equal(policy_inputs(other, env.plan, env.metric), inputs)
    renamed = relabelled(env.task, lambda labels, split: env.task.classes - 1 - labels)
    assert np.allclose(policy_inputs(renamed, env.plan, env.metric), inputs)


def test_a_balanced_metric_asks_for_rare_classes():
    balanced = gym.make("DataSelect-HateUnion-v0").unwrapped
    shares = policy_shares(balanced.task, balanced.plan, balanced.metric, {"weights": np.array(FIRST_WEIGHTS)})
    plain = policy_shares(balanced.task, balanced.plan, "brier_skill", {"weights": np.array(FIRST_WEIGHTS)})
    majority = np.bincount(
        balanced.plan.clustering().cluster, balanced.task.train_labels == balanced.task.class_shares.argmax()
    )
    assert shares[majority > 0].sum() < plain[majority > 0].sum()


def test_wrongly_labelled_clusters_get_less(env):
    """Of the clusters of this problem, those with few rightly labelled rows are known only through the reward rows."""
    shares = policy_shares(env.task, env.plan, env.metric)
    clean = gym.make("DataSelect-GooglePlay-v0").unwrapped.task.train_labels
    right = np.bincount(env.plan.clustering().cluster, clean == env.task.train_labels) / env.plan.sizes
    proportional = env.plan.sizes / env.plan.sizes.sum()
    assert shares.sum() == pytest.approx(1)
    assert (shares * right).sum() > (proportional * right).sum() + 0.1


def test_rounding_is_complete_and_within_capacity(env):
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rounded_counts(env.plan, rng.dirichlet(np.full(env.plan.clusters, 0.05)))
        assert counts.sum() == env.plan.picks and (counts <= env.plan.capacity).all()


def facts_of(path):
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["facts"])


def test_a_dataset_is_served_by_weights_that_never_saw_it():
    every = shipped_weights("no bundled dataset")["weights"]
    for name in (*MAIN.values(), "synthetic"):
        assert not np.array_equal(shipped_weights(name)["weights"], every)
    assert np.array_equal(shipped_weights(EVERY)["weights"], every)
    assert str(facts_of(WEIGHTS)["command"]).startswith("python -m agents.pretraining")


def test_select_uses_the_policy_and_the_search_that_begins_there():
    chosen = select("synthetic", method="pretrained")
    assert chosen.evaluations == 1 and chosen.rows == select("synthetic", method="pretrained", seed=3).rows
    assert select("synthetic", method="guided", evaluations=100).score > chosen.score


def test_training_repeats_and_improves_what_it_is_trained_on(tmp_path):
    task = synthetic_task(3)
    from dsenv.picks import plan_picks

    proxy = RidgeProxy(task, plan_picks(task.clustering("stratified"), picks=32), "brier_skill", memo=0)
    inputs = policy_inputs(task, proxy.plan, "brier_skill")
    zero = float(proxy.score(proxy.plan.complete(np.zeros(48, np.int64))[None])[0])
    problems = {"synthetic": [Problem(proxy, inputs, zero, zero + 0.1)]}
    weights, again = (train(problems, seed=0, steps=25)["weights"] for _ in range(2))
    assert np.array_equal(weights, again)
    assert problems["synthetic"][0].value(weights) > problems["synthetic"][0].value(np.array(FIRST_WEIGHTS))
    save_weights({"all": {"weights": weights}}, {"command": "a test"}, tmp_path / "w.safetensors")
    assert facts_of(tmp_path / "w.safetensors") == {"command": "a test"}
