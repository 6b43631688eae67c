"""What linear models are worth on the reward rows: many models in one call, no loop over models or rows.

Predictions stand class by class, (B, C, n), and the rows are sorted by class: every metric is then a few passes over
contiguous memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.metrics import SMALLEST_SCORE, Doubles, balanced_weights
from dsenv.proxies.outputs import Outputs
from dsenv.seeding import generator
from dsenv.task import RESPONSE_SKILL, SelectionTask

Floats = npt.NDArray[np.floating[Any]]

CHUNK = 32  # models whose predictions stay in the cache together


def direction(width: int) -> Doubles:
    """Return a fixed direction (d,): two classes have equal weights where their products with it are equal."""
    return generator(0, "equal classes").normal(size=width)


class LinearScorer:
    """A metric of linear models on the reward rows.

    The Brier skills are quadratic forms, SSE(W) = c - 2 <W, B> + <W, G W> with sums G and B over the rows, and touch no
    row. Predictions of ``float32`` models are made in ``float32``: they differ where two classes are that close.

    Args:
        task: whose reward rows.
        metric: one of the five metrics; of instruction data ``response_skill`` too.
        dtype: of the models.
        rows: the reward rows to score on, by number; default: all.
    """

    def __init__(self, task: SelectionTask, metric: str, dtype: npt.DTypeLike = np.float64, rows: Ints | None = None) -> None:
        self._classes, self._metric = task.classes, metric
        order = np.argsort(task.reward.labels, kind="stable")
        if rows is not None:
            order = order[np.isin(order, rows)]
        self.labels: Ints = task.reward.labels[order]
        features = task.reward.features[order].astype(np.float64)
        plain = np.ones(len(order))
        weights = {"brier_skill": plain, RESPONSE_SKILL: plain, "balanced_brier_skill": balanced_weights(self.labels)}
        self.quadratic = metric in weights
        if self.quadratic:
            weight = weights[metric]
            outputs = Outputs(task, metric)
            truth = outputs.of_split(task.reward)[order]
            weighted = features * weight[:, None]
            # Sums whose last bits do not depend on the number of threads, as a matrix product's do.
            self.gram = np.einsum("ni,nj->ij", weighted, features).astype(dtype)
            self.targets = np.einsum("nc,nj->cj", truth, weighted).astype(dtype)
            self.constant = float(((truth**2).sum(1) * weight).sum())
            self.baseline = float((((truth - outputs.mean) ** 2).sum(1) * weight).sum())
        else:
            self.features = np.ascontiguousarray(features.T, dtype)
            self.direction = direction(features.shape[1]).astype(dtype)
            self._own = self.labels * len(order) + np.arange(len(order))
            self._present, self._starts, self._sizes = np.unique(self.labels, return_index=True, return_counts=True)

    def score(self, weights: Floats) -> Doubles:
        """Return the metric of models Wᵀ (B, C, d), shape (B,)."""
        if self.quadratic:
            products = (weights * (weights @ self.gram - 2 * self.targets)).reshape(len(weights), -1)
            return np.asarray(1 - (self.constant + products.sum(1, dtype=np.float64)) / self.baseline)
        measure = {"accuracy": self._accuracy, "macro_f1": self._macro_f1, "neg_log_loss": self._neg_log_loss}[self._metric]
        found = np.empty(len(weights))
        for start in range(0, len(weights), CHUNK):
            part = weights[start : start + CHUNK]
            # The log loss shows the last bits, and a product's last bits may depend on its shape: one shape for it.
            flat = part if self._metric == "neg_log_loss" else part.reshape(-1, part.shape[2])
            predicted = flat @ self.features
            found[start : start + CHUNK] = measure(part, predicted.reshape(len(part), self._classes, -1))
        return found

    def _accuracy(self, weights: Floats, scores: Floats) -> Doubles:
        return np.asarray(self._hits(weights, scores).sum(1, dtype=np.int32) / len(self.labels))

    def _macro_f1(self, weights: Floats, scores: Floats) -> Doubles:
        hits = np.add.reduceat(self._hits(weights, scores), self._starts, axis=1, dtype=np.int64)
        chosen = (scores == scores.max(1, keepdims=True)).sum(2, dtype=np.int64)
        return np.asarray((2 * hits / (self._sizes + chosen[:, self._present])).mean(1))

    def _neg_log_loss(self, weights: Floats, scores: Floats) -> Doubles:
        clipped = np.clip(scores, SMALLEST_SCORE, 1)
        return np.asarray(np.log(self._true(clipped) / clipped.sum(1)).mean(1, dtype=np.float64))

    def _hits(self, weights: Floats, scores: Floats) -> npt.NDArray[np.bool_]:
        """(B, n): is the row's class the first of the highest scores? Changes ``scores``: equal classes cannot tie.

        Classes have equal weights where the selection lacks them all, or has the same rows under each: as in argmax, the
        first one wins.
        """
        keys = (weights * self.direction).sum(2)
        later = np.tril(keys[:, :, None] == keys[:, None, :], -1).any(2)
        if later.any():
            scores[later] = -np.inf
        return np.asarray(self._true(scores) >= scores.max(1))

    def _true(self, scores: Floats) -> Floats:
        """(B, n): every row's score of its own class."""
        return np.asarray(scores.reshape(len(scores), -1).take(self._own, axis=1))
