"""Rows whose weighted gradients add up to the whole gradient: GradMatch (arXiv 2103.00123)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

from dsenv.dataset import Ints
from dsenv.errors import one_of
from dsenv.metrics import Doubles
from dsenv.selectors.checks import check_positive
from dsenv.selectors.head import REGULARISATION, alignments, fit_head, gradient_factors, mean_gradient
from dsenv.selectors.per_class import select_per_class
from dsenv.selectors.pool import Pool, highest

TARGETS = ("train", "reward")
MOST_SOLVES = 200
MOST_MATCHED = 2_000


def gradmatch(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    target: str = "train",
    ridge: float = 0.5,
    regularisation: float = REGULARISATION,
) -> Ints:
    """Keep, class by class, the rows that orthogonal matching pursuit needs to rebuild the class's mean gradient.

    Gradients are those of the log loss in the weights of a head fitted on the whole pool. Class by class because there the
    gradient of all rows together is next to nothing, while that of a class is not. Each class has its share of ``count``.
    Nothing is drawn from ``rng``.

    Args:
        pool: the rows, and the reward rows.
        count: rows to keep.
        rng: unused.
        target: whose mean gradient is rebuilt: the class's rows in the pool (``train``) or its reward rows (``reward``); a
            class without reward rows uses its rows in the pool.
        ridge: λ, above 0: the penalty of the pursuit's squared weights.
        regularisation: of the head, above 0.

    Raises:
        InputError: for values outside what is allowed.
    """
    one_of("target", target, TARGETS)
    check_positive("ridge", ridge)
    weights = fit_head(pool.vectors, pool.labels, pool.classes, regularisation)
    features, errors = gradient_factors(pool.vectors, pool.labels, weights)
    reward_features, reward_errors = gradient_factors(pool.reward_vectors, pool.reward_labels, weights)

    def choose(number: int, rows: Ints, quota: int) -> Ints:
        like = pool.reward_labels == number
        aim = (
            mean_gradient(reward_features[like], reward_errors[like])
            if target == "reward" and like.any()
            else mean_gradient(features[rows], errors[rows])
        )
        return matching_pursuit(features[rows], errors[rows], aim, quota, ridge)[0]

    return select_per_class(pool.labels, pool.classes, count, choose)


def matching_pursuit(features: Doubles, errors: Doubles, target: Doubles, count: int, ridge: float) -> tuple[Ints, Doubles]:
    """Choose rows i and weights w >= 0 that make ‖Σ w_i g_i - target‖² + λ ‖w‖² small (arXiv 2103.00123, algorithm 2).

    Each step adds the row whose gradient g_i = features_i ⊗ errors_i has the highest inner product with what is left of the
    target, then solves for the weights of all rows added; those that turn negative are set to 0 for good and the rest solved
    again. Such a row stays chosen. At most 200 steps are made, so above 200 rows a step adds several; at most 2,000 rows are
    matched, and any others follow by their inner products with what the 2,000 leave.

    Args:
        features: (n, d).
        errors: (n, C).
        target: (d, C).
        count: rows to choose, at most n.
        ridge: λ, above 0.

    Returns:
        The rows (count,) in order of choice, ties to the first, and their weights (count,).
    """
    matched = min(count, MOST_MATCHED)
    batch = -(-matched // MOST_SOLVES)
    chosen = active = np.empty(0, np.int64)
    weights = np.zeros(len(features))
    slopes = alignments(features, errors, target)
    while len(chosen) < matched:
        added = highest(slopes, min(batch, matched - len(chosen)))
        chosen = np.concatenate([chosen, added])
        active, solved = _weigh(features, errors, target, np.concatenate([active, added]), ridge)
        rest = target - features[active].T @ (solved[:, None] * errors[active])
        slopes = alignments(features, errors, rest)
        slopes[chosen] = -np.inf
        weights[:] = 0
        weights[active] = solved
    chosen = np.concatenate([chosen, highest(slopes, count - matched)])
    return chosen, weights[chosen]


def _weigh(features: Doubles, errors: Doubles, target: Doubles, active: Ints, ridge: float) -> tuple[Ints, Doubles]:
    """The rows that keep a weight above 0, and these weights."""
    wanted = alignments(features[active], errors[active], target)
    gram = (features[active] @ features[active].T) * (errors[active] @ errors[active].T)
    gram[np.diag_indices(len(active))] += ridge
    kept = np.arange(len(active))
    weights = np.empty(0)
    while len(kept):
        weights = solve(gram[np.ix_(kept, kept)], wanted[kept], assume_a="pos")
        if (weights >= 0).all():
            break
        kept = kept[weights > 0]
        weights = weights[:0]
    return active[kept], weights
