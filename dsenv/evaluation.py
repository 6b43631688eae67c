"""Policies, agents and selections to results: one replayable row each. The only module whose scores read test rows."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np

from dsenv.baselines import ROW_BASELINES, full_offsets, full_weighted, model_for, model_of_rows
from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import DsenvError, InputError, one_of
from dsenv.files import atomic_write
from dsenv.labels import SURROGATE
from dsenv.metrics import METRICS, Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Proxy
from dsenv.proxies.ridge import score_weights
from dsenv.proxies.table import TableProxy
from dsenv.reading import Whole, convert, parse_json, read_bytes
from dsenv.registration import ENTRY_POINT
from dsenv.search import SEARCHES, Agent, Evaluator, run
from dsenv.seeding import generator
from dsenv.stats import regret
from dsenv.task import REPORTED, RESPONSE_SKILL, SelectionTask

SPLITS = ("reward", "selection", "test")
REPORTED_METRICS = ("accuracy", "macro_f1", "brier_skill")
TOLERANCE = 1e-6
WITHOUT_EFFECT = ("cache_dir", "render_mode")  # keywords that change no score; a replay writes and shows nothing
VARIANTS = ("selection", "lower_confidence", "reward_rows")
REWARD_ROWS = 0.5

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
        scores: accuracy, macro-F1, Brier skill and ``metric`` of the ridge model on reward, selection and test rows.
        class_shares: of the selected rows.
        evaluations: proxy evaluations the agent spent before.
        budget: evaluations it was allowed; 0 where nobody counted.
        metric: what Φ measures.
        reported: what the task reports, ``accuracy`` or ``macro_f1``.
        seconds: the agent spent before, and in the episode.
        regret: optimum - Φ, where the task is tabulated.
        versions: of what computed it.
        command: the command line.
    """

    id: str
    keywords: dict[str, Any]
    task_digest: str
    agent: str
    seed: Whole
    actions: tuple[Whole, ...]
    counts: tuple[Whole, ...]
    rows: Whole
    score: float
    scores: Scores
    class_shares: tuple[float, ...]
    evaluations: Whole = 0
    budget: Whole = 0
    metric: str = ""
    reported: str = ""
    seconds: float = 0.0
    regret: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Result:
        """Read a result.

        Raises:
            InputError: where the line is no result.
        """
        found = parse_json(line, cls, "not a result")
        scored = [found.metric] if found.metric in (*METRICS, RESPONSE_SKILL) else []  # as ``score_rows`` has them
        needed = {"accuracy", "macro_f1", *scored}
        if found.reported not in ("", *REPORTED):
            raise InputError(f"not a result: reported is {found.reported!r}; allowed are {', '.join(REPORTED)}")
        for split in SPLITS:
            if missing := needed - set(found.scores.get(split, {})):
                raise InputError(f"not a result: scores has no {min(missing)} of the {split} rows")
        return found


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error, at one of its budgets.

    Attributes:
        id: of the environment.
        keywords: given to ``gym.make`` beside the id.
        agent: that failed.
        seed: of the run.
        budget: evaluations it was allowed.
        failed: the error.
    """

    id: str
    keywords: dict[str, Any]
    agent: str
    seed: Whole
    budget: Whole
    failed: str

    def to_json(self) -> str:
        """Return the failure as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


Row = Result | Failure


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
    _check_written(agent, keywords)
    env = gym.make(id, **keywords)
    for seed in seeds:
        started = time.perf_counter()
        actions = rollout(policy, env, seed=seed, deterministic=deterministic)
        spent = seconds + time.perf_counter() - started
        results.append(_result(env, id, keywords, agent, seed, actions, evaluations, evaluations, spent))
    env.close()
    return results


