"""Rows whose gradient step lowers the loss on the reward rows: GLISTER (arXiv 2012.10630)."""

from __future__ import annotations

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import check_whole, one_of
from dsenv.metrics import Doubles
from dsenv.selectors.checks import check_positive
from dsenv.selectors.head import REGULARISATION, alignments, fit_head, gradient_factors, mean_gradient
from dsenv.selectors.pool import Pool, Vectors, highest

STARTS = ("untrained", "fitted")


def glister(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    start: str = "untrained",
    learning_rate: float = 1.0,
    rounds: int = 50,
    regularisation: float = REGULARISATION,
) -> Ints:
    """Keep the rows whose gradients, in one step from the start, lower the reward rows' loss most, to first order.

    Nothing is drawn from ``rng``.

    Args:
        pool: the rows, and the reward rows.
        count: rows to keep.
        rng: unused.
        start: the head that takes the step: ``untrained``, W = 0, or ``fitted`` on the whole pool. The paper selects anew
            while it trains; a selection made once is for a model that has seen nothing.
        learning_rate: of the step along the mean gradient of ``count`` rows, above 0.
        rounds: how often the validation gradient is taken anew, from 1.
        regularisation: of the fitted head, above 0.

    Raises:
        InputError: for values outside what is allowed.
    """
    check_whole("rounds", rounds, 1)
    check_positive("learning_rate", learning_rate)
    weights = np.zeros((pool.vectors.shape[1] + 1, pool.classes))
    if one_of("start", start, STARTS) == "fitted":
        weights = fit_head(pool.vectors, pool.labels, pool.classes, regularisation)
    features, errors = gradient_factors(pool.vectors, pool.labels, weights)
    step = learning_rate / count
    return greedy_steps(features, errors, pool.reward_vectors, pool.reward_labels, weights, count, step, -(-count // rounds))


def greedy_steps(
    features: Doubles,
    errors: Doubles,
    reward_vectors: Vectors,
    reward_labels: Ints,
    weights: Doubles,
    count: int,
    step: float,
    every: int,
) -> Ints:
    """Add rows by η ∇L_T(i) · ∇L_V(θ_S), with θ_S = θ - η Σ over S of ∇L_T(j), refreshed every few rows.

    That is the first-order Taylor expansion of the fall of the validation loss (arXiv 2012.10630, the Taylor
    approximation); training gradients stay those at θ, as there.

    Args:
        features: (n, d + 1) of the training rows, the constant included.
        errors: (n, C), softmax - onehot at θ.
        reward_vectors: (m, d).
        reward_labels: (m,) class ids.
        weights: θ (d + 1, C).
        count: rows to add, at most n.
        step: η, of one row.
        every: rows added between two refreshes.

    Returns:
        (count,) rows in order; ties go to the first row.
    """
    chosen = np.empty(0, np.int64)
    moved = weights.copy()
    while len(chosen) < count:
        target = mean_gradient(*gradient_factors(reward_vectors, reward_labels, moved))
        gains = step * alignments(features, errors, target)
        gains[chosen] = -np.inf
        added = highest(gains, min(every, count - len(chosen)))
        moved -= step * (features[added].T @ errors[added])
        chosen = np.concatenate([chosen, added])
    return chosen
