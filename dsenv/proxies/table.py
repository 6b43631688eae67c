"""A proxy that trains nothing: every selection of a small task is tabulated, so the optimum is exact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, one_of
from dsenv.metrics import METRICS, Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, RowSample
from dsenv.proxies.ridge import RidgeProxy
from dsenv.task import SelectionTask


def all_selections(clusters: int, most: int) -> Ints:
    """Return (N, K) counts 0 / 1: every selection of at most ``most`` of K clusters, small ones first."""
    chosen = [picked for size in range(most + 1) for picked in combinations(range(clusters), size)]
    counts = np.zeros((len(chosen), clusters), np.int64)
    for row, picked in enumerate(chosen):
        counts[row, list(picked)] = 1
    return counts


def tabulate(task: SelectionTask, plan: PickPlan) -> Doubles:
    """Return (metrics, N) ridge scores of every selection, in the order of ``METRICS`` and ``all_selections``."""
    counts = all_selections(plan.clusters, plan.picks)
    return np.stack([RidgeProxy(task, plan, metric).score(counts) for metric in METRICS])


class TableProxy:
    """Looks scores up.

    Args:
        task: a tabulated task.
        plan: whole clusters, at most as many as are tabulated.
        metric: one of the five metrics.

    Raises:
        InputError: where the task is not tabulated, or not for this plan.
    """

    def __init__(self, task: SelectionTask, plan: PickPlan, metric: str) -> None:
        if task.tables is None:
            raise InputError(f"task {task.name!r} is not tabulated: proxy 'table' is for the Small ids")
        if (plan.capacity != 1).any():
            raise InputError("proxy 'table' holds whole clusters: unit must be 'cluster'")
        self.task, self.plan, self.metric = task, plan, one_of("metric", metric, METRICS)
        self._scores = task.tables[list(METRICS).index(metric)]
        self._selections = all_selections(plan.clusters, task.facts["tabulated_picks"])
        if plan.picks > task.facts["tabulated_picks"] or len(self._selections) != len(self._scores):
            raise InputError(
                f"task {task.name!r} is tabulated for {task.facts['tabulated_picks']} picks, not for {plan.picks}"
            )
        self._place = {row.tobytes(): number for number, row in enumerate(self._selections)}

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name: it looks up what the ridge scored."""
        return {"proxy": "table"}

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``.

        Raises:
            InputError: for samples of the reward rows: only scores on all of them are tabulated.
        """
        if samples is not None:
            raise InputError("proxy 'table' holds scores on all reward rows: reward_rows= needs proxy='ridge'")
        batch = self.plan.check_batch(counts)
        return np.asarray(self._scores[[self._place[row.tobytes()] for row in batch]])

    def best(self) -> tuple[Ints, float]:
        """Return the best selection that an episode can end with (K,) and its score: the exact optimum.

        An episode may end with fewer clusters than picks, because a pick of an exhausted cluster adds nothing.
        """
        reachable = self._selections.any(1) & (self._selections.sum(1) <= self.plan.picks)
        place = int(np.argmax(np.where(reachable, self._scores, -np.inf)))
        return self._selections[place], float(self._scores[place])
