"""What adding a row does to the loss on the reward rows, to first order (arXiv 2504.13586; 1703.04730, equation 2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.selectors.head import (
    REGULARISATION,
    alignments,
    fit_head,
    gradient_factors,
    mean_gradient,
    output_errors,
    probabilities,
    with_constant,
)
from dsenv.selectors.pool import Pool, highest

TOLERANCE = 1e-8  # of a residual's norm over the target's
MOST_STEPS = 2_000


def influence(pool: Pool, count: int, rng: np.random.Generator, *, regularisation: float = REGULARISATION) -> Ints:
    """Keep the rows with the most negative influence on the reward rows' mean loss: the most helpful.

    The head is fitted on the whole pool; nothing is drawn from ``rng``.

    Args:
        pool: the rows, and the reward rows.
        count: rows to keep.
        rng: unused.
        regularisation: of the head, above 0; it is part of the Hessian too.

    Raises:
        InputError: for a regularisation that is not above 0.
    """
    weights = fit_head(pool.vectors, pool.labels, pool.classes, regularisation)
    features = with_constant(pool.vectors)
    probability = probabilities(pool.vectors, weights)
    target = mean_gradient(*gradient_factors(pool.reward_vectors, pool.reward_labels, weights))

    def product(direction: Doubles) -> Doubles:
        return hessian_product(features, probability, regularisation, direction)

    return highest(-influences(features, output_errors(probability, pool.labels), target, product), count)


def influences(features: Doubles, errors: Doubles, target: Doubles, product: Callable[[Doubles], Doubles]) -> Doubles:
    """Return I(z) = -∇L_val · H⁻¹ · ∇L(z) of rows whose gradients are features ⊗ errors (arXiv 2504.13586).

    Adding z to n rows changes the validation loss by about I(z) / (n + 1): the most negative helps most.

    Args:
        features: (n, d).
        errors: (n, C).
        target: (d, C), the gradient of the mean validation loss.
        product: direction (d, C) -> H direction, of the mean loss's Hessian, symmetric and positive definite.
    """
    return -alignments(features, errors, solve(product, target))


def hessian_product(features: Doubles, probability: Doubles, regularisation: float, direction: Doubles) -> Doubles:
    """Return H V of the head's mean regularised loss.

    Args:
        features: (n, d), the constant included.
        probability: (n, C), of the head.
        regularisation: weighed against a sum over rows, as in ``fit_head``.
        direction: V (d, C).
    """
    outputs = features @ direction
    outputs -= np.einsum("nc,nc->n", probability, outputs)[:, None]
    outputs *= probability
    return np.asarray((features.T @ outputs + regularisation * direction) / len(features))


def solve(product: Callable[[Doubles], Doubles], target: Doubles) -> Doubles:
    """Return H⁻¹ target by conjugate gradients: H is never formed, since its side is d C, thousands."""
    found, residual = np.zeros_like(target), target.copy()
    direction = residual.copy()
    squared = float((residual**2).sum())
    enough = squared * TOLERANCE**2
    for _ in range(MOST_STEPS):
        if squared <= enough:
            break
        curved = product(direction)
        step = squared / float((direction * curved).sum())
        found += step * direction
        residual -= step * curved
        before, squared = squared, float((residual**2).sum())
        direction = residual + squared / before * direction
    return found