def evaluate_counts(id: str, counts: Sequence[int] | Ints, *, agent: str, seed: int = 0, evaluations: int = 0,
                    allowed: int = 0, seconds: float = 0.0, **keywords: Any) -> Result:  # fmt: skip
    """Score a finished selection (what a search found) by picking its counts in the environment.

    Args:
        id: of the environment.
        counts: (K,) picks of each cluster.
        agent: the search's name in the results.
        seed: of the search.
        evaluations: proxy evaluations that it spent.
        allowed: evaluations that it was allowed; default: those it spent.
        seconds: that it spent.
        keywords: for ``gym.make``; JSON-able.

    Raises:
        InputError: for counts that are not possible or not complete.
    """
    _check_written(agent, keywords)
    env = gym.make(id, **keywords)
    plan = _unwrap(env).plan
    actions = np.repeat(np.arange(plan.clusters), plan.check(np.asarray(counts))).tolist()
    if len(actions) < plan.picks:
        full = np.flatnonzero(np.asarray(counts) == plan.capacity)
        if not len(full):
            raise InputError(f"counts hold {len(actions)} picks of {plan.picks}: the selection is not complete")
        actions += [int(full[0])] * (plan.picks - len(actions))
    result = _result(env, id, keywords, agent, seed, actions, evaluations, allowed or evaluations, seconds)
    env.close()
    return result


def find_agent(name: str, known: Mapping[str, Callable[[], Agent]] | None = None) -> tuple[Agent, str | None]:
    """Find an agent by name.

    Args:
        name: of a search, of a known agent, or ``module:function``; behind an @ a variant of the run (``run_agent``).
        known: loaders of other agents.

    Returns:
        The agent and the variant.

    Raises:
        InputError: for an unknown name or variant, or a module that cannot be imported.
    """
    base, at, variant = name.partition("@")
    if at:
        one_of("variant", variant, VARIANTS)
    if variant == "reward_rows" and base in SEARCHES:
        raise InputError(f"{name!r}: reward_rows draws the rows of an environment's episodes; a search plays none")
    found: Any
    if ":" in base:
        found = import_function(base)
    else:
        loaders = dict(known or {})
        one_of("agent", base, {*SEARCHES, *loaders})
        found = SEARCHES[base] if base in SEARCHES else loaders[base]()
    return found, variant or None


def import_function(name: str) -> Callable[..., Any]:
    """Import ``module:function``, an agent (evaluator, rng) or a policy (observation, info), from the current folder too.

    Raises:
        InputError: where there is no such module or function, or the function does not take two arguments.
    """
    module, _, function = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        imported = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise InputError(f"{module!r} of {name!r} cannot be imported: {error}") from error
    callables = [key for key, value in vars(imported).items() if callable(value)]
    found = cast("Callable[..., Any]", getattr(imported, one_of(f"function of {module}", function, callables)))
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise InputError(f"{name!r}: {error}; an agent takes (evaluator, rng), a policy (observation, info)") from error
    except ValueError:  # one in C says nothing of its arguments
        pass
    return found


