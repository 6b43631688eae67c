"""What a model's class scores are worth: the five metrics, from scores of shape (..., n, C)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import one_of

Doubles = npt.NDArray[np.float64]

SMALLEST_SCORE = 1e-3
NEG_RESPONSE_LOSS = "neg_response_loss"  # of a causal model: mean log probability of a response's token, nats


def accuracy(scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return the share of rows whose highest score is their class (ties go to the first class)."""
    return np.asarray((scores.argmax(-1) == labels).mean(-1))


def macro_f1(scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return the mean F1 over the classes present in ``labels``; a class never predicted counts 0."""
    classes = scores.shape[-1]
    predicted = scores.argmax(-1).reshape(-1, len(labels))
    batch = len(predicted)
    cells = (np.arange(batch)[:, None] * classes + labels) * classes + predicted
    table = np.bincount(cells.ravel(), minlength=batch * classes**2).reshape(batch, classes, classes)
    hits = np.diagonal(table, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(table.sum(1) + table.sum(2), 1)
    present = np.bincount(labels, minlength=classes) > 0
    return np.asarray(f1.compress(present, axis=1).mean(-1).reshape(scores.shape[:-2]))


def neg_log_loss(scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return the mean log of the true class's score, with scores clipped to [1e-3, 1] and renormalised."""
    clipped = np.clip(scores, SMALLEST_SCORE, 1)
    true = np.take_along_axis(clipped, np.broadcast_to(labels[:, None], (*scores.shape[:-1], 1)), -1)[..., 0]
    return np.asarray(np.log(true / clipped.sum(-1)).mean(-1))


def brier_skill(scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return 1 - SSE(scores) / SSE(class shares) over rows and classes."""
    return _skill(scores, labels, shares, np.ones(len(labels)))


def balanced_brier_skill(scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return the Brier skill with rows weighted by (rows of their class) ** -1/2."""
    return _skill(scores, labels, shares, balanced_weights(labels))


def balanced_weights(labels: Ints) -> Doubles:
    """Return (n,) weights: the number of rows of each row's class to the power -1/2."""
    return np.asarray(np.bincount(labels)[labels] ** -0.5)


def one_hot(labels: Ints, classes: int) -> Doubles:
    """Return (n, C) with a 1 at each row's class."""
    return np.eye(classes)[labels]


Metric = Callable[[Doubles, Ints, Doubles], Doubles]

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "neg_log_loss": neg_log_loss,
    "brier_skill": brier_skill,
    "balanced_brier_skill": balanced_brier_skill,
}


def score(metric: str, scores: Doubles, labels: Ints, shares: Doubles) -> Doubles:
    """Return a metric by its name.

    Args:
        metric: one of ``METRICS``.
        scores: (..., n, C) class scores; they need not be probabilities.
        labels: (n,) class ids.
        shares: (C,) the training rows' class shares, what the Brier skills are measured against.

    Returns:
        (...,) one value for each n x C block.

    Raises:
        InputError: for an unknown metric.
    """
    return METRICS[one_of("metric", metric, METRICS)](scores, labels, shares)


def _skill(scores: Doubles, labels: Ints, shares: Doubles, weights: Doubles) -> Doubles:
    truth = one_hot(labels, scores.shape[-1])
    errors = (((truth - scores) ** 2).sum(-1) * weights).sum(-1)
    baseline = (((truth - shares) ** 2).sum(-1) * weights).sum()
    return np.asarray(1 - errors / baseline)
