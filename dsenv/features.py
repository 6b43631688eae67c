"""What an agent may know of a cluster without knowing its classes: static features for the dict observation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.clustering import Clustering
from dsenv.metrics import one_hot
from dsenv.proxies.ridge import fit_ridge
from dsenv.task import SelectionTask

FEATURES = (
    "size",  # rows, as a share of the largest cluster
    "label_entropy",  # of the cluster's labels, as a share of ln C
    "majority_share",  # rows of the most frequent label
    "majority_prior",  # how frequent that label is in the pool
    "label_fit",  # mean score that a ridge model of the whole pool gives the rows' own labels
    "spread",  # mean squared distance to the centroid, against the pool's: x / (1 + x)
    "reward_distance",  # squared distance of the centroid to that of the reward rows, against the pool's spread: x / (1 + x)
    "reward_share",  # reward rows whose nearest centroid it is, against its share of the pool: x / (1 + x)
)


def cluster_features(task: SelectionTask, clustering: Clustering) -> npt.NDArray[np.float32]:
    """Return (K, F) features in [0, 1], from training and reward rows only."""
    cluster, sizes, clusters = clustering.cluster, clustering.sizes, clustering.clusters
    x = task.train.features[:, :-1].astype(np.float64)
    labels = task.train.labels
    member = np.zeros((clusters, len(x)))
    member[cluster, np.arange(len(x))] = 1
    mix = member @ one_hot(labels, task.classes) / sizes[:, None]
    entropy = -(mix * np.log(np.maximum(mix, 1e-12))).sum(1) / np.log(task.classes)
    centroids = member @ x / sizes[:, None]
    spread = np.bincount(cluster, ((x - centroids[cluster]) ** 2).sum(1)) / sizes
    pool_spread = ((x - x.mean(0)) ** 2).sum(1).mean()
    model = fit_ridge(task.train.features, labels, task.classes, task.regularisation)
    own = (task.train.features @ model)[np.arange(len(x)), labels]
    rewarded = task.reward.features[:, :-1].astype(np.float64)
    distance = ((centroids - rewarded.mean(0)) ** 2).sum(1)
    nearest = ((centroids**2).sum(1) - 2 * rewarded @ centroids.T).argmin(1)
    ratio = np.bincount(nearest, minlength=clusters) / len(rewarded) / (sizes / sizes.sum())
    columns = [
        sizes / sizes.max(),
        entropy,
        mix.max(1),
        task.class_shares[mix.argmax(1)],
        np.bincount(cluster, own) / sizes,
        _squash(spread / pool_spread),
        _squash(distance / pool_spread),
        _squash(ratio),
    ]
    return np.asarray(np.clip(np.stack(columns, 1), 0, 1), np.float32)


def _squash(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values / (1 + values)
