"""Φ minus what its spread over folds of the reward rows makes doubtful: against overfitting the reward split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, RowSample, empty_score
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.scoring import LinearScorer
from dsenv.seeding import generator
from dsenv.task import SelectionTask


class LowerConfidenceProxy:
    """The mean of Φ over folds of the reward rows minus κ standard errors.

    The ridge model of a selection is the one of ``RidgeProxy``; only what it is scored on differs.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
        folds: F, parts of the reward rows, drawn once; each keeps the classes' shares.
        kappa: κ, standard errors to subtract.

    Raises:
        InputError: for an unknown metric, fewer than two folds or more than reward rows, or a negative κ.
    """

    def __init__(self, task: SelectionTask, plan: PickPlan, metric: str, *, folds: int = 5, kappa: float = 1.0) -> None:
        check_whole("folds", folds, 2)
        if folds > len(task.reward):
            raise InputError(f"folds {folds}: allowed are 2 to {len(task.reward)}, the reward rows")
        if isinstance(kappa, bool) or not isinstance(kappa, (int, float)) or not kappa >= 0:
            raise InputError(f"kappa {kappa!r}: allowed are numbers from 0")
        self.task, self.plan, self.metric = task, plan, metric
        self.folds, self.kappa = int(folds), float(kappa)
        self._ridge = RidgeProxy(task, plan, metric, memo=0)
        self._empty = empty_score(task, metric)
        drawn = generator(0, "reward folds").permutation(len(task.reward))
        dealt = drawn[np.argsort(task.reward.labels[drawn], kind="stable")]
        self._scorers = [LinearScorer(task, metric, rows=np.sort(dealt[fold::folds])) for fold in range(folds)]

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings."""
        return {"proxy": "lower_confidence", "folds": self.folds, "kappa": self.kappa}

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return the lower confidence bounds of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``.

        Raises:
            InputError: for impossible counts, or samples: the folds are drawn already.
        """
        if samples is not None:
            raise InputError("a lower confidence bound is over folds of all reward rows: reward_rows must be None")
        counts = self.plan.check_batch(counts)
        weights = self._ridge.weights(counts, memory=memory).transpose(0, 2, 1)
        found = np.stack([scorer.score(np.ascontiguousarray(weights)) for scorer in self._scorers])
        bounds = found.mean(0) - self.kappa * found.std(0, ddof=1) / np.sqrt(self.folds)
        return np.where(counts.any(1), bounds, self._empty)
