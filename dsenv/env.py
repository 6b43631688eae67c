"""The environment: data selection as a Markov decision process (arXiv 2509.25850, sections 3 and 4)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dsenv.dataset import Ints, TextDataset, load_dataset
from dsenv.episodes import Episodes
from dsenv.errors import DsenvError, InputError, check_whole, one_of
from dsenv.files import cache_folder
from dsenv.metrics import NEG_RESPONSE_LOSS
from dsenv.picks import UNITS, PickPlan, check_budget, plan_picks
from dsenv.proxies import Proxy, RowSample, make_proxy, rows_digest
from dsenv.proxies.outputs import ridge_metrics
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.synthetic import synthetic_task
from dsenv.task import SelectionTask, load_bundled

if TYPE_CHECKING:
    from dsenv.rendering import Window

Observation = npt.NDArray[np.float32] | dict[str, npt.NDArray[Any]]


class EpisodeOver(DsenvError, RuntimeError):
    """``step`` was called without a ``reset`` before it."""


def load_task(task: SelectionTask | str | Path) -> SelectionTask:
    """Return a task: itself, a file ``*.npz`` (``*.npz:variant``), ``synthetic``, or a bundled name, ``googleplay:noisy`` say.

    Raises:
        InputError: where there is no such task.
        TaskFileError: where the file is damaged.
    """
    if isinstance(task, SelectionTask):
        return task
    if task == "synthetic":
        return synthetic_task()
    if file := re.fullmatch(r"(.*\.npz)(?::(\w+))?", str(task), re.DOTALL):
        return SelectionTask.load(file[1], file[2] or "")
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
        metric: ``accuracy``, ``macro_f1``, ``neg_log_loss``, ``brier_skill`` or ``balanced_brier_skill``; of instruction
            data ``response_skill``, and of a ``FinetuneProxy`` ``neg_response_loss``; default: the task's own.
        reward: ``dense`` or ``final``.
        observation: ``flat`` or ``dict``.
        unit: ``rows`` or ``cluster``.
        clustering: ``stratified`` or ``kmeans``.
        budget: share of the rows (clusters with ``unit="cluster"``), above 0 up to 1.
        picks: the horizon; default 64, or as many as the budget has rows, or fewer (from 32) where 64 would leave more than a
            fifth of the budget.
        proxy: ``ridge``, ``table`` (the Small ids), ``probe``, ``finetune``, or a ``Proxy`` of the same task, picks and
            metric (a trained ``SurrogateProxy``, say).
        reward_rows: share of the reward rows, drawn anew for every episode, that rewards and the observed score are
            computed on; ``info["score"]`` stays Φ on all of them.
        dataset: a ``TextDataset`` or its name, for the proxy ``finetune``.
        cache_dir: folder of a store that remembers the scores of the proxies ``probe`` and ``finetune``.
        instance: 0 as stored; others redraw the row order in clusters and the reward / selection cut; None: the task's own,
            which is 0 unless ``task`` is a ``SelectionTask`` at another.
        render_mode: ``ansi``: a text; ``rgb_array``: a picture, for ``RecordVideo`` say; ``human``: a window that ``reset``
            and ``step`` draw in, which needs a display and Python's tkinter. The pictures need the extra ``render``.

    Raises:
        InputError: for anything else.

    Version history:
        v0: first version.
    """

    metadata = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 8}  # noqa: RUF012 - Gymnasium's own form

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
        proxy: str | Proxy = "ridge",
        reward_rows: float | None = None,
        dataset: TextDataset | str | Path | None = None,
        cache_dir: str | Path | None = None,
        instance: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if task is None:
            raise InputError("task is missing: give task= a SelectionTask, a file *.npz, 'synthetic' or a bundled name")
        if render_mode is not None:
            one_of("render_mode", render_mode, cast("list[str]", self.metadata["render_modes"]))
        dense = one_of("reward", reward, ("dense", "final")) == "dense"
        flat = one_of("observation", observation, ("flat", "dict")) == "flat"
        loaded = load_task(task)
        self.task = loaded if instance is None else loaded.at_instance(instance)
        metrics = (*ridge_metrics(self.task), *([NEG_RESPONSE_LOSS] if self.task.is_instructions else []))
        self.metric = one_of("metric", metric or self.task.default_metric, metrics)
        self.render_mode = render_mode
        self._window: Window | None = None
        self.clustering = self.task.clustering(clustering)
        one_of("unit", unit, UNITS)
        check_budget(budget)
        if picks is not None and not isinstance(picks, (int, np.integer)):
            raise InputError(f"picks {picks!r} do not fit the budget: allowed are whole numbers from 1")
        self.plan = _shared_plan(self.task, clustering, unit, budget, picks)
        self.proxy = self._proxy(proxy, dataset, cache_dir)
        self._share = None if reward_rows is None else RowSample(reward_rows, 0).share
        if self._share is not None:  # fails here, not at the first reset, where a proxy or the rows do not allow it
            self.proxy.score(np.zeros((1, self.plan.clusters), np.int64), samples=[RowSample(self._share, 0)])
        self.episodes = Episodes(self.proxy, self.clustering, dense=dense, flat=flat, size=1)
        self.action_space = spaces.Discrete(self.plan.clusters)
        self.observation_space = self.episodes.observation_space

    @property
    def counts(self) -> Ints:
        """(K,) picks of each cluster that added rows so far."""
        return np.array(self.episodes.counts[0])

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (K,) True where a pick would add rows: what sb3-contrib's MaskablePPO asks for."""
        return np.asarray(self.episodes.masks[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: as in Gymnasium.
            options: ``{"counts": c}`` starts with sum(c) picks spent; ``reward="final"`` still pays against Φ(∅).

        Raises:
            InputError: for unknown options, or counts that leave no pick or are not possible.
        """
        if seed is not None:
            check_whole("seed", seed, 0)
        super().reset(seed=seed)
        start = start_counts(self.plan, options)
        self.episodes.start(np.zeros(1, np.int64), start[None], [self.draw_sample(self.np_random)])
        self._show()
        return self._observe(), self._info()

    def step(self, action: int | np.integer[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pick a cluster.

        Raises:
            InputError: for an action outside 0..K-1.
            EpisodeOver: after the last pick, before a reset.
        """
        if self.episodes.over[0]:
            raise EpisodeOver("the episode is over: call reset() before step()")
        if (
            isinstance(action, (bool, np.bool_))
            or not isinstance(action, (int, np.integer))
            or not 0 <= action < self.plan.clusters
        ):
            raise InputError(f"action {action!r} is not a cluster: allowed are 0 to {self.plan.clusters - 1}")
        reward = float(self.episodes.pick(np.zeros(1, np.int64), np.array([action]))[0])
        over = bool(self.episodes.over[0])
        info = self._info()
        if over:
            info["counts"] = self.counts
        self._show()
        return self._observe(), reward, over, False, info

    def render(self) -> Any:
        """Return the cluster map: a text, or an (H, W, 3) uint8 picture; in the mode ``human`` show it and return None.

        Raises:
            MissingExtraError: without the extra ``render``, or for a window without tkinter.
            InputError: for a window without a display.
        """
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; allowed: ansi, human, rgb_array")
            return None
        if self.render_mode == "human":
            self._show()
            return None
        return self.draw(self.episodes, 0)

    def close(self) -> None:
        """Close the window of the mode ``human``."""
        if self._window is not None:
            self._window.close()

    def draw(self, episodes: Episodes, place: int) -> Any:
        """Return the cluster map of one of several episodes."""
        from dsenv.rendering import render_ansi, render_picture

        draw = render_ansi if self.render_mode == "ansi" else render_picture
        spent, score = int(episodes.spent[place]), float(episodes.score[place])
        return draw(self.task, self.clustering, self.plan, episodes.counts[place], spent, score, self.metric)

    def _show(self) -> None:
        """Draw in the window, where the mode is ``human``; the first picture opens it."""
        if self.render_mode != "human":
            return
        if self._window is None:
            from dsenv.rendering import Window

            self._window = Window(self.task.name, float(cast("float", self.metadata["render_fps"])))
        if self._window.open:
            self._window.show(self.draw(self.episodes, 0))

    def draw_sample(self, rng: np.random.Generator) -> RowSample | None:
        """Draw the reward rows of an episode; None where it is paid on all of them."""
        return None if self._share is None else RowSample(self._share, int(rng.integers(2**31)))

    def _proxy(self, given: str | Proxy, dataset: TextDataset | str | Path | None, cache_dir: str | Path | None) -> Proxy:
        texts = load_dataset(dataset) if isinstance(dataset, (str, Path)) else dataset
        if texts is not None and not isinstance(texts, TextDataset):
            raise InputError(f"dataset {dataset!r}: allowed are a TextDataset and the name of one")
        if isinstance(given, str):
            made = make_proxy(given, self.task, self.plan, self.metric, texts)
            if cache_dir is None or given not in ("probe", "finetune"):
                return made
            return StoredProxy(made, ScoreStore(cache_folder(cache_dir) / "scores.sqlite"))
        made_of = {"task": SelectionTask, "plan": PickPlan, "metric": str}
        if not all(isinstance(getattr(given, name, None), kind) for name, kind in made_of.items()):
            raise InputError(f"proxy {given!r}: allowed are names and a Proxy of this task")
        if rows_digest(self.task, self.plan) != rows_digest(given.task, given.plan):
            raise InputError(f"the proxy is of task {given.task.name!r} or of other picks, not of this environment's")
        if given.metric != self.metric:
            raise InputError(f"the proxy measures {given.metric!r}, this environment {self.metric!r}: give metric=")
        return given

    def _observe(self) -> Observation:
        batch = self.episodes.observe()
        return {key: value[0] for key, value in batch.items()} if isinstance(batch, dict) else cast(Observation, batch[0])

    def _info(self) -> dict[str, Any]:
        info = self.episodes.info()
        return {"action_mask": info["action_mask"][0], "score": float(info["score"][0]), "rows": int(info["rows"][0])}


def start_counts(plan: PickPlan, options: dict[str, Any] | None) -> Ints:
    """Return the counts (K,) that an episode starts with.

    Raises:
        InputError: for unknown reset options, or counts that leave no pick or are not possible.
    """
    options = dict(options or {})
    counts = options.pop("counts", None)
    if options:
        raise InputError(f"unknown reset options {', '.join(map(repr, options))}; allowed: 'counts'")
    start = np.zeros(plan.clusters, np.int64) if counts is None else plan.check(np.asarray(counts))
    if start.sum() >= plan.picks:
        raise InputError(f"counts hold {start.sum()} picks and leave none of {plan.picks}")
    return start
