"""The ridge model of chosen rows, by least squares, and what it is worth on other rows."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from benchmarks.verify.tasks import Array, Doubles, Ints, Picks, Problem, Rows

METRICS = ("accuracy", "macro_f1", "neg_log_loss", "brier_skill", "balanced_brier_skill")  # rows of a table, in this order


def fit(problem: Problem, rows: list[int] | Ints, metric: str = "brier_skill", weights: Doubles | None = None) -> Doubles:
    """Return W that minimises Σ w ‖x W - y‖² + λ Σw ‖W‖², y a 1 at the row's class; of the response's vector for its skill."""
    train = problem.train
    x, labels = train.features[rows], train.labels[rows]
    y = np.zeros((len(labels), problem.classes))
    y[np.arange(len(labels)), labels] = 1
    if metric == "response_skill":
        assert train.responses is not None
        y = train.responses[rows]
    w = np.ones(len(labels)) if weights is None else weights
    root, penalty = np.sqrt(w)[:, None], np.sqrt(problem.regularisation * w.sum()) * np.eye(x.shape[1])
    stacked = np.concatenate([root * x, penalty]), np.concatenate([root * y, np.zeros((len(penalty), y.shape[1]))])
    return np.asarray(np.linalg.lstsq(*stacked, rcond=None)[0])


def worth(problem: Problem, model: Doubles, rows: Rows, metric: str) -> float:
    """Return a metric of a model on rows."""
    said = rows.features @ model
    if metric == "response_skill":
        assert rows.responses is not None and problem.train.responses is not None
        usual = problem.train.responses.mean(0)
        return float(1 - ((rows.responses - said) ** 2).sum() / ((rows.responses - usual) ** 2).sum())
    return of_scores(said, rows.labels, problem.shares, metric)


def of_scores(said: Doubles, labels: Ints, shares: Doubles, metric: str) -> float:
    """Return a metric of class scores (n, C).

    Args:
        said: the scores.
        labels: (n,) true classes.
        shares: (C,) of the training rows: what the Brier skills are measured against.
        metric: a name.

    Raises:
        KeyError: for another name.
    """
    if metric in ("accuracy", "macro_f1"):
        return of_classes(said.argmax(1), labels, metric)
    if metric == "neg_log_loss":
        clipped = np.clip(said, 1e-3, 1)
        clipped /= clipped.sum(1, keepdims=True)
        return float(np.log(clipped[np.arange(len(labels)), labels]).mean())
    sizes = np.bincount(labels, minlength=said.shape[1])
    weights = {"brier_skill": np.ones(len(labels)), "balanced_brier_skill": 1 / np.sqrt(sizes[labels])}[metric]
    truth = np.zeros(said.shape)
    truth[np.arange(len(labels)), labels] = 1
    return float(1 - weights @ ((truth - said) ** 2).sum(1) / (weights @ ((truth - shares) ** 2).sum(1)))


def of_classes(predicted: Array, labels: Array, metric: str) -> float:
    """Return accuracy, or the mean F1 of the classes that are there, of predicted classes."""
    if metric == "accuracy":
        return float((predicted == labels).mean())
    classes = int(max(predicted.max(), labels.max())) + 1
    right, found, true = (np.bincount(x, minlength=classes) for x in (labels[predicted == labels], predicted, labels))
    there = true > 0
    return float((2 * right[there] / (found[there] + true[there])).mean())


def subsets(clusters: int, most: int) -> list[tuple[int, ...]]:
    """Return every set of at most ``most`` clusters, small ones first: the columns of a table."""
    return [chosen for size in range(most + 1) for chosen in combinations(range(clusters), size)]


def table(problem: Problem, picks: Picks) -> Doubles:
    """Return all metrics, in the order of ``METRICS``, of every set of clusters, (5, N).

    The normal equations are summed over whole clusters; the empty set predicts the training class shares.
    """
    train, reward = problem.train, problem.reward
    truth = np.eye(problem.classes)[train.labels]
    grams = np.array([train.features[inside].T @ train.features[inside] for inside in picks.members])
    sums = np.array([train.features[inside].T @ truth[inside] for inside in picks.members])
    columns = []
    for chosen in subsets(len(picks.members), picks.picks):
        if chosen:
            places, width = list(chosen), train.features.shape[1]
            rows = sum(len(picks.members[k]) for k in chosen)
            gram = grams[places].sum(0) + problem.regularisation * rows * np.eye(width)
            said = reward.features @ np.linalg.solve(gram, sums[places].sum(0))
        else:
            said = np.tile(problem.shares, (len(reward.labels), 1))
        columns.append([of_scores(said, reward.labels, problem.shares, metric) for metric in METRICS])
    return np.array(columns).T
