"""How wrong a head is on a row early in training: EL2N and GraNd (arXiv 2107.07075)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import check_whole
from dsenv.metrics import Doubles
from dsenv.selectors.head import LEARNING_RATE, output_errors, probabilities, train_head, with_constant
from dsenv.selectors.keep import keep_end
from dsenv.selectors.pool import Pool, Vectors


def el2n(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    epochs: int = 3,
    seeds: int = 5,
    keep: str = "highest",
    learning_rate: float = LEARNING_RATE,
) -> Ints:
    """Keep the rows with the highest mean EL2N of heads trained for a few epochs.

    Args:
        pool: the rows.
        count: rows to keep.
        rng: of the heads' first weights and batches.
        epochs: of training before the score is taken, from 1.
        seeds: heads to average over, from 1.
        keep: ``highest``, the hardest rows, as the paper does; under wrong labels these are often the wrong ones, and
            ``lowest`` keeps the others.
        learning_rate: of Adam.

    Raises:
        InputError: for values outside what is allowed.
    """
    scores = _early_mean(pool, epochs, seeds, rng, learning_rate, lambda p: el2n_scores(p, pool.labels))
    return keep_end(scores, count, keep)


def grand(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    epochs: int = 1,
    seeds: int = 5,
    keep: str = "highest",
    learning_rate: float = LEARNING_RATE,
) -> Ints:
    """Keep the rows whose loss gradient in the head's weights has the highest mean norm.

    Args:
        pool: the rows.
        count: rows to keep.
        rng: of the heads' first weights and batches.
        epochs: of training before the score is taken, from 1.
        seeds: heads to average over, from 1.
        keep: ``highest``, as the paper does, or ``lowest``.
        learning_rate: of Adam.

    Raises:
        InputError: for values outside what is allowed.
    """
    scores = _early_mean(pool, epochs, seeds, rng, learning_rate, lambda p: gradient_norms(pool.vectors, p, pool.labels))
    return keep_end(scores, count, keep)


def el2n_scores(probability: Doubles, labels: Ints) -> Doubles:
    """Return ‖softmax - onehot‖ (n,) of class probabilities (n, C) (arXiv 2107.07075, section 2)."""
    return np.asarray(np.linalg.norm(output_errors(probability, labels), axis=1))


def gradient_norms(vectors: Vectors, probability: Doubles, labels: Ints) -> Doubles:
    """Return the norms (n,) of the gradients of the rows' log losses in W (arXiv 2107.07075, section 2).

    The gradient is [x, 1] ⊗ (softmax - onehot), so its norm is the product of the two norms.

    Args:
        vectors: (n, d), without the constant.
        probability: (n, C), class probabilities.
        labels: (n,) class ids.
    """
    return np.asarray(np.linalg.norm(with_constant(vectors), axis=1) * el2n_scores(probability, labels))


def _early_mean(
    pool: Pool,
    epochs: int,
    seeds: int,
    rng: np.random.Generator,
    learning_rate: float,
    score: Callable[[Doubles], Doubles],
) -> Doubles:
    """Return (n,) the mean of a score of the class probabilities (n, C) over heads trained for a few epochs."""
    check_whole("seeds", seeds, 1)
    total = np.zeros(len(pool))
    for _ in range(seeds):
        *_, weights = train_head(pool.vectors, pool.labels, pool.classes, epochs, rng, learning_rate)
        total += score(probabilities(pool.vectors, weights))
    return total / seeds
