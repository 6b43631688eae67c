"""Proxies: set functions from picks of each cluster to a score."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dsenv.errors import one_of
from dsenv.metrics import METRICS, Doubles, score
from dsenv.picks import PickPlan
from dsenv.task import SelectionTask

PROXIES = ("ridge", "table")


class Proxy(Protocol):
    """Φ: how many picks of each cluster -> a score on the reward rows, the same for the same counts.

    Attributes:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
    """

    task: SelectionTask
    plan: PickPlan
    metric: str

    def score(self, counts: npt.NDArray[np.integer]) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,)."""


def empty_score(task: SelectionTask, metric: str) -> float:
    """Return Φ(∅): the score of the model that predicts the training class shares."""
    rows = task.reward
    scores = np.broadcast_to(task.class_shares, (len(rows), task.classes))
    return float(score(metric, scores, rows.labels, task.class_shares))


@lru_cache(maxsize=8)
def make_proxy(name: str, task: SelectionTask, plan: PickPlan, metric: str) -> Proxy:
    """Return a proxy by name; the same object for the same arguments.

    Raises:
        InputError: for an unknown proxy or metric, or a table asked of a task that has none.
    """
    one_of("proxy", name, PROXIES)
    one_of("metric", metric, METRICS)
    if name == "table":
        from dsenv.proxies.table import TableProxy

        return TableProxy(task, plan, metric)
    from dsenv.proxies.ridge import RidgeProxy

    return RidgeProxy(task, plan, metric)
