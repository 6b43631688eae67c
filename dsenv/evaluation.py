"""Policies and selections to results: one replayable row each. The only module that scores on test rows with a proxy."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from dsenv.baselines import ROW_BASELINES, full_offsets, full_weighted, model_of_rows
from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import DsenvError, InputError
from dsenv.files import atomic_write
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies.ridge import score_weights
from dsenv.proxies.table import TableProxy
from dsenv.seeding import generator
from dsenv.stats import regret
from dsenv.task import SelectionTask

REPORTED_METRICS = ("accuracy", "macro_f1", "brier_skill")
TOLERANCE = 1e-6

Scores = dict[str, dict[str, float]]


class PredictingPolicy(Protocol):
    """Anything with Stable-Baselines3's ``predict``."""

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return an action and a recurrent state."""


Policy = PredictingPolicy | Callable[[Any, dict[str, Any]], int]


class ReplayError(DsenvError):
    """A result's actions do not lead to what the result says."""


@dataclass(frozen=True)
class Result:
    """One episode, replayable.

    Attributes:
        id: of the environment.
        keywords: given to ``gym.make`` beside the id.
        task_digest: of the task file.
        agent: who chose the actions.
        seed: of the agent and of the episode.
        actions: of the episode.
        counts: picks of each cluster that added rows.
        rows: rows selected.
        score: Φ at the end.
        scores: accuracy, macro-F1 and Brier skill of the ridge model on reward, selection and test rows.
        class_shares: of the selected rows.
        evaluations: proxy evaluations the agent spent before.
        seconds: the agent spent before, and in the episode.
        regret: optimum - Φ, where the task is tabulated.
        versions: of what computed it.
        command: the command line.
    """

    id: str
    keywords: dict[str, Any]
    task_digest: str
    agent: str
    seed: int
    actions: tuple[int, ...]
    counts: tuple[int, ...]
    rows: int
    score: float
    scores: Scores
    class_shares: tuple[float, ...]
    evaluations: int = 0
    seconds: float = 0.0
    regret: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Result:
        """Read a result.

        Raises:
            InputError: where the line is no result.
        """
        try:
            found = json.loads(line)
            tuples = {name: tuple(found[name]) for name in ("actions", "counts", "class_shares")}
            return cls(**{**found, **tuples})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"not a result: {error}") from error


def rollout(policy: Policy, env: gym.Env[Any, Any], *, seed: int | None = None, deterministic: bool = True) -> list[int]:
    """Play one episode and return its actions; the action mask is passed to a ``predict`` that takes it."""
    observation, info = env.reset(seed=seed)
    state: Any = None
    actions: list[int] = []
    predict = getattr(policy, "predict", None)
    masked = predict is not None and "action_masks" in inspect.signature(predict).parameters
    over = False
    while not over:
        if predict is None:
            action = int(policy(observation, info))  # type: ignore[operator]
        else:
            extra = {"action_masks": info["action_mask"].astype(bool)} if masked else {}
            start = np.array([not actions])
            chosen, state = predict(observation, state=state, episode_start=start, deterministic=deterministic, **extra)
            action = int(chosen)
        observation, _, terminated, truncated, info = env.step(action)
        actions.append(action)
        over = terminated or truncated
    return actions


def evaluate(
    policy: Policy,
    id: str,
    *,
    agent: str = "policy",
    seeds: Iterable[int] = (0,),
    evaluations: int = 0,
    seconds: float = 0.0,
    deterministic: bool = True,
    **keywords: Any,
) -> list[Result]:
    """Play one episode a seed and score what was selected.

    Args:
        policy: Stable-Baselines3's ``predict``, or a function (observation, info) -> action.
        id: of the environment.
        agent: the policy's name in the results.
        seeds: of the episodes.
        evaluations: proxy evaluations spent on training the policy.
        seconds: spent on training the policy.
        deterministic: passed to ``predict``.
        keywords: for ``gym.make``; JSON-able.
    """
    results = []
    env = gym.make(id, **keywords)
    for seed in seeds:
        started = time.perf_counter()
        actions = rollout(policy, env, seed=seed, deterministic=deterministic)
        spent = seconds + time.perf_counter() - started
        results.append(_result(env, id, keywords, agent, seed, actions, evaluations, spent))
    env.close()
    return results


def evaluate_counts(id: str, counts: Sequence[int] | Ints, *, agent: str, seed: int = 0, evaluations: int = 0,
                    seconds: float = 0.0, **keywords: Any) -> Result:  # fmt: skip
    """Score a finished selection (what a search found) by picking its counts in the environment."""
    env = gym.make(id, **keywords)
    unwrapped = _unwrap(env)
    actions = np.repeat(np.arange(unwrapped.plan.clusters), unwrapped.plan.check(np.asarray(counts))).tolist()
    if len(actions) < unwrapped.plan.picks:
        full = np.flatnonzero(np.asarray(counts) == unwrapped.plan.capacity)
        if not len(full):
            raise InputError(f"counts hold {len(actions)} picks of {unwrapped.plan.picks}: the selection is not complete")
        actions += [int(full[0])] * (unwrapped.plan.picks - len(actions))
    result = _result(env, id, keywords, agent, seed, actions, evaluations, seconds)
    env.close()
    return result


