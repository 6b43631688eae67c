"""A policy that needs no search: shares of picks from what can be seen of the clusters, the same for every task.

Its weights are shared over clusters and its inputs name no class, so it serves tasks it has never met. It is trained by
``python -m agents.pretraining`` on a family of tasks; for a bundled dataset, the weights that never saw that dataset are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from dsenv.dataset import Ints
from dsenv.features import FEATURES, cluster_features
from dsenv.metrics import Doubles, one_hot
from dsenv.picks import PickPlan
from dsenv.task import SelectionTask, Split

WEIGHTS = Path(__file__).parent / "policies" / "pretrained.safetensors"
EVERY = "all"  # the weights trained on every dataset, for tasks that are none of them
BALANCED = ("balanced_brier_skill", "macro_f1")
COMPARED = ("size", "label_fit", "spread", "reward_distance", "reward_share")
FIRST_WEIGHTS = (0.8, 0.5, 0.0, *(0.0 for _ in COMPARED))  # importance; the root of the class sizes; nothing else

Weights = Mapping[str, npt.NDArray[np.floating]]


def policy_inputs(task: SelectionTask, plan: PickPlan, metric: str) -> Doubles:
    """Return what the policy sees of each cluster, (K, F): training and reward rows only, no class by name.

    The logarithm of an importance weight: how much more frequent the cluster's labels are among the reward rows around it
    than among the training rows there; how rare its labels are, where the metric asks for balance; the entropy of its
    labels; and, compared with the clusters of similar labels, its size, fit, spread, and nearness to the reward rows.
    """
    clustering = plan.clustering()
    static = cluster_features(task, clustering).astype(np.float64)
    mix, centroids = _label_mix(task, clustering.cluster, plan.clusters), _centroids(task, clustering.cluster, plan.clusters)
    near = int(np.clip(len(task.reward) / 20, 20, 200))
    rewarded, pooled = (
        (_labels_around(part, task.classes, centroids, number) * mix).sum(1) + 1 / near
        for part, number in ((task.reward, near), (task.train, 4 * near))
    )
    rarity = -np.log(np.maximum(mix @ task.class_shares, 1e-9))
    alike = mix @ mix.T * plan.sizes  # clusters weigh as they share labels
    compared = static[:, [FEATURES.index(name) for name in COMPARED]]
    peers = alike @ compared / alike.sum(1, keepdims=True)
    among = np.clip((compared - peers) / (compared.std(0) + 0.02), -3, 3)
    importance = np.clip(np.log(rewarded / pooled), -3, 2)
    entropy = static[:, FEATURES.index("label_entropy")]
    return np.column_stack([importance, float(metric in BALANCED) * rarity, entropy, among])


def policy_scores(weights: Weights, inputs: Doubles) -> Doubles:
    """Return (K,) the logarithm of how much more than its size's share each cluster is to get."""
    return np.asarray(inputs @ weights["weights"], np.float64)


def policy_shares(task: SelectionTask, plan: PickPlan, metric: str, weights: Weights | None = None) -> Doubles:
    """Return (K,) the share of the picks that the policy gives each cluster, summing to 1.

    Args:
        task: the pool.
        plan: what a pick adds.
        metric: that the selection is to be good at.
        weights: of the policy; default: the shipped ones, trained without the task's dataset.
    """
    known = shipped_weights(str(task.metadata["name"])) if weights is None else weights
    return shares_of(plan, known, policy_inputs(task, plan, metric))


def shares_of(plan: PickPlan, weights: Weights, inputs: Doubles) -> Doubles:
    """Return ``policy_shares`` from the inputs (K, F)."""
    scores = policy_scores(weights, inputs)
    shares = plan.sizes * np.exp(scores - scores.max())
    return np.asarray(shares / shares.sum())


def rounded_counts(plan: PickPlan, shares: Doubles) -> Ints:
    """Return (K,) the complete selection nearest to the shares: largest remainder, within capacity."""
    return plan.complete(plan.complete(np.zeros(plan.clusters, np.int64), shares))


def shipped_weights(dataset: str) -> Weights:
    """Return the shipped weights for a task of this dataset: those that never saw it."""
    kept = _shipped()
    return kept.get(dataset, kept[EVERY])


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Weights]:
    kept: dict[str, dict[str, npt.NDArray[np.floating]]] = {}
    for name, array in load_file(WEIGHTS).items():
        held_out, _, part = name.partition("/")
        kept.setdefault(held_out, {})[part] = array.astype(np.float64)
    return kept


def _label_mix(task: SelectionTask, cluster: Ints, clusters: int) -> Doubles:
    """(K, C) the label shares of each cluster."""
    found = np.zeros((clusters, task.classes))
    np.add.at(found, (cluster, task.train_labels), 1)
    return np.asarray(found / found.sum(1, keepdims=True))


def _centroids(task: SelectionTask, cluster: Ints, clusters: int) -> Doubles:
    x = task.train.features[:, :-1].astype(np.float64)
    sums = np.zeros((clusters, x.shape[1]))
    np.add.at(sums, cluster, x)
    return np.asarray(sums / np.bincount(cluster, minlength=clusters)[:, None])


def _labels_around(part: Split, classes: int, centroids: Doubles, number: int) -> Doubles:
    """(K, C) the label shares of the rows of a split that are nearest to each cluster."""
    x = part.features[:, :-1].astype(np.float64)
    distance = -2 * centroids @ x.T + (x**2).sum(1)
    near = min(number, len(x))
    nearest = np.argpartition(distance, near - 1, axis=1)[:, :near]
    return np.asarray(one_hot(part.labels, classes)[nearest].mean(1))
