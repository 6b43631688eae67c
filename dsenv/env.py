"""The environment: data selection as a Markov decision process (arXiv 2509.25850, sections 3 and 4)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dsenv.clustering import Clustering
from dsenv.dataset import Ints
from dsenv.errors import DsenvError, InputError, one_of
from dsenv.features import FEATURES, cluster_features
from dsenv.metrics import METRICS
from dsenv.picks import PickPlan, plan_picks
from dsenv.proxies import Proxy, empty_score, make_proxy
from dsenv.synthetic import synthetic_task
from dsenv.task import REPORTED, SelectionTask, load_bundled

LARGEST_LOG_LOSS = float(np.log(1000))

Observation = npt.NDArray[np.float32] | dict[str, npt.NDArray[Any]]


class EpisodeOver(DsenvError, RuntimeError):
    """``step`` was called without a ``reset`` before it."""


def load_task(task: SelectionTask | str | Path) -> SelectionTask:
    """Return a task: itself, a file ``*.npz``, ``synthetic``, or a bundled name such as ``googleplay:noisy``.

    Raises:
        InputError: where there is no such task.
        TaskFileError: where the file is damaged.
    """
    if isinstance(task, SelectionTask):
        return task
    if task == "synthetic":
        return synthetic_task()
    if str(task).endswith(".npz"):
        return SelectionTask.load(task)
    return load_bundled(str(task))


@lru_cache(maxsize=8)
def _shared_plan(task: SelectionTask, clustering: str, unit: str, budget: float, picks: int | None) -> PickPlan:
    """One plan, and so one proxy, for all environments of a process that solve the same problem."""
    return plan_picks(task.clustering(clustering), unit=unit, budget=budget, picks=picks)


class DataSelectEnv(gym.Env[Any, Any]):
    """Pick clusters of training rows until the row budget is spent.

    Observation:
        ``flat`` (default): float32 ``Box`` (K + 2,): share of each cluster's rows taken, share of picks left, score
        clipped to [-1, 1] (log loss: divided by ln 1000 first). ``dict``: ``clusters`` (K, F) static features that
        name no class (``dsenv.features.FEATURES``), ``taken`` (K,), ``picks_left`` (1,), ``score`` (1,),
        ``action_mask`` int8 (K,).

    Action:
        ``Discrete(K)``: one pick of cluster k adds its next r rows, r = floor(budget * n / picks); the last pick of a
        cluster adds what is left of it; a pick of an exhausted cluster adds nothing, though it is spent. With
        ``unit="cluster"`` a pick adds the whole cluster, as in the paper.

    Reward:
        ``dense`` (default): Φ(after) - Φ(before); undiscounted, the return telescopes to Φ(final) - Φ(∅). ``final``:
        Φ(final) - Φ(∅) at the last pick, 0 before, and one proxy evaluation an episode; until then every score shown
        stays at Φ(∅). Use γ = 1.

    Episode end:
        Terminated after ``picks`` picks; never truncated.

    Info:
        ``action_mask`` int8 (K,): 1 where rows are left. ``score``: Φ. ``rows``: rows taken. At the end ``counts``
        (K,): picks that added rows.

    Arguments:
        task: a ``SelectionTask``, a task file, ``synthetic`` or a bundled name.
        metric: ``accuracy``, ``macro_f1``, ``neg_log_loss``, ``brier_skill`` or ``balanced_brier_skill``; default: the
            task's own.
        reward: ``dense`` or ``final``.
        observation: ``flat`` or ``dict``.
        unit: ``rows`` or ``cluster``.
        clustering: ``stratified`` or ``kmeans``.
        budget: share of the rows (clusters with ``unit="cluster"``), above 0 up to 1.
        picks: the horizon; default 64, or as many as the budget has rows.
        proxy: ``ridge``, or ``table`` for the Small ids.
        instance: 0 as stored; others redraw the row order in clusters and the reward / selection cut.
        render_mode: ``ansi`` or ``rgb_array``.

    Raises:
        InputError: for anything else.

    Version history:
        v0: first version.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 8}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        task: SelectionTask | str | Path | None = None,
        *,
        metric: str | None = None,
        reward: str = "dense",
        observation: str = "flat",
        unit: str = "rows",
        clustering: str = "stratified",
        budget: float = 0.05,
        picks: int | None = None,
        proxy: str = "ridge",
        instance: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if task is None:
            raise InputError("task is missing: give task= a SelectionTask, a file *.npz, 'synthetic' or a bundled name")
        if render_mode is not None:
            one_of("render_mode", render_mode, cast("list[str]", self.metadata["render_modes"]))
        self._dense = one_of("reward", reward, ("dense", "final")) == "dense"
        self._flat = one_of("observation", observation, ("flat", "dict")) == "flat"
        self.task = load_task(task).at_instance(instance)
        self.metric = one_of("metric", metric or REPORTED[self.task.reported], METRICS)
        self.render_mode = render_mode
        self._clustering_name = clustering
        self._plan_arguments = (clustering, unit, budget, picks)
        self._proxy_name = proxy
        self._share()
        self._empty = empty_score(self.task, self.metric)
        clusters = self.plan.clusters
        self.action_space = spaces.Discrete(clusters)
        unit_box = spaces.Box(0, 1, (clusters,), np.float32)
        if self._flat:
            low = np.zeros(clusters + 2, np.float32)
            low[-1] = -1
            self.observation_space = spaces.Box(low, np.ones(clusters + 2, np.float32), dtype=np.float32)
        else:
            self._features = cluster_features(self.task, self.clustering)
            self.observation_space = spaces.Dict(
                {
                    "clusters": spaces.Box(0, 1, (clusters, len(FEATURES)), np.float32),
                    "taken": unit_box,
                    "picks_left": spaces.Box(0, 1, (1,), np.float32),
                    "score": spaces.Box(-1, 1, (1,), np.float32),
                    "action_mask": spaces.MultiBinary(clusters),
                }
            )
        self._counts = np.zeros(clusters, np.int64)
        self._spent = self.plan.picks
        self._score = self._empty

    @property
    def clustering(self) -> Clustering:
        """The clusters that actions name."""
        return self.task.clustering(self._clustering_name)

    @property
    def counts(self) -> Ints:
        """(K,) picks of each cluster that added rows so far."""
        return self._counts.copy()

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (K,) True where a pick would add rows: what sb3-contrib's MaskablePPO asks for."""
        return np.asarray(self._counts < self.plan.capacity)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: as in Gymnasium.
            options: ``{"counts": c}`` starts with sum(c) picks spent; ``reward="final"`` still pays against Φ(∅).

        Raises:
            InputError: for unknown options, or counts that leave no pick or are not possible.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        counts = options.pop("counts", None)
        if options:
            raise InputError(f"unknown reset options {', '.join(map(repr, options))}; allowed: 'counts'")
        start = np.zeros(self.plan.clusters, np.int64) if counts is None else self.plan.check(np.asarray(counts))
        if start.sum() >= self.plan.picks:
            raise InputError(f"counts hold {start.sum()} picks and leave none of {self.plan.picks}")
        self._counts, self._spent = start.copy(), int(start.sum())
        self._score = self._evaluate() if self._dense else self._empty
        return self._observe(), self._info()

    def step(self, action: int | np.integer[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pick a cluster.

        Raises:
            InputError: for an action outside 0..K-1.
            EpisodeOver: after the last pick, before a reset.
        """
        if self._spent >= self.plan.picks:
            raise EpisodeOver("the episode is over: call reset() before step()")
        if not isinstance(action, (int, np.integer)) or not 0 <= action < self.plan.clusters:
            raise InputError(f"action {action!r} is not a cluster: allowed are 0 to {self.plan.clusters - 1}")
        added = self._counts[action] < self.plan.capacity[action]
        self._counts[action] += added
        self._spent += 1
        over = self._spent == self.plan.picks
        before = self._score
        if (self._dense and added) or (over and not self._dense):
            self._score = self._evaluate()
        info = self._info()
        if over:
            info["counts"] = self._counts.copy()
        return self._observe(), self._score - before, over, False, info

    def render(self) -> Any:
        """Return the cluster map: a text, or an (H, W, 3) uint8 picture."""
        from dsenv.rendering import render_ansi, render_picture

        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; allowed: ansi, rgb_array")
            return None
        draw = render_ansi if self.render_mode == "ansi" else render_picture
        return draw(self.task, self.clustering, self.plan, self._counts, self._spent, self._score, self.metric)

    def _share(self) -> None:
        self.plan: PickPlan = _shared_plan(self.task, *self._plan_arguments)
        self.proxy: Proxy = make_proxy(self._proxy_name, self.task, self.plan, self.metric)

    def _evaluate(self) -> float:
        return float(self.proxy.score(self._counts[None])[0])

    def _observe(self) -> Observation:
        taken = (self.plan.taken(self._counts) / self.plan.sizes).astype(np.float32)
        left = 1 - self._spent / self.plan.picks
        shown = self._score / LARGEST_LOG_LOSS if self.metric == "neg_log_loss" else self._score
        shown = min(max(shown, -1.0), 1.0)
        if self._flat:
            return np.concatenate([taken, np.array([left, shown], np.float32)])
        return {
            "clusters": self._features.copy(),
            "taken": taken,
            "picks_left": np.array([left], np.float32),
            "score": np.array([shown], np.float32),
            "action_mask": self.action_masks().astype(np.int8),
        }

    def _info(self) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks().astype(np.int8),
            "score": self._score,
            "rows": int(self.plan.taken(self._counts).sum()),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave the proxy's sums out: they are made again from the task."""
        return {key: value for key, value in self.__dict__.items() if key not in ("proxy", "plan")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()