def replay(result: Result) -> Result:
    """Play a result's actions again.

    Returns:
        The result as it comes out now.

    Raises:
        ReplayError: where the task's digest or the counts are not exactly, or a score is not within 1e-6 what it says.
    """
    try:
        env = gym.make(result.id, **result.keywords)
    except gym.error.Error as error:
        raise ReplayError(f"{result.id!r} cannot be made: {error}") from error
    fresh = _result(env, result.id, result.keywords, result.agent, result.seed, result.actions, result.evaluations,
                    result.seconds)  # fmt: skip
    env.close()
    for name in ("task_digest", "counts", "rows"):
        if getattr(fresh, name) != getattr(result, name):
            raise ReplayError(f"{name} is {getattr(fresh, name)} on replay; the result says {getattr(result, name)}")
    said, found = (
        {"score": r.score, "regret": r.regret or 0.0, **_flat(r.scores), **_numbered("class share", r.class_shares)}
        for r in (result, fresh)
    )
    for name, value in found.items():
        if name not in said or not abs(said[name] - value) <= TOLERANCE:
            raise ReplayError(f"{name} is {value} on replay; the result says {said.get(name)}")
    return fresh


def score_model(task: SelectionTask, weights: Doubles, splits: Sequence[str] = ("reward", "selection", "test")) -> Scores:
    """Return accuracy, macro-F1 and Brier skill of a linear model W (d, C) on splits of a task."""
    return {
        split: {metric: float(score_weights(task, weights, getattr(task, split), metric)) for metric in REPORTED_METRICS}
        for split in splits
    }


def baseline_scores(task: SelectionTask, count: int, metric: str, seeds: Sequence[int]) -> dict[str, list[Scores]]:
    """Score the baselines that choose rows without search: one entry a seed (one in all where nothing is drawn).

    Args:
        task: the pool.
        count: rows that each may choose.
        metric: what class-mix rows are chosen by.
        seeds: of the draws.
    """
    found: dict[str, list[Scores]] = {}
    for name, choose in ROW_BASELINES.items():
        drawn = [choose(task, count, metric, generator(seed, "baseline rows")) for seed in seeds]
        found[name] = [score_model(task, model_of_rows(task, rows)) for rows in drawn]
    found["full"] = [score_model(task, model_of_rows(task))]
    found["full_class_weights"] = [score_model(task, full_weighted(task))]
    found["full_offsets"] = [score_model(task, full_offsets(task, task.reported))]
    return found


def reference_scores(task: SelectionTask, plan: PickPlan, metric: str, seeds: int = 20) -> dict[str, Any]:
    """Return frozen reference scores: mean and standard deviation on test and reward rows over seeds.

    Random rows, class-mix rows, proportional picks, full data and its variants.
    """
    count = plan.budget_rows
    scores = baseline_scores(task, count, metric, range(seeds))
    proportional = plan.rows(plan.complete(np.zeros(plan.clusters, np.int64)))
    scores["proportional"] = [score_model(task, model_of_rows(task, proportional))]
    summary: dict[str, Any] = {"rows": count, "seeds": seeds, "metric": metric}
    for name, runs in scores.items():
        summary[name] = {
            split: {
                m: {"mean": round(float(np.mean(values)), 6), "std": round(float(np.std(values)), 6)}
                for m in REPORTED_METRICS
                for values in [[run[split][m] for run in runs]]
            }
            for split in ("reward", "test")
        }
    return summary


def save_results(results: Iterable[Result], path: str | Path) -> None:
    """Write results as JSON lines, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(result.to_json() + "\n" for result in results), encoding="utf-8")


def load_results(path: str | Path) -> list[Result]:
    """Read results from JSON lines.

    Raises:
        InputError: where the file cannot be read or a line is no result.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    return [Result.from_json(line) for line in lines if line.strip()]


def versions() -> dict[str, str]:
    """Return the versions of Python, dsenv, numpy and gymnasium."""
    packages = ("dsenv-gym", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def command() -> str:
    """Return the command line of this process, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _result(env: gym.Env[Any, Any], id: str, keywords: dict[str, Any], agent: str, seed: int, actions: Sequence[int],
            evaluations: int, seconds: float) -> Result:  # fmt: skip
    unwrapped = _unwrap(env)
    task, plan = unwrapped.task, unwrapped.plan
    counts = np.zeros(plan.clusters, np.int64)
    if len(actions) != plan.picks:
        raise ReplayError(f"an episode of {id} has {plan.picks} actions; the result has {len(actions)}")
    for action in actions:
        if not 0 <= action < plan.clusters:
            raise ReplayError(f"action {action} is not a cluster of {id}: allowed are 0 to {plan.clusters - 1}")
        counts[action] += counts[action] < plan.capacity[action]
    rows = plan.rows(counts)
    score = float(unwrapped.proxy.score(counts[None])[0])
    proxy = unwrapped.proxy
    best = proxy.best()[1] if isinstance(proxy, TableProxy) else None
    return Result(
        id=id,
        keywords=dict(keywords),
        task_digest=task.digest,
        agent=agent,
        seed=seed,
        actions=tuple(int(action) for action in actions),
        counts=tuple(counts.tolist()),
        rows=len(rows),
        score=score,
        scores=score_model(task, model_of_rows(task, rows)),
        class_shares=tuple((np.bincount(task.train.labels[rows], minlength=task.classes) / len(rows)).tolist()),
        evaluations=evaluations,
        seconds=seconds,
        regret=None if best is None else regret(score, best),
        versions=versions(),
        command=command(),
    )


def _unwrap(env: gym.Env[Any, Any]) -> DataSelectEnv:
    if not isinstance(env.unwrapped, DataSelectEnv):
        raise InputError(f"{env.unwrapped!r} is not a data selection environment")
    return env.unwrapped


def _numbered(what: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{what} {number}": value for number, value in enumerate(values)}


def _flat(scores: Scores) -> dict[str, float]:
    return {f"{split} {metric}": value for split, values in scores.items() for metric, value in values.items()}
