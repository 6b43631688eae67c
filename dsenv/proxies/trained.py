"""What the proxies that train a model for every selection share: ``probe`` and ``finetune``."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import check_whole, one_of
from dsenv.metrics import METRICS, Doubles, score
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, RowSample, check_samples, in_order, sampled_rows
from dsenv.task import SelectionTask

VERSION = 2  # in every recipe: raised when a change of the code changes scores


class TrainedProxy(ABC):
    """Φ(S) = metric of a model trained on the rows of S: seconds a score, so that they come one by one.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
        seed: of training; a selection's own seed comes from it and from the counts, so that the same counts always have
            the same score. Score finalists again with other seeds.
    """

    def __init__(self, task: SelectionTask, plan: PickPlan, metric: str, seed: int = 0) -> None:
        check_whole("seed", seed, 0)
        self.task, self.plan, self.metric, self.seed = task, plan, one_of("metric", metric, self.metrics(task)), int(seed)
        self._last: tuple[bytes, Any] | None = None

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings, JSON-able."""

    @classmethod
    def metrics(cls, task: SelectionTask) -> tuple[str, ...]:
        """Return the metrics that the proxy has on a task."""
        return tuple(METRICS)

    @abstractmethod
    def train(self, counts: Ints) -> Any:
        """Return a model trained on a selection that is not empty; counts (K,)."""

    @abstractmethod
    def class_scores(self, model: Any, rows: Ints) -> Doubles:
        """Return a model's class scores (n, C) of reward rows, numbered inside the reward split (n,)."""

    def scored_rows(self, sample: RowSample | None = None) -> Ints:
        """Return the reward rows that a score is made of: the sample's, or all."""
        return np.arange(len(self.task.reward)) if sample is None else sampled_rows(self.task, sample)

    def empty_scores(self, rows: Ints) -> Doubles:
        """Return the class scores (n, C) of the empty selection: the training class shares."""
        return np.broadcast_to(self.task.class_shares, (len(rows), self.task.classes))

    def value(self, model: Any, rows: Ints) -> float:
        """Return what a model is worth on reward rows, numbered inside the reward split (n,)."""
        return self._measured(self.class_scores(model, rows), rows)

    def empty_value(self, rows: Ints) -> float:
        """Return what the empty selection is worth on reward rows."""
        return self._measured(self.empty_scores(rows), rows)

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``."""
        return in_order(self.score_each(counts, samples), len(counts))

    def score_each(
        self, counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (number, Φ) of every selection of a batch (B, K) as soon as it is known."""
        samples = check_samples(counts, samples)
        for number, row in enumerate(self.plan.check_batch(counts)):
            yield number, self._score(row, samples[number] if samples else None)

    def selection_seed(self, counts: Ints) -> int:
        """Return the training seed of a selection."""
        return zlib.crc32(np.ascontiguousarray(counts, "<i8").tobytes(), self.seed)

    def _score(self, counts: Ints, sample: RowSample | None) -> float:
        rows = self.scored_rows(sample)
        if counts.any():
            key = counts.tobytes()
            if self._last is None or self._last[0] != key:
                self._last = key, self.train(counts)
            return self.value(self._last[1], rows)
        return self.empty_value(rows)

    def _measured(self, scores: Doubles, rows: Ints) -> float:
        return float(score(self.metric, scores, self.task.reward.labels[rows], self.task.class_shares))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last model out: it is trained again where it is asked for."""
        return {**self.__dict__, "_last": None}
