"""Means, intervals and p-values of runs, written from their definitions.

Bootstraps draw with numpy's generator of seed 0 and the shapes that the pages state, so that their intervals can be compared
to the last digit; where that is not so, it is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata, t

from benchmarks.verify.models import of_classes
from benchmarks.verify.tasks import Doubles, Ints

RESAMPLES = 2000
OWN_RESAMPLES = 1000  # of a bootstrap whose draws are not those of the record
Interval = tuple[float, float, float]  # value, low, high


def quartile_weights(count: int) -> Doubles:
    """Return how much each of ``count`` ordered values is worth in the interquartile mean.

    Value i fills the part from i / n to (i + 1) / n of the line; what lies between a quarter and three quarters counts.
    """
    parts = [max(0.0, min(i + 1, 0.75 * count) - max(i, 0.25 * count)) for i in range(count)]
    return np.array(parts) / sum(parts)


def iqm(values: Sequence[float] | Doubles) -> float:
    """Return the interquartile mean."""
    return float(quartile_weights(len(values)) @ np.sort(values))


def percentiles(value: float, drawn: Doubles) -> Interval:
    """Return a value between the 2.5% and 97.5% quantiles of its resamples."""
    return value, float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def iqm_interval(strata: Sequence[Doubles]) -> Interval:
    """Return the interquartile mean of all values; every stratum is resampled in itself."""
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))] for values in strata]
    every = np.concatenate(list(strata))
    return percentiles(iqm(every), np.sort(np.concatenate(drawn, 1), 1) @ quartile_weights(len(every)))


def iqm_difference(ours: Sequence[Doubles], theirs: Sequence[Doubles]) -> Interval:
    """Return the difference of two interquartile means; pairs are resampled together."""
    rng = np.random.default_rng(0)
    places = [rng.integers(len(values), size=(RESAMPLES, len(values))) for values in ours]
    means = []
    for side in (ours, theirs):
        drawn = np.concatenate([values[chosen] for values, chosen in zip(side, places, strict=True)], 1)
        means.append(np.sort(drawn, 1) @ quartile_weights(drawn.shape[1]))
    return percentiles(iqm(np.concatenate(list(ours))) - iqm(np.concatenate(list(theirs))), means[0] - means[1])


def improvement(ours: Sequence[Doubles], theirs: Sequence[Doubles]) -> Interval:
    """Return the mean over strata of the probability that a run of ours is better, ties counted half."""
    rng = np.random.default_rng(0)
    values, drawn = [], []
    for mine, other in zip(ours, theirs, strict=True):
        gaps = np.subtract.outer(mine, other)
        better = np.where(np.abs(gaps) <= 1e-9, 0.5, (gaps > 0).astype(float))
        weights = [
            rng.multinomial(len(side), np.full(len(side), 1 / len(side)), RESAMPLES) / len(side) for side in (mine, other)
        ]
        values.append(better.mean())
        drawn.append(np.einsum("ri,ij,rj->r", weights[0], better, weights[1]))
    return percentiles(float(np.mean(values)), np.mean(drawn, 0))


def student(values: Sequence[float]) -> Interval:
    """Return the mean with Student's 95% interval."""
    n = len(values)
    mean = sum(values) / n
    spread = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    half = float(t.ppf(0.975, n - 1)) * spread / n**0.5
    return mean, mean - half, mean + half


def widened(units: int) -> float:
    """Return what a bootstrap over few units is too narrow by: Student's quantile, and the variance of k units of k - 1."""
    return 1.0 if units < 2 else float(t.ppf(0.975, units - 1) / norm.ppf(0.975)) * (units / (units - 1)) ** 0.5


def nested_draws(groups: Sequence[Sequence[float]]) -> Doubles:
    """Return resampled means of nested runs: groups are drawn, then runs inside each, both widened for there being few."""
    rng = np.random.default_rng(0)
    number, longest = len(groups), max(map(len, groups))
    centres = np.array([sum(group) / len(group) for group in groups])
    chosen = rng.integers(number, size=(RESAMPLES, number))
    lengths = np.array([len(group) for group in groups])
    places = rng.integers(lengths[chosen][:, :, None], size=(RESAMPLES, number, longest))
    inside = np.empty(chosen.shape)
    for g, group in enumerate(groups):
        n = len(group)
        off = (np.array(group) - centres[g]) * (n / max(n - 1, 1)) ** 0.5
        here = chosen == g
        inside[here] = off[places[here][:, :n]].mean(1)
    between = centres[chosen].mean(1) - centres.mean()
    return np.asarray(centres.mean() + widened(number) * between + inside.mean(1))


def p_of(drawn: Doubles) -> float:
    """Return the two-sided p-value of no difference: twice the smaller side of 0, the resamples at 0 on both."""
    below, above = int((drawn <= 1e-12).sum()), int((drawn >= -1e-12).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method."""
    found, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = largest
    return found


def paired(first: Sequence[Ints], second: Sequence[Ints], labels: Ints, metric: str) -> tuple[Interval, float]:
    """Return the mean difference of two models' metrics over training seeds, with an interval and a p-value of its own draws.

    Test rows are drawn, the same for all; then seeds, widened for there being few.
    """
    rng = np.random.default_rng(20)
    seeds = len(first)
    gaps = np.empty((OWN_RESAMPLES, seeds))
    for resample in range(OWN_RESAMPLES):
        rows = rng.integers(len(labels), size=len(labels))
        true = labels[rows]
        for s in range(seeds):
            gaps[resample, s] = of_classes(first[s][rows], true, metric) - of_classes(second[s][rows], true, metric)
    by_rows = gaps.mean(1)
    chosen = rng.integers(seeds, size=gaps.shape)
    drawn = by_rows + widened(seeds) * (np.take_along_axis(gaps, chosen, 1).mean(1) - by_rows)
    whole = [of_classes(a, labels, metric) - of_classes(b, labels, metric) for a, b in zip(first, second, strict=True)]
    return percentiles(sum(whole) / seeds, drawn), p_of(drawn)


def spearman(a: Doubles, b: Doubles) -> float:
    """Return the rank correlation, ties at their mean rank; NaN where one side is all ties."""
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (a, b)]
    size = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / size if size else float("nan")
