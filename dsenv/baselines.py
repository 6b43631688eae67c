"""Rows chosen without any search: what must stand beside every claim. All take training rows, none reads test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles, score
from dsenv.proxies.outputs import Outputs
from dsenv.proxies.ridge import fit_linear, fit_ridge, score_weights
from dsenv.selectors.pool import Pool
from dsenv.selectors.simple import class_mix, random
from dsenv.task import SelectionTask


def _check(task: SelectionTask, count: int) -> None:
    if not 1 <= count <= len(task.train):
        raise InputError(f"{count} rows of {len(task.train)}: allowed are 1 to {len(task.train)}")


def random_rows(task: SelectionTask, count: int, rng: np.random.Generator) -> Ints:
    """Draw ``count`` training row numbers uniformly."""
    _check(task, count)
    return random(Pool.from_task(task), count, rng)


def class_mix_rows(task: SelectionTask, count: int, metric: str, rng: np.random.Generator) -> Ints:
    """Return the best of eleven class mixes on the reward rows: eleven proxy evaluations."""
    _check(task, count)
    return class_mix(Pool.from_task(task, metric=metric), count, rng)


def source_rows(task: SelectionTask, count: int, rng: np.random.Generator) -> Ints:
    """Draw rows of the sources that the reward rows come from (all of them, and others at random, if there are too few).

    Raises:
        InputError: where the task has no sources.
    """
    _check(task, count)
    wanted = np.unique(task.reward.sources)
    if (wanted < 0).any():
        raise InputError(f"task {task.name!r} has no sources")
    order = rng.permutation(len(task.train))
    inside = np.isin(task.train.sources[order], wanted)
    return np.concatenate([order[inside], order[~inside]])[:count]


def nearest_rows(task: SelectionTask, count: int) -> Ints:
    """Return the training rows that are nearest to any reward row."""
    _check(task, count)
    x, r = task.train.features.astype(np.float64), task.reward.features.astype(np.float64)
    nearest = np.concatenate(
        [((r**2).sum(1) - 2 * part @ r.T).min(1) + (part**2).sum(1) for part in np.array_split(x, len(x) // 4096 + 1)]
    )
    return np.argsort(nearest, kind="stable")[:count]


def clean_rows(task: SelectionTask, count: int, clean: np.ndarray, rng: np.random.Generator) -> Ints:
    """Draw rows that are known to be labelled right: an oracle, for noisy tasks whose true labels are known.

    Args:
        task: the pool.
        count: rows to draw.
        clean: (n,) True where a row's label is right.
        rng: where the draw comes from.
    """
    _check(task, count)
    order = rng.permutation(len(task.train))
    return np.concatenate([order[clean[order]], order[~clean[order]]])[:count]


def reward_of_rows(task: SelectionTask, rows: Ints, metric: str) -> float:
    """Return Φ of any training rows: ridge fitted on them, scored on the reward rows."""
    return float(score_weights(task, model_for(task, rows, metric), task.reward, metric))


def model_for(task: SelectionTask, rows: Ints, metric: str) -> Doubles:
    """Return the ridge model of training rows that a metric measures: of their classes (d, C), or responses (d, m)."""
    return fit_linear(task.train.features[rows], Outputs(task, metric).of_train(rows), task.regularisation)


def model_of_rows(task: SelectionTask, rows: Ints | None = None, weights: Doubles | None = None) -> Doubles:
    """Return the ridge model W (d, C) of training rows (all by default), with weights if given."""
    features = task.train.features if rows is None else task.train.features[rows]
    labels = task.train.labels if rows is None else task.train.labels[rows]
    return fit_ridge(features, labels, task.classes, task.regularisation, weights)


def full_weighted(task: SelectionTask) -> Doubles:
    """Return the model of all rows weighted by (rows of their class) ** -1/2, with mean weight 1."""
    weights = np.bincount(task.train.labels)[task.train.labels] ** -0.5
    return model_of_rows(task, weights=weights / weights.mean())


def full_offsets(task: SelectionTask, metric: str) -> Doubles:
    """Return the model of all rows with one offset a class, tuned on the reward rows by coordinate ascent.

    Args:
        task: the pool.
        metric: ``accuracy`` or ``macro_f1``: what the offsets are tuned for.
    """
    model = model_of_rows(task)
    features, labels, shares = task.reward.features.astype(np.float64), task.reward.labels, task.class_shares
    scores = features @ model
    offsets = np.zeros(task.classes)
    best = float(score(metric, scores, labels, shares))
    for _ in range(3):
        for c in range(task.classes):
            for step in np.linspace(-0.5, 0.5, 41):
                trial = offsets.copy()
                trial[c] = step
                value = float(score(metric, scores + trial, labels, shares))
                if value > best:
                    offsets, best = trial, value
    model[-1] += offsets
    return model


ROW_BASELINES: dict[str, Callable[[SelectionTask, int, str, np.random.Generator], Ints]] = {
    "random_rows": lambda task, count, metric, rng: random_rows(task, count, rng),
    "class_mix_rows": class_mix_rows,
}
