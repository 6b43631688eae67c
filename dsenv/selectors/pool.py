"""What a selector may read: the rows to choose from and the reward rows, never the selection or the test rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.errors import InputError
from dsenv.task import REPORTED, RESPONSE_SKILL, SelectionTask

Vectors = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows that a selector chooses from.

    Attributes:
        vectors: (n, d) of the training rows, without a constant.
        labels: (n,) class ids of the training rows; some may be wrong.
        classes: C.
        reward_vectors: (m, d) of the reward rows, which are like the rows that the target will meet.
        reward_labels: (m,) their class ids.
        metric: what Φ measures of the classes, for selectors that ask the ridge model.
        regularisation: λ of the ridge model.
        rows: the training rows with their texts, where a dataset was given.
        reward_rows: the reward rows with their texts, where a dataset was given.
    """

    vectors: Vectors
    labels: Ints
    classes: int
    reward_vectors: Vectors
    reward_labels: Ints
    metric: str = "brier_skill"
    regularisation: float = 1e-3
    rows: Rows | None = field(default=None, repr=False)
    reward_rows: Rows | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_task(cls, task: SelectionTask, dataset: TextDataset | None = None, metric: str | None = None) -> Pool:
        """Return a task's pool: the reduced vectors that the proxy sees too.

        Args:
            task: the pool, and the reward rows.
            dataset: what the task was built from; selectors that read texts or train the target need it.
            metric: what Φ measures; default: the task's own.

        Raises:
            InputError: where the dataset is another one.
        """
        if dataset is not None:
            task.check_dataset(dataset)
        return cls(
            vectors=task.train.features[:, :-1],
            labels=task.train.labels,
            classes=task.classes,
            reward_vectors=task.reward.features[:, :-1],
            reward_labels=task.reward.labels,
            metric=REPORTED[task.reported] if metric in (None, RESPONSE_SKILL) else str(metric),
            regularisation=task.regularisation,
            rows=None if dataset is None else dataset.train.take(task.train_rows),
            reward_rows=None if dataset is None else dataset.validation.take(task.dataset_rows("reward")),
        )

    def texts(self) -> tuple[Rows, Rows]:
        """Return the training rows and the reward rows with their texts.

        Raises:
            InputError: where no dataset was given.
        """
        if self.rows is None or self.reward_rows is None:
            raise InputError("this selector reads texts: give it dataset=, the TextDataset that the task was built from")
        return self.rows, self.reward_rows


Selector = Callable[..., Ints]  # (pool, count, rng, **options) -> (count,) row numbers, none twice


def highest(scores: npt.NDArray[np.floating], count: int) -> Ints:
    """Return the ``count`` rows with the highest scores, best first; ties go to the first row.

    Raises:
        InputError: for a score that is not a number.
    """
    if np.isnan(scores).any():
        raise InputError(f"the score of row {int(np.flatnonzero(np.isnan(scores))[0])} is not a number")
    return np.argsort(-scores, kind="stable")[:count]
