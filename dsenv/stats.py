"""Summaries with intervals: IQM, stratified bootstrap, normalised score, regret (Agarwal et al., arXiv 2108.13264)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError

Values = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A point estimate between the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values: Values) -> float:
    """Return the mean."""
    return float(np.mean(_finite(values)))


def iqm(values: Values) -> float:
    """Return the interquartile mean: the mean of the middle half, rows at its edges counted in part."""
    ordered = np.sort(_finite(values))
    edges = np.arange(len(ordered) + 1) / len(ordered)
    inside = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((ordered * inside).sum() / inside.sum())


def bootstrap(
    strata: Sequence[Values],
    statistic: Callable[[Values], float] = iqm,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of all values with a percentile interval that resamples inside each stratum.

    Args:
        strata: one sequence of runs for each task (one sequence in all for one task).
        statistic: of the values of all strata together.
        level: coverage of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        InputError: for an empty stratum or a value that is not finite.
    """
    groups = [_finite(values) for values in strata]
    rng = np.random.default_rng(seed)
    drawn = [statistic(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(np.concatenate(groups)), float(low), float(high))


def mean_interval(values: Values) -> Interval:
    """Return the mean with its 95% Student interval; for a handful of seeds, where a bootstrap is too narrow.

    Raises:
        InputError: for fewer than two values.
    """
    found = _finite(values)
    if len(found) < 2:
        raise InputError(f"an interval needs at least two values, not {len(found)}")
    from scipy.stats import t  # half a second to import

    half = float(t.ppf(0.975, len(found) - 1)) * float(found.std(ddof=1)) / len(found) ** 0.5
    return Interval(mean(found), mean(found) - half, mean(found) + half)


def normalised_score(score: float, zero: float, one: float) -> float:
    """Return 0 where ``score`` equals ``zero`` (proportional picks), 1 where it equals ``one`` (best known).

    Raises:
        InputError: where the two constants are equal.
    """
    if one == zero:
        raise InputError(f"a normalised score needs two different constants, not {zero} twice")
    return (score - zero) / (one - zero)


def regret(score: float, optimum: float, tolerance: float = 1e-9) -> float:
    """Return optimum - score; differences within ``tolerance`` are ties and count 0."""
    gap = optimum - score
    return 0.0 if abs(gap) <= tolerance else gap


def _finite(values: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64).ravel()
    if not len(array) or not np.isfinite(array).all():
        raise InputError(f"a summary needs finite values, at least one; got {array.tolist()[:10]}")
    return array