def run_agent(
    agent: Agent,
    id: str,
    *,
    name: str,
    evaluations: Sequence[int],
    seed: int = 0,
    variant: str | None = None,
    scored: Callable[[int], object] | None = None,
    **keywords: Any,
) -> list[Result]:
    """Let an agent spend a budget of evaluations on a problem.

    Args:
        agent: a function (evaluator, rng).
        id: of the environment.
        name: of the agent in the results.
        evaluations: budgets; one run to the largest gives the results of all.
        seed: of the agent.
        variant: ``selection``: of the run's finalists, the one that is best on the selection rows is its result;
            ``lower_confidence``: the agent is shown a lower confidence bound of Φ; ``reward_rows``: environments of the
            evaluator draw half of the reward rows anew for every episode.
        scored: called with every number of selections that were scored.
        keywords: for ``gym.make``; JSON-able.

    Returns:
        One result a budget, small budgets first; their score is the environment's own Φ.

    Raises:
        InputError: for no or wrong budgets, an unknown id or variant.
    """
    if variant is not None:
        one_of("variant", variant, VARIANTS)
    if not evaluations:
        raise InputError("no budget of evaluations: give at least one")
    _check_written(name, keywords)
    try:
        env = _unwrap(gym.make(id, **keywords))
    except gym.error.Error as error:
        raise InputError(str(error)) from error
    trained = {**keywords, "reward_rows": REWARD_ROWS} if variant == "reward_rows" else keywords
    shown = _lower_confidence(env) if variant == "lower_confidence" else env.proxy
    evaluator = Evaluator(shown, max(evaluations), stages=evaluations, id=id, keywords=trained, scored=scored)
    results = []
    for stage in run(agent, evaluator, seed):
        counts = stage.counts
        if variant == "selection":
            counts = choose_on_selection(env.task, env.plan, env.metric, [found for _, found in stage.finalists])
        results.append(
            evaluate_counts(id, counts, agent=name, seed=seed, evaluations=stage.used, allowed=stage.evaluations,
                            seconds=stage.seconds, **keywords)
        )  # fmt: skip
    return results


def choose_on_selection(task: SelectionTask, plan: PickPlan, metric: str, finalists: Sequence[Ints]) -> Ints:
    """Return the finalist (K,) whose ridge model is best on the selection rows; the first of equals."""
    scores = [
        float(score_weights(task, model_for(task, plan.rows(counts), metric), task.selection, metric)) for counts in finalists
    ]
    return finalists[int(np.argmax(scores))]


def replay(result: Result) -> Result:
    """Play a result's actions again.

    Returns:
        The result as it comes out now.

    Raises:
        ReplayError: where the task's digest or the counts are not exactly, or a score is not within 1e-6 what it says.
    """
    spec = gym.registry.get(result.id)  # gym.make would import a module that the id names
    if spec is None or spec.entry_point not in (ENTRY_POINT, DataSelectEnv):
        raise ReplayError(f"{result.id!r} cannot be made: it is no registered data selection environment")
    known = inspect.signature(DataSelectEnv).parameters
    if unknown := set(result.keywords) - set(known):
        raise ReplayError(f"{result.id!r} has no keyword {min(unknown)!r}; allowed: {', '.join(known)}")
    try:
        env = gym.make(result.id, **{name: value for name, value in result.keywords.items() if name not in WITHOUT_EFFECT})
    except (gym.error.Error, InputError) as error:
        raise ReplayError(f"{result.id!r} cannot be made: {error}") from error
    fresh = _result(env, result.id, result.keywords, result.agent, result.seed, result.actions, result.evaluations,
                    result.budget, result.seconds)  # fmt: skip
    env.close()
    told = [name for name in ("metric", "reported") if getattr(result, name)]  # older rows do not say them
    for name in ("task_digest", "counts", "rows", *told):
        if getattr(fresh, name) != getattr(result, name):
            raise ReplayError(f"{name} is {getattr(fresh, name)} on replay; the result says {getattr(result, name)}")
    said, found = (
        {"score": r.score, "regret": r.regret or 0.0, **_flat(r.scores), **_numbered("class share", r.class_shares)}
        for r in (result, fresh)
    )
    older = set() if result.metric else {f"{split} {fresh.metric}" for split in fresh.scores} - set(said)
    for name, value in found.items():
        if name in older:
            continue
        if name not in said or not abs(said[name] - value) <= TOLERANCE:
            raise ReplayError(f"{name} is {value} on replay; the result says {said.get(name)}")
    return fresh


def score_model(
    task: SelectionTask,
    weights: Doubles,
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] = REPORTED_METRICS,
) -> Scores:
    """Return metrics (accuracy, macro-F1 and Brier skill) of a linear model W (d, C) on splits of a task."""
    return {
        split: {metric: float(score_weights(task, weights, getattr(task, split), metric)) for metric in metrics}
        for split in splits
    }


