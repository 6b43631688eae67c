"""What a linear model predicts: a score a class, or the reduced vector of the response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import METRICS, Doubles, one_hot
from dsenv.task import RESPONSE_SKILL, SelectionTask, Split


def ridge_metrics(task: SelectionTask) -> tuple[str, ...]:
    """Return the metrics that a linear model can be measured by on a task."""
    return (*METRICS, RESPONSE_SKILL) if task.is_instructions else tuple(METRICS)


@dataclass(frozen=True, eq=False)
class Outputs:
    """The targets Y of a task's rows.

    Args:
        task: the rows.
        metric: ``response_skill`` has the reduced vectors of the responses, (n, m); every other a 1 at the class, (n, C).
    """

    task: SelectionTask
    metric: str

    @property
    def responses(self) -> bool:
        """Whether responses are predicted."""
        return self.metric == RESPONSE_SKILL

    @property
    def width(self) -> int:
        """C or m."""
        return len(self.mean)

    @cached_property
    def mean(self) -> Doubles:
        """(C,) or (m,) of the training rows: what a model without rows predicts."""
        return self.task.train_responses().mean(0, dtype=np.float64) if self.responses else self.task.class_shares

    def of_train(self, rows: Ints) -> Doubles:
        """Return Y of training rows by their numbers, (n, C) or (n, m)."""
        if self.responses:
            return self.task.train_responses(rows).astype(np.float64)
        return one_hot(self.task.train_labels[rows], self.task.classes)

    def of_split(self, split: Split) -> Doubles:
        """Return Y of a split's rows.

        Raises:
            InputError: where responses are asked of rows that have none.
        """
        if not self.responses:
            return one_hot(split.labels, self.task.classes)
        if split.responses is None:
            raise InputError(f"metric {RESPONSE_SKILL!r}: task {self.task.name!r} has no responses")
        return split.responses.astype(np.float64)


def response_skill(predicted: Doubles, truth: Doubles, mean: Doubles) -> Doubles:
    """Return 1 - SSE / SSE of the mean training response, over all coordinates: the Brier skill of vectors.

    Args:
        predicted: (..., n, m).
        truth: (n, m).
        mean: (m,) of the training rows.
    """
    return np.asarray(1 - ((predicted - truth) ** 2).sum((-2, -1)) / ((truth - mean) ** 2).sum())
