"""A softmax head on the pool's vectors: fitted to its optimum, or trained epoch by epoch and watched."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from dsenv.dataset import Ints
from dsenv.errors import check_whole
from dsenv.metrics import Doubles, one_hot
from dsenv.selectors.checks import check_positive
from dsenv.selectors.pool import Vectors

REGULARISATION = 1.0
LEARNING_RATE = 1e-2  # of Adam
BATCH = 128
TOLERANCE = 1e-7  # of the gradient of the mean loss
MOST_ITERATIONS = 10_000


def fit_head(vectors: Vectors, labels: Ints, classes: int, regularisation: float = REGULARISATION) -> Doubles:
    """Return the one minimum of Σ -log softmax([x, 1] W)_y + regularisation / 2 · ‖W‖².

    The constant is penalised like the rest, so the objective is strictly convex: one minimum, whatever the rows' order,
    and a Hessian that can be inverted. L-BFGS from W = 0; without rows W = 0.

    Args:
        vectors: (n, d).
        labels: (n,) class ids.
        classes: C; a class without rows gets a low probability, not none.
        regularisation: above 0; it is weighed against a sum over rows.

    Returns:
        W (d + 1, C), the constant's row last.

    Raises:
        InputError: for a regularisation that is not above 0.
    """
    check_positive("regularisation", regularisation)
    penalty = regularisation
    x, truth = with_constant(vectors), one_hot(labels, classes)
    rows = max(len(x), 1)

    def objective(flat: Doubles) -> tuple[float, Doubles]:
        weights = flat.reshape(x.shape[1], classes)
        logs = log_softmax(x @ weights, axis=1)
        value = penalty * (weights * weights).sum() / 2 - (truth * logs).sum()
        return value / rows, ((x.T @ (np.exp(logs) - truth) + penalty * weights) / rows).ravel()

    options = {"gtol": TOLERANCE, "ftol": 0, "maxcor": 20, "maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS}
    found = minimize(objective, np.zeros(x.shape[1] * classes), method="L-BFGS-B", jac=True, options=options)
    return np.asarray(found.x).reshape(x.shape[1], classes)


def train_head(
    vectors: Vectors,
    labels: Ints,
    classes: int,
    epochs: int,
    rng: np.random.Generator,
    learning_rate: float = LEARNING_RATE,
    batch: int = BATCH,
) -> Iterator[Doubles]:
    """Yield W (d + 1, C) after each epoch of mini-batch Adam (arXiv 1412.6980) on the mean log loss.

    It starts from weights drawn from Normal(0, 1 / (d + 1)); the caller asks ``probabilities`` for what it watches, so that
    no (epochs, n, C) array is ever held.

    Args:
        vectors: (n, d).
        labels: (n,) class ids.
        classes: C.
        epochs: passes over the rows, from 1.
        rng: of the first weights and of the order of the rows in each epoch.
        learning_rate: of Adam, above 0.
        batch: rows a step, from 1.

    Raises:
        InputError: for values outside what is allowed.
    """
    check_whole("epochs", epochs, 1)
    check_whole("batch", batch, 1)
    check_positive("learning_rate", learning_rate)
    return _epochs(with_constant(vectors), one_hot(labels, classes), epochs, rng, learning_rate, batch)


def _epochs(
    x: Doubles, truth: Doubles, epochs: int, rng: np.random.Generator, learning_rate: float, batch: int
) -> Iterator[Doubles]:
    weights = rng.normal(0, x.shape[1] ** -0.5, (x.shape[1], truth.shape[1]))
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    steps = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            gradient = x[rows].T @ (softmax(x[rows] @ weights, axis=1) - truth[rows]) / len(rows)
            steps += 1
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            weights = weights - learning_rate * (mean / (1 - 0.9**steps)) / (np.sqrt(square / (1 - 0.999**steps)) + 1e-8)
        yield weights


def probabilities(vectors: Vectors, weights: Doubles) -> Doubles:
    """Return (n, C) class probabilities of rows (n, d) under W (d + 1, C)."""
    return np.asarray(softmax(with_constant(vectors) @ weights, axis=1))


def out_of_fold(
    vectors: Vectors,
    labels: Ints,
    classes: int,
    rng: np.random.Generator,
    folds: int = 5,
    regularisation: float = REGULARISATION,
) -> Doubles:
    """Return (n, C) class probabilities of every row by a head fitted on the other folds, which has not seen its label.

    Args:
        vectors: (n, d).
        labels: (n,) class ids.
        classes: C.
        rng: of the folds.
        folds: from 2; at most as many as rows are made.
        regularisation: of the head, above 0.

    Raises:
        InputError: for values outside what is allowed.
    """
    check_whole("folds", folds, 2)
    fold = rng.permutation(len(labels)) % min(folds, len(labels))
    found = np.empty((len(labels), classes))
    for number in range(int(fold.max()) + 1):
        kept = fold != number
        weights = fit_head(vectors[kept], labels[kept], classes, regularisation)
        found[~kept] = probabilities(vectors[~kept], weights)
    return found


def output_errors(probability: Doubles, labels: Ints) -> Doubles:
    """Return softmax - onehot (n, C): the gradient of each row's log loss in the head's outputs.

    A row's gradient in W is the outer product of [x, 1] and this; everything that compares gradients works with the two
    factors, because (n, d C) numbers are too many.
    """
    errors = probability.copy()
    errors[np.arange(len(labels)), labels] -= 1
    return errors


def gradient_factors(vectors: Vectors, labels: Ints, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Return the two factors of every row's gradient in W: features [x, 1] (n, d + 1) and output errors (n, C)."""
    return with_constant(vectors), output_errors(probabilities(vectors, weights), labels)


def mean_gradient(features: Doubles, errors: Doubles) -> Doubles:
    """Return the mean gradient (d + 1, C) of rows with features [x, 1] (n, d + 1) and output errors (n, C)."""
    return np.asarray(features.T @ errors / max(len(features), 1))


def alignments(features: Doubles, errors: Doubles, direction: Doubles) -> Doubles:
    """Return (n,) inner products of the rows' gradients, features (n, d + 1) and errors (n, C), with one (d + 1, C)."""
    return np.asarray(np.einsum("nc,nc->n", features @ direction, errors))


def with_constant(vectors: Vectors) -> Doubles:
    """Return rows (n, d) with a constant 1 behind, (n, d + 1), as doubles."""
    return np.pad(np.asarray(vectors, np.float64), ((0, 0), (0, 1)), constant_values=1)
