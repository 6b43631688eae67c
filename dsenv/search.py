"""Search over Φ at a budget of proxy evaluations, and ``select``, which returns what it finds as rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import DsenvError, check_whole, one_of
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, Proxy
from dsenv.seeding import generator
from dsenv.selection import Selection
from dsenv.task import SelectionTask

BATCH = 64


class _Exhausted(DsenvError):
    """The evaluations are spent."""


@dataclass
class Evaluator:
    """Scores selections, counts the distinct ones, and keeps the best complete one.

    One evaluation is kept back for completing an unfinished selection at the end.

    Attributes:
        proxy: Φ.
        limit: distinct selections that may be scored.
        unfinished: where the search stands, if its selection is not complete.
        used: distinct selections scored.
        best_counts: (K,) the best complete selection so far.
        best_score: its Φ.
    """

    proxy: Proxy
    limit: int
    unfinished: Ints | None = None
    used: int = 0
    best_counts: Ints | None = None
    best_score: float = -np.inf
    _seen: dict[bytes, float] = field(default_factory=dict, repr=False)
    _memory: Memory = field(default_factory=Memory, repr=False)

    @property
    def plan(self) -> PickPlan:
        """What a pick adds."""
        return self.proxy.plan

    def score(self, counts: npt.NDArray[np.integer]) -> Doubles:
        """Return Φ of a batch (B, K); a selection seen before costs nothing.

        Raises:
            _Exhausted: after scoring as many as the limit allows.
        """
        batch = np.ascontiguousarray(counts, np.int64)
        keys = [row.tobytes() for row in batch]
        fresh = [i for i, key in enumerate(keys) if key not in self._seen]
        fresh = list({keys[i]: i for i in reversed(fresh)}.values())[::-1]
        complete = self.complete(batch)
        room = self.limit - self.used - (0 if complete.all() else 1)
        allowed = fresh[: max(room, 0)]
        if allowed:
            for i, value in zip(allowed, self.proxy.score(batch[allowed], memory=self._memory), strict=True):
                self._seen[keys[i]] = float(value)
                if complete[i] and value > self.best_score:
                    self.best_counts, self.best_score = batch[i].copy(), float(value)
            self.used += len(allowed)
        if len(allowed) < len(fresh):
            raise _Exhausted
        return np.array([self._seen[key] for key in keys])

    def complete(self, counts: Ints) -> npt.NDArray[np.bool_]:
        """Return (B,) True where the budget is spent or every cluster is exhausted."""
        return np.asarray((counts.sum(1) == self.plan.picks) | (counts == self.plan.capacity).all(1))


def random_counts(plan: PickPlan, rng: np.random.Generator) -> Ints:
    """Return (K,) counts of an episode of uniform picks among the clusters that still have rows."""
    counts = np.zeros(plan.clusters, np.int64)
    for _ in range(plan.picks):
        left = np.flatnonzero(counts < plan.capacity)
        if not len(left):
            break
        counts[rng.choice(left)] += 1
    return counts


def _uniform(evaluator: Evaluator, rng: np.random.Generator) -> None:
    evaluator.score(random_counts(evaluator.plan, rng)[None])


def _proportional(evaluator: Evaluator, rng: np.random.Generator) -> None:
    evaluator.score(evaluator.plan.complete(np.zeros(evaluator.plan.clusters, np.int64))[None])


def _best_of(evaluator: Evaluator, rng: np.random.Generator) -> None:
    repeated = 0
    while repeated < 100:  # a small task may have fewer selections than evaluations
        before = evaluator.used
        evaluator.score(np.stack([random_counts(evaluator.plan, rng) for _ in range(BATCH)]))
        repeated = repeated + 1 if evaluator.used == before else 0


def _greedy(evaluator: Evaluator, rng: np.random.Generator) -> None:
    counts = np.zeros(evaluator.plan.clusters, np.int64)
    evaluator.unfinished = counts
    while not evaluator.complete(counts[None])[0]:
        left = np.flatnonzero(counts < evaluator.plan.capacity)
        candidates = counts + np.eye(len(counts), dtype=np.int64)[left]
        counts = candidates[int(np.argmax(evaluator.score(candidates)))]
        evaluator.unfinished = counts
    evaluator.unfinished = None


def _swap(evaluator: Evaluator, rng: np.random.Generator) -> None:
    counts = evaluator.plan.complete(np.zeros(evaluator.plan.clusters, np.int64))
    best = float(evaluator.score(counts[None])[0])
    improved = True
    while improved:
        improved = False
        pairs = [(i, j) for i in range(len(counts)) for j in range(len(counts)) if i != j]
        for i, j in rng.permutation(np.array(pairs, np.int64).reshape(-1, 2)):
            if counts[i] == 0 or counts[j] == evaluator.plan.capacity[j]:
                continue
            neighbour = counts.copy()
            neighbour[i] -= 1
            neighbour[j] += 1
            value = float(evaluator.score(neighbour[None])[0])
            if value > best:
                counts, best, improved = neighbour, value, True


SEARCHES: dict[str, Callable[[Evaluator, np.random.Generator], None]] = {
    "uniform": _uniform,
    "proportional": _proportional,
    "best_of": _best_of,
    "greedy": _greedy,
    "swap": _swap,
}


def search(proxy: Proxy, method: str, *, evaluations: int = 4096, seed: int = 0) -> Evaluator:
    """Search for the best complete selection.

    Args:
        proxy: Φ.
        method: ``uniform`` (one random episode), ``proportional`` (picks by cluster size), ``best_of`` (of as many
            random episodes as there are evaluations), ``greedy`` (the best next pick, from nothing), ``swap`` (local
            search that moves one pick at a time, from proportional).
        evaluations: distinct selections that may be scored; a search that ends unfinished is completed by
            proportional picks.
        seed: of numpy's default generator.

    Returns:
        An ``Evaluator`` with ``best_counts``, ``best_score`` and ``used``.

    Raises:
        InputError: for an unknown method, or fewer than one evaluation.
    """
    one_of("method", method, SEARCHES)
    for what, value, least in (("evaluations", evaluations, 1), ("seed", seed, 0)):
        check_whole(what, value, least)
    evaluator = Evaluator(proxy, evaluations)
    try:
        SEARCHES[method](evaluator, generator(seed, "search"))
    except _Exhausted:
        # Where the last round was cut short, complete selections were scored already and none was kept back.
        if evaluator.unfinished is not None and evaluator.used < evaluations:
            evaluator.score(evaluator.plan.complete(evaluator.unfinished)[None])
    return evaluator


def select(
    task: SelectionTask | str | Path,
    *,
    method: str = "swap",
    budget: float = 0.05,
    evaluations: int = 4096,
    seed: int = 0,
    metric: str | None = None,
    instance: int = 0,
    **plan: object,
) -> Selection:
    """Choose rows of a task with a search.

    Args:
        task: a ``SelectionTask``, a task file, ``synthetic`` or a bundled name.
        method: as in ``search``.
        budget: share of the training rows.
        evaluations: proxy evaluations that may be spent.
        seed: of the search.
        metric: what Φ measures; default: the task's own.
        instance: of the task.
        plan: ``unit=``, ``clustering=``, ``picks=``, ``proxy=`` as in ``DataSelectEnv``.

    Raises:
        InputError: for values outside what is allowed.
    """
    allowed = ("unit", "clustering", "picks", "proxy")
    for name in plan:
        one_of("argument", name, allowed)
    env = DataSelectEnv(task, metric=metric, budget=budget, instance=instance, **plan)  # type: ignore[arg-type]
    started = time.perf_counter()
    found = search(env.proxy, method, evaluations=evaluations, seed=seed)
    assert found.best_counts is not None
    return Selection.from_counts(
        env.task,
        env.plan,
        found.best_counts,
        method,
        seed=seed,
        score=found.best_score,
        evaluations=found.used,
        seconds=time.perf_counter() - started,
    )
