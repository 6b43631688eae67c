"""A policy that needs no search: shares of picks from what can be seen of the clusters, the same for every task.

Its weights are shared over clusters and its inputs name no class, so it serves tasks it has never met. It is trained by
``python -m agents.pretraining`` on a family of tasks; for a bundled dataset, the weights that never saw that dataset are used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from dsenv.dataset import Ints, largest_remainder
from dsenv.features import cluster_features
from dsenv.metrics import Doubles, one_hot
from dsenv.picks import PickPlan
from dsenv.task import SelectionTask

WEIGHTS = Path(__file__).parent / "policies" / "pretrained.safetensors"
EVERY = "all"  # the weights trained on every dataset, for tasks that are none of them
DOUBT = 1.5
BALANCED = ("balanced_brier_skill", "macro_f1")
RARITY = 1  # the column of the inputs that says how rare a cluster's labels are, where the metric asks for balance

Weights = Mapping[str, npt.NDArray[np.floating]]


def policy_inputs(task: SelectionTask, plan: PickPlan, metric: str) -> Doubles:
    """Return what the policy sees of each cluster, (K, F): training and reward rows only, no class by name.

    The static features of ``dsenv.features``; how far the labels of the reward rows around a cluster agree with its own;
    how frequent its labels are among reward rows against the pool, and how rare in the pool; the same compared with the
    clusters of similar labels. All but the class frequencies count twice: as far as the pool's labels are in doubt, and
    as far as they are not.
    """
    clustering = plan.clustering()
    static = cluster_features(task, clustering).astype(np.float64)
    mix, centroids = _label_mix(task, clustering.cluster, plan.clusters), _centroids(task, clustering.cluster, plan.clusters)
    reward_shares = np.bincount(task.reward.labels, minlength=task.classes) / len(task.reward)
    around = _labels_around(task, centroids)
    agreement = (around * mix).sum(1)
    lift = np.log((around + 0.02) / (reward_shares + 0.02))  # a wrongly labelled cluster lies where another class is frequent
    own_lift = (lift * mix).sum(1)
    wanted = np.log(np.maximum(mix @ (reward_shares / np.maximum(task.class_shares, 1e-9)), 0.05))
    rarity = -np.log(np.maximum(mix @ task.class_shares, 1e-9) * task.classes)
    own = np.column_stack([static, agreement, wanted, rarity, own_lift, own_lift - lift.max(1)])
    alike = mix @ mix.T * plan.sizes  # clusters weigh as they share labels
    peers = alike @ own / alike.sum(1, keepdims=True)
    among = np.clip((own - peers) / (own.std(0) + 0.02), -3, 3)
    doubt = float(np.clip(DOUBT * (plan.sizes / plan.sizes.sum()) @ (lift.max(1) - own_lift), 0, 1))
    straight = np.column_stack([wanted, float(metric in BALANCED) * rarity])
    return np.column_stack([straight, doubt * own, doubt * among, (1 - doubt) * among])


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
    counts = np.zeros(plan.clusters, np.int64)
    while (left := plan.picks - int(counts.sum())) > 0 and (open_ := shares * (counts < plan.capacity)).any():
        counts = np.minimum(counts + largest_remainder(open_, left), plan.capacity)
    return plan.complete(counts)


def shipped_weights(dataset: str) -> Weights:
    """Return the shipped weights for a task of this dataset: those that never saw it."""
    kept = _shipped()
    return kept.get(dataset, kept[EVERY])


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Weights]:
    kept: dict[str, dict[str, npt.NDArray[np.floating]]] = {}
    for name, array in load_file(WEIGHTS).items():
        held_out, _, part = name.partition("/")
        kept.setdefault(held_out, {})[part] = array.astype(np.float64)
    return dict(kept)


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


def _labels_around(task: SelectionTask, centroids: Doubles) -> Doubles:
    """(K, C) the label shares of the reward rows nearest to each cluster."""
    rewarded = task.reward.features[:, :-1].astype(np.float64)
    distance = (centroids**2).sum(1)[:, None] - 2 * centroids @ rewarded.T + (rewarded**2).sum(1)
    near = min(int(np.clip(len(rewarded) // len(centroids), 5, 50)), len(rewarded))
    nearest = np.argpartition(distance, near - 1, axis=1)[:, :near]
    return np.asarray(one_hot(task.reward.labels, task.classes)[nearest].mean(1))


def read_facts(path: str | Path = WEIGHTS) -> dict[str, object]:
    """Return how the weights were trained."""
    with Path(path).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found: dict[str, object] = json.loads(header["__metadata__"]["facts"])
    return found
