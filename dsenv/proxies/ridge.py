"""The default proxy: ridge regression trained exactly on any selection, at a cost that no row adds to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.metrics import Doubles, balanced_weights, one_hot, score
from dsenv.picks import PickPlan
from dsenv.task import SelectionTask, Split

CHUNK = 64


def fit_ridge(
    features: npt.NDArray[np.floating], labels: Ints, classes: int, regularisation: float, weights: Doubles | None = None
) -> Doubles:
    """Return W = (Xᵀ D X + λ Σw I)⁻¹ Xᵀ D Y, shape (d, C), for one-hot Y and D = diag(weights), default ones."""
    x = features.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights
    weighted = x * w[:, None]
    gram = weighted.T @ x + regularisation * w.sum() * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted.T @ one_hot(labels, classes)))


def score_weights(task: SelectionTask, weights: Doubles, split: Split, metric: str) -> Doubles:
    """Return a metric of linear models W (..., d, C) on the rows of a split."""
    return score(metric, split.features.astype(np.float64) @ weights, split.labels, task.class_shares)


class RidgeProxy:
    """Φ(S) = metric of W_S = (G_S + λ n_S I)⁻¹ B_S, where G_S and B_S are sums over the selected rows.

    The sums over the first c picks of every cluster are stored, so that a selection's sums are K additions. The two
    Brier skills are quadratic forms in W and touch no row.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
    """

    def __init__(self, task: SelectionTask, plan: PickPlan, metric: str) -> None:
        self.task, self.plan, self.metric = task, plan, metric
        self._width = task.train.features.shape[1]
        self._upper = np.triu_indices(self._width)
        self._most = np.minimum(plan.capacity, plan.picks)  # more picks of one cluster than an episode has are never asked for
        self._offsets = np.cumsum(self._most + 1) - (self._most + 1)
        self._sums = self._prefix_sums()
        self._empty = score_weights(task, self._share_weights(), task.reward, metric)
        weights = {"brier_skill": np.ones(len(task.reward)), "balanced_brier_skill": balanced_weights(task.reward.labels)}
        self._form = _QuadraticForm(task, weights[metric]) if metric in weights else None

    def score(self, counts: npt.NDArray[np.integer]) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,)."""
        counts = self.plan.check_batch(counts)
        found = np.empty(len(counts))
        for start in range(0, len(counts), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = self.score_weights(self.weights(counts[part]))
        return np.where(counts.any(1), found, self._empty)

    def score_weights(self, weights: Doubles) -> Doubles:
        """Return the metric of models W (B, d, C) on the reward rows, shape (B,)."""
        if self._form is not None:
            return self._form.skill(weights)
        return score_weights(self.task, weights, self.task.reward, self.metric)

    def weights(self, counts: npt.NDArray[np.integer]) -> Doubles:
        """Return W_S for a batch of selections; counts (B, K) -> (B, d, C). The empty selection predicts class shares."""
        d, classes = self._width, self.task.classes
        sums = np.stack([self._sums[self._offsets + row].sum(0) for row in np.asarray(counts, np.int64)])
        gram = np.empty((len(sums), d, d))
        gram[:, self._upper[0], self._upper[1]] = sums[:, : len(self._upper[0])]
        gram[:, self._upper[1], self._upper[0]] = sums[:, : len(self._upper[0])]
        targets = sums[:, len(self._upper[0]) :].reshape(-1, d, classes)
        rows = self.plan.taken(counts).sum(1)
        gram[:, np.arange(d), np.arange(d)] += self.task.regularisation * np.maximum(rows, 1)[:, None]
        solved = np.linalg.solve(gram, targets)
        solved[rows == 0] = self._share_weights()
        return np.asarray(solved)

    def _share_weights(self) -> Doubles:
        constant = np.zeros((self._width, self.task.classes))
        constant[-1] = self.task.class_shares
        return constant

    def _prefix_sums(self) -> Doubles:
        """(picks + 1 of every cluster, d (d + 1) / 2 + d C) sums over the first c picks, cluster after cluster."""
        x = self.task.train.features[self.plan.order].astype(np.float64)
        y = one_hot(self.task.train.labels[self.plan.order], self.task.classes)
        sums = np.zeros((int((self._most + 1).sum()), len(self._upper[0]) + self._width * self.task.classes))
        step = self.plan.rows_per_pick
        for k, (start, size) in enumerate(zip(self.plan.starts, self.plan.sizes, strict=True)):
            for pick in range(int(self._most[k])):
                rows = slice(start + pick * step, start + min((pick + 1) * step, size))
                gram = x[rows].T @ x[rows]
                at = self._offsets[k] + pick + 1
                sums[at] = sums[at - 1]
                sums[at] += np.concatenate([gram[self._upper], (x[rows].T @ y[rows]).ravel()])
        return sums


class _QuadraticForm:
    """Brier skill on the reward rows from sums over them: SSE(W) = c - 2 <W, B> + <W, G W>."""

    def __init__(self, task: SelectionTask, weights: Doubles) -> None:
        x = task.reward.features.astype(np.float64)
        y = one_hot(task.reward.labels, task.classes)
        self._gram = (x * weights[:, None]).T @ x
        self._targets = (x * weights[:, None]).T @ y
        self._constant = float(weights.sum())
        self._baseline = float((((y - task.class_shares) ** 2).sum(1) * weights).sum())

    def skill(self, w: Doubles) -> Doubles:
        products = (w * (self._gram @ w - 2 * self._targets)).reshape(len(w), -1)
        return np.asarray(1 - (self._constant + products.sum(1)) / self._baseline)