def score_rows(task: SelectionTask, rows: Ints, metric: str, splits: Sequence[str] = SPLITS) -> Scores:
    """Return accuracy, macro-F1, Brier skill and ``metric`` of the ridge model of training rows on splits of a task.

    Args:
        task: the pool.
        rows: (n,) numbers of training rows.
        metric: what Φ measures; left out where no ridge model has it.
        splits: names of splits.
    """
    plain = [*REPORTED_METRICS, *([metric] if metric in METRICS else [])]
    found = score_model(task, model_of_rows(task, rows), splits, list(dict.fromkeys(plain)))
    if task.is_instructions:
        model = model_for(task, rows, RESPONSE_SKILL)
        for split, values in score_model(task, model, splits, [RESPONSE_SKILL]).items():
            found[split] |= values
    return found


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


def save_results(results: Iterable[Row], path: str | Path) -> None:
    """Write results and failures as JSON lines, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(result.to_json() + "\n" for result in results), encoding="utf-8")


def load_rows(path: str | Path) -> list[Row]:
    """Read results and failures from JSON lines.

    Raises:
        InputError: where the file cannot be read or a line is neither.
    """
    try:
        lines = read_bytes(path, "file of results").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not a readable file of results: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_row(line))
            except InputError as error:
                raise InputError(f"line {number} of {str(path)!r}: {error}") from error
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python, dsenv, numpy and gymnasium."""
    packages = ("dsenv-gym", "numpy", "gymnasium")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def command() -> str:
    """Return the command line of this process, without the folders of the program and of files."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join([Path(sys.argv[0]).name, *words]).encode("utf-8", "backslashreplace").decode()


def _result(env: gym.Env[Any, Any], id: str, keywords: dict[str, Any], agent: str, seed: int, actions: Sequence[int],
            evaluations: int, budget: int, seconds: float) -> Result:  # fmt: skip
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
    scores = score_rows(task, rows, proxy.metric)
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
        scores={split: {name: round(value, 9) for name, value in found.items()} for split, found in scores.items()},
        class_shares=tuple((np.bincount(task.train.labels[rows], minlength=task.classes) / len(rows)).round(6).tolist()),
        evaluations=evaluations,
        budget=budget,
        metric=proxy.metric,
        reported=task.reported,
        seconds=round(seconds, 3),
        regret=None if best is None else regret(score, best),
        versions=versions(),
        command=command(),
    )


def _check_written(agent: str, keywords: Mapping[str, Any]) -> None:
    """Refuse before the work what a result could not be written with.

    Raises:
        InputError: for a name or a path that is not UTF-8.
    """
    for what, value in {"agent": agent, **keywords}.items():
        if isinstance(value, (str, Path)) and SURROGATE.search(str(value)):
            raise InputError(f"{what} {str(value)!r} is not UTF-8: a result cannot be written with it")


def _row(line: str) -> Row:
    found = parse_json(line, dict[str, Any], "not a result")
    if "failed" not in found:
        return Result.from_json(line)
    try:
        return convert({"keywords": {}, "budget": 0, **found}, Failure)
    except ValueError as error:
        raise InputError(f"not a result: {error}") from error


def _lower_confidence(env: DataSelectEnv) -> Proxy:
    from dsenv.proxies.lower_confidence import LowerConfidenceProxy

    return LowerConfidenceProxy(env.task, env.plan, env.metric)


def _unwrap(env: gym.Env[Any, Any]) -> DataSelectEnv:
    if not isinstance(env.unwrapped, DataSelectEnv):
        raise InputError(f"{env.unwrapped!r} is not a data selection environment")
    return env.unwrapped


def _numbered(what: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{what} {number}": value for number, value in enumerate(values)}


def _flat(scores: Scores) -> dict[str, float]:
    return {f"{split} {metric}": value for split, values in scores.items() for metric, value in values.items()}
