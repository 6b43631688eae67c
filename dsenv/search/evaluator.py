"""The meter: Φ with a budget of evaluations, for searches, for agents trained in an environment, and for yours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from dsenv.dataset import Ints
from dsenv.errors import DsenvError, InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, Proxy, RowSample
from dsenv.task import SelectionTask

FINALISTS = 32


class BudgetSpent(DsenvError):
    """The evaluations are spent: whoever asked for one more stops here."""


class Stage:
    """What an anytime run has to show after a number of evaluations.

    Attributes:
        evaluations: that the run could spend so far.
        used: distinct selections scored.
        counts: (K,) the best complete selection.
        score: its Φ.
        finalists: up to 32 best complete selections with their Φ, best first.
        seconds: since the run began.
        history: after how many evaluations the best score rose, and to what.
    """

    def __init__(
        self,
        evaluations: int,
        used: int,
        finalists: list[tuple[float, Ints]],
        seconds: float,
        history: Sequence[tuple[int, float]] = (),
    ) -> None:
        self.evaluations, self.used, self.seconds = evaluations, used, seconds
        self.finalists = finalists
        self.history = tuple(history)
        self.score, self.counts = finalists[0]


class Evaluator:
    """Scores selections, counts the distinct ones, and keeps the best complete ones: a ``Proxy`` with a budget.

    An agent is a function (evaluator, rng) that asks for scores until it has seen enough or ``BudgetSpent`` stops it. It
    asks directly (``score``), or trains in an environment whose every score is metered (``make_env``, ``make_vec``).
    Scoring a selection again costs nothing, nor does the empty one. One evaluation is kept back for completing, with
    proportional picks, a selection that stands unfinished when the budget ends.

    Args:
        proxy: Φ.
        limit: distinct selections that may be scored.
        stages: smaller budgets at which the run's result is to be kept as if it had ended there. It is what a run with that
            limit finds, unless the agent plans by ``limit`` or ``left``.
        id: of the environment whose problem this is, for ``make_env``.
        keywords: of that environment.
        scored: called with every number of selections that were scored.

    Attributes:
        unfinished: (K,) where a search stands, set by it while its selection is not complete.
        used: distinct selections scored.
    """

    def __init__(
        self,
        proxy: Proxy,
        limit: int,
        *,
        stages: Sequence[int] = (),
        id: str | None = None,
        keywords: dict[str, Any] | None = None,
        scored: Callable[[int], object] | None = None,
    ) -> None:
        for mark in (*stages, limit):
            check_whole("evaluations", mark, 1)
        self.proxy, self.limit = proxy, int(limit)
        self.id, self.keywords = id, dict(keywords or {})
        self.unfinished: Ints | None = None
        self.used = 0
        self._scored = scored
        self._marks = sorted({int(mark) for mark in (*stages, limit) if mark <= limit})
        self._stages: list[Stage] = []
        self._best: list[tuple[float, Ints]] = []
        self._history: list[tuple[int, float]] = []
        self._seen: dict[bytes, float] = {}
        self._memory = Memory()
        self._started, self._process = time.perf_counter(), os.getpid()

    @property
    def task(self) -> SelectionTask:
        """The rows."""
        return self.proxy.task

    @property
    def plan(self) -> PickPlan:
        """What a pick adds."""
        return self.proxy.plan

    @property
    def metric(self) -> str:
        """What Φ measures."""
        return self.proxy.metric

    @property
    def recipe(self) -> dict[str, Any]:
        """Of the proxy that is metered."""
        return self.proxy.recipe

    @property
    def left(self) -> int:
        """Evaluations that may still be spent."""
        return self.limit - self.used

    @property
    def best_counts(self) -> Ints | None:
        """(K,) the best complete selection so far."""
        return self._best[0][1].copy() if self._best else None

    @property
    def best_score(self) -> float:
        """Its Φ; minus infinity before there is one."""
        return self._best[0][0] if self._best else -np.inf

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch (B, K) as the proxy does; a selection seen before costs nothing.

        Raises:
            BudgetSpent: after scoring as many as the limit allows.
            InputError: for counts that are not integers, or in another process than the meter's own.
        """
        if os.getpid() != self._process:
            raise InputError("a meter stays in its process: score there, or train in make_vec, which needs no other process")
        if not np.issubdtype(np.asarray(counts).dtype, np.integer):
            raise InputError(f"counts are of type {np.asarray(counts).dtype}: allowed are integers")
        batch = np.ascontiguousarray(counts, np.int64)
        keys = [row.tobytes() for row in batch]
        fresh = list({key: place for place, key in reversed(list(enumerate(keys))) if key not in self._seen}.values())[::-1]
        complete = self.complete(batch)
        if not batch.any(1).all():  # the empty selection needs no training
            for place in (place for place in fresh if not batch[place].any()):
                self._seen[keys[place]] = float(self.proxy.score(batch[place : place + 1])[0])
            fresh = [place for place in fresh if batch[place].any()]
        kept_back = 0 if complete.all() else 1
        while fresh:
            part, fresh = self._up_to_mark(fresh, kept_back)
            if len(part):
                for place, value in zip(part, self.proxy.score(batch[part], memory=self._memory).tolist(), strict=True):
                    self._seen[keys[place]] = value
                    self.used += 1
                    if complete[place]:
                        self._remember(value, batch[place])
                if self._scored is not None:
                    self._scored(len(part))
            if fresh and not self._marks:
                raise BudgetSpent(f"{self.limit} evaluations are spent")
            if fresh:
                self._end_stage()
        if samples is not None:
            return self.proxy.score(batch, memory=memory, samples=samples)
        return np.array([self._seen[key] for key in keys])

    def complete(self, counts: Ints) -> npt.NDArray[np.bool_]:
        """Return (B,) True where the budget is spent or every cluster is exhausted."""
        return np.asarray((counts.sum(1) == self.plan.picks) | (counts == self.plan.capacity).all(1))

    def make_env(self, **keywords: Any) -> gym.Env[Any, Any]:
        """Return the environment of this problem, with every score metered; keywords as in ``DataSelectEnv``."""
        return gym.make(self._id(), **{**self.keywords, **keywords, "proxy": self})

    def make_vec(self, num_envs: int, **keywords: Any) -> VectorEnv[Any, Any, Any]:
        """Return ``num_envs`` episodes of this problem in one vector environment, with every score metered."""
        return gym.make_vec(
            self._id(), num_envs, vectorization_mode="vector_entry_point", **{**self.keywords, **keywords, "proxy": self}
        )

    def finish(self) -> list[Stage]:
        """End the run; return its result for every stage and for the limit, small budgets first."""
        while self._marks:
            self._end_stage()
        return self._stages

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluator:
        """Return itself: Gymnasium copies an environment's keywords, and the meter must stay one."""
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse: a copy in another process would have a budget of its own.

        Raises:
            InputError: always.
        """
        raise InputError("a meter of evaluations stays in its process and cannot be pickled or copied")

    def _id(self) -> str:
        if self.id is None:
            raise InputError("this evaluator meters a proxy alone: give it id= for an environment")
        return self.id

    def _up_to_mark(self, fresh: list[int], kept_back: int) -> tuple[list[int], list[int]]:
        room = max(self._marks[0] - self.used - kept_back, 0) if self._marks else 0
        return fresh[:room], fresh[room:]

    def _remember(self, value: float, counts: Ints) -> None:
        if value > self.best_score:
            self._history.append((self.used, value))
        if len(self._best) == FINALISTS and value <= self._best[-1][0]:
            return
        place = len(self._best)
        while place and self._best[place - 1][0] < value:
            place -= 1
        self._best.insert(place, (value, counts.copy()))
        del self._best[FINALISTS:]

    def _end_stage(self) -> None:
        """Keep what a run with the next smaller budget would end with; the run goes on as if nothing had happened."""
        mark = self._marks.pop(0)
        finalists, used, history = list(self._best), self.used, list(self._history)
        if (self.unfinished is not None or not finalists) and used < mark:
            start = np.zeros(self.plan.clusters, np.int64) if self.unfinished is None else self.unfinished
            completed = self.plan.complete(start)
            value = self._seen.get(completed.tobytes())
            if value is None:
                value, used = float(self.proxy.score(completed[None])[0]), used + 1
            if not any(np.array_equal(completed, counts) for _, counts in finalists):
                finalists = sorted([*finalists, (value, completed)], key=lambda found: -found[0])[:FINALISTS]
            if finalists[0][0] > self.best_score:
                history.append((used, finalists[0][0]))
        self._stages.append(Stage(mark, used, finalists, time.perf_counter() - self._started, history))
