"""From result rows to the leaderboard: normalised scores with intervals, differences to the searches (arXiv 2108.13264)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError, one_of
from dsenv.evaluation import Failure, Result, Row, load_rows
from dsenv.metrics import Doubles
from dsenv.reading import Whole, convert, read_json
from dsenv.registration import IDS
from dsenv.stats import Interval, normalised_score

PAPER_FORM: dict[str, Any] = {"unit": "cluster", "clustering": "kmeans"}
PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{id: (id, {}) for id in IDS},
    **{f"{id} paper": (id, PAPER_FORM) for id in ("DataSelect-GooglePlay-v0", "DataSelect-GooglePlayNoisy-v0")},
}
SMALL = tuple(id for id, keywords in IDS.items() if keywords.get("proxy") == "table")
CONSTANTS = Path(__file__).parent / "tasks" / "constants.json"
SUMMARY = Path(__file__).parent / "tasks" / "leaderboard.json"
BASELINES = ("greedy", "swap", "best_of")
IMPROVED = ("greedy", "swap")
TABLES = ("summary", "difference", "improvement", "variants")
RESAMPLES = 2000
TIE = 1e-9
# These say how an agent sees a problem or which of its instances it is; any other keyword makes it another problem.
SAME_PROBLEM = ("instance", "reward", "observation", "reward_rows", "cache_dir", "render_mode")

Constants = Mapping[str, Any]
Summary = dict[str, list[dict[str, Any]]]
Group = tuple[str, str, int]  # problem, agent, budget


@dataclass(frozen=True)
class Run:
    """A result with its normalised scores on reward and test rows; without them where there are no constants."""

    row: Result
    normalised: dict[str, float]


Runs = dict[int, Run]  # by seed


class _Ends(TypedDict):
    reward: float
    test: float


class _Instance(TypedDict):
    zero: _Ends
    one: _Ends


class _Problem(TypedDict):
    headroom: bool
    instances: dict[Annotated[str, msgspec.Meta(pattern="^[0-9]+$")], _Instance]


class _Constants(TypedDict):
    problems: dict[str, _Problem]


class _Compared(TypedDict):
    agent: str
    evaluations: Whole
    value: float
    low: float
    high: float
    seeds: Whole


class _Difference(_Compared):
    against: str
    split: str


class _Summarised(TypedDict):
    id: str
    agent: str
    evaluations: Whole
    iqm: float | None
    low: float | None
    high: float | None
    selection: float | None
    test: float | None
    regret: float | None
    seconds: float | None
    score: float | None
    seeds: Whole
    failed: NotRequired[Whole]


class _Tables(TypedDict):
    summary: list[_Summarised]
    difference: list[_Difference]
    improvement: list[_Compared]
    variants: list[_Difference]


def instances_of(problem: str, count: int) -> range:
    """Return the first ``count`` instances of a problem; a tabulated one has instance 0 only."""
    return range(min(count, 1) if _problem(problem)[0] in SMALL else count)


def environment_of(problem: str, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the id and the keywords, the instance with them, that a seed of a problem stands for.

    Raises:
        InputError: for an unknown problem.
    """
    id, keywords = _problem(problem)
    return id, {**keywords, **({} if id in SMALL else {"instance": seed})}


def problem_of(row: Row) -> str:
    """Return the name of a row's problem: the id, and behind it what differs from the id's defaults."""
    own = {name: value for name, value in row.keywords.items() if name not in SAME_PROBLEM}
    for problem, known in PROBLEMS.items():
        if known == (row.id, own):
            return problem
    return " ".join([row.id, *(f"{name}={value}" for name, value in sorted(own.items()))])


def load_constants(path: str | Path = CONSTANTS) -> dict[str, Any]:
    """Read the constants of the normalised score: what 0 and 1 stand for, for each problem and instance.

    Raises:
        InputError: where the file cannot be read or says something else.
    """
    return dict(_read(path, _Constants, "file of constants of normalised scores")["problems"])


def load_leaderboard(files: Sequence[str | Path], constants: Constants) -> Summary:
    """Read summaries ``*.json`` and result rows ``*.jsonl``, which are summarised together and stand first.

    Raises:
        InputError: where a file cannot be read or is neither.
    """
    rows: list[Row] = []
    found: Summary = {name: [] for name in TABLES}
    for path in map(Path, files):
        if path.suffix == ".jsonl":
            rows += load_rows(path)
            continue
        record = _read(path, _Tables, "leaderboard")
        for name in TABLES:
            found[name] += record[name]
    own = summarise(rows, constants)
    return {name: own[name] + found[name] for name in TABLES}


def summarise(results: Iterable[Row], constants: Constants) -> Summary:
    """Summarise rows of runs.

    Args:
        results: results and failures; of two rows of one problem, agent, budget and seed, the later counts.
        constants: of ``load_constants``; a problem or instance they do not hold has no normalised score.

    Returns:
        ``summary``: one row for each problem, agent and budget, and for ``headroom`` (the ids that have it), ``large``
        (those of them that are not tabulated) and ``small`` (the tabulated ones), over the seeds for which the agent has
        all of their problems. ``iqm``, ``low``, ``high``: interquartile mean of the normalised score, 95% bootstrap
        interval that resamples seeds inside each problem. ``score`` (Φ), ``selection`` and ``test`` (the reported
        metric), ``regret``, ``seconds``: means. ``seeds``: that the row rests on; ``failed``: runs that ended with an
        error, ``error``: the first one.
        ``difference``: IQM minus a search's, over the problems with headroom, on reward or test rows, with an interval
        that resamples the seeds of both together. ``variants``: the same of an agent's variants minus the plain agent, over
        ``large``. ``improvement``: probability that a run of the agent is better than
        a run of a search, mean over the problems.
    """
    runs, failures = _by_group(results, constants)
    headroom = [id for id in IDS if id in constants and constants[id]["headroom"]]
    groups = {"headroom": headroom, "large": [id for id in headroom if id not in SMALL], "small": SMALL}
    pairs = sorted({(agent, budget) for _, agent, budget in {**runs, **failures}})
    summary = [
        _summary(group[0], *group[1:], [runs.get(group, {})], [failures.get(group, {})])
        for group in sorted({**runs, **failures})
    ]
    for name, problems in groups.items():
        for pair in pairs:
            every = [runs.get((problem, *pair), {}) for problem in problems]
            errors = [failures.get((problem, *pair), {}) for problem in problems]
            if problems and all(one or error for one, error in zip(every, errors, strict=True)):
                summary.append(_summary(name, *pair, _where_all(every), errors))
    compared: Summary = {"difference": [], "improvement": [], "variants": []}
    for agent, budget in pairs:
        for against in BASELINES:
            ours, theirs = ([runs.get((problem, one, budget), {}) for problem in headroom] for one in (agent, against))
            if agent != against and headroom and all(ours) and all(theirs):
                head = {"evaluations": budget, "agent": agent, "against": against}
                compared["difference"] += [{**head, **found} for found in _differences(ours, theirs)]
                if against in IMPROVED and all(map(len, _values([*ours, *theirs]))):
                    better = probability_of_improvement(_values(ours), _values(theirs))
                    compared["improvement"].append({**head, **_interval(better), "seeds": min(map(len, ours + theirs))})
        plain, at, _ = agent.partition("@")
        ours, theirs = ([runs.get((problem, one, budget), {}) for problem in groups["large"]] for one in (agent, plain))
        if at and groups["large"] and all(ours) and all(theirs):
            head = {"evaluations": budget, "agent": agent, "against": plain}
            compared["variants"] += [{**head, **found} for found in _differences(ours, theirs)]
    return {"summary": summary, **compared}


def iqm_interval(strata: Sequence[Doubles], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the IQM of all values with the percentile interval of ``stats.bootstrap``, all resamples in one pass."""
    rng = np.random.default_rng(seed)
    drawn = [values[_draws(rng, resamples, len(values))] for values in strata]
    return _percentiles(float(_iqms(np.concatenate(strata))), _iqms(np.concatenate(drawn, 1)))


def paired_difference(
    ours: Sequence[Doubles], theirs: Sequence[Doubles], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return IQM(ours) - IQM(theirs); what stands at one place of a stratum is resampled together."""
    rng = np.random.default_rng(seed)
    draws = [_draws(rng, resamples, len(values)) for values in ours]
    drawn = [
        _iqms(np.concatenate([values[draw] for values, draw in zip(side, draws, strict=True)], 1)) for side in (ours, theirs)
    ]
    value = _iqms(np.concatenate(ours)) - _iqms(np.concatenate(theirs))
    return _percentiles(float(value), drawn[0] - drawn[1])


def probability_of_improvement(
    ours: Sequence[Doubles], theirs: Sequence[Doubles], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over strata of P(ours > theirs) + P(ours = theirs) / 2, over all pairs of runs."""
    rng = np.random.default_rng(seed)
    values, drawn = [], []
    for mine, other in zip(ours, theirs, strict=True):
        gap = mine[:, None] - other
        better = np.where(np.abs(gap) <= TIE, 0.5, gap > 0)
        shares = [
            rng.multinomial(len(side), np.full(len(side), 1 / len(side)), resamples) / len(side) for side in (mine, other)
        ]
        values.append(better.mean())
        drawn.append(((shares[0] @ better) * shares[1]).sum(1))
    return _percentiles(float(np.mean(values)), np.mean(drawn, 0))


def _by_group(results: Iterable[Row], constants: Constants) -> tuple[dict[Group, Runs], dict[Group, dict[int, str]]]:
    """Return the results and the errors of each group by seed; of one seed the later row counts."""
    runs: dict[Group, Runs] = defaultdict(dict)
    failures: dict[Group, dict[int, str]] = defaultdict(dict)
    for row in results:
        problem = problem_of(row)
        group = (problem, row.agent, row.budget or (row.evaluations if isinstance(row, Result) else 0))
        runs[group].pop(row.seed, None)
        failures[group].pop(row.seed, None)
        if isinstance(row, Failure):
            failures[group][row.seed] = row.failed
        else:
            runs[group][row.seed] = _run(row, constants.get(problem, {}).get("instances", {}))
    return dict(runs), dict(failures)


def _run(row: Result, instances: Any) -> Run:
    ends = instances.get(str(row.keywords.get("instance", 0)))
    if ends is None:
        return Run(row, {})
    normalised = {}
    if ends["zero"]["reward"] != ends["one"]["reward"]:
        normalised["reward"] = normalised_score(row.score, ends["zero"]["reward"], ends["one"]["reward"])
    # What is best on reward rows may gain nothing on an instance's test rows: one unit for all instances.
    gap = float(np.mean([one["one"]["test"] - one["zero"]["test"] for one in instances.values()]))
    if gap > 0 and _metric(row) in row.scores["test"]:
        zero = ends["zero"]["test"]
        normalised["test"] = normalised_score(row.scores["test"][_metric(row)], zero, zero + gap)
    return Run(row, normalised)


def _summary(name: str, agent: str, budget: int, every: Sequence[Runs], errors: Sequence[Mapping[int, str]]) -> dict[str, Any]:
    rows = [run.row for runs in every for run in runs.values()]
    row: dict[str, Any] = {"id": name, "agent": agent, "evaluations": budget, "iqm": None, "low": None, "high": None}
    if all(map(len, _values(every))):
        found = _interval(iqm_interval(_values(every)))
        row.update(iqm=found["value"], low=found["low"], high=found["high"])
    regrets = [result.regret for result in rows if result.regret is not None]
    row["selection"] = _mean([result.scores["selection"][_reported(result)] for result in rows])
    row["test"] = _mean([result.scores["test"][_reported(result)] for result in rows])
    row["regret"] = _mean(regrets) if len(regrets) == len(rows) else None
    row["seconds"] = _mean([result.seconds for result in rows])
    row["seeds"] = min(map(len, _values(every) if row["iqm"] is not None else every))
    row["score"] = _mean([result.score for result in rows])
    texts = [text for error in errors for text in error.values()]
    return {**row, "failed": len(texts), "error": texts[0]} if texts else row


def _differences(ours: Sequence[Runs], theirs: Sequence[Runs]) -> list[dict[str, Any]]:
    found = []
    for split in ("reward", "test"):
        shared = [
            sorted(seed for seed in set(own) & set(other) if split in own[seed].normalised and split in other[seed].normalised)
            for own, other in zip(ours, theirs, strict=True)
        ]
        if all(shared):
            mine, others = (
                [{seed: runs[seed] for seed in seeds} for runs, seeds in zip(side, shared, strict=True)]
                for side in (ours, theirs)
            )
            between = paired_difference(_values(mine, split), _values(others, split))
            found.append({"split": split, **_interval(between), "seeds": min(map(len, shared))})
    return found


def _where_all(every: Sequence[Runs]) -> list[Runs]:
    """Return the runs of the seeds that every problem has."""
    shared = set.intersection(*(set(runs) for runs in every))
    return [{seed: runs[seed] for seed in sorted(shared)} for runs in every]


def _values(every: Sequence[Runs], split: str = "reward") -> list[Doubles]:
    """Return the normalised scores of each problem; runs of instances without constants have none."""
    return [np.array([run.normalised[split] for run in runs.values() if split in run.normalised]) for runs in every]


def _problem(problem: str) -> tuple[str, dict[str, Any]]:
    return PROBLEMS[one_of("problem", problem, PROBLEMS)]


def _metric(row: Result) -> str:
    """Return what Φ measures; rows that do not say it measure the default of their id."""
    return row.metric or ("balanced_brier_skill" if "balanced_brier_skill" in row.scores["test"] else "brier_skill")


def _reported(row: Result) -> str:
    return row.reported or ("macro_f1" if _metric(row) == "balanced_brier_skill" else "accuracy")


def _iqms(values: Doubles) -> Doubles:
    """Return the interquartile mean along the last axis, as ``stats.iqm``."""
    count = values.shape[-1]
    edges = np.arange(count + 1) / count
    inside = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return np.asarray(np.sort(values, -1) @ inside / inside.sum())


def _draws(rng: np.random.Generator, resamples: int, count: int) -> npt.NDArray[np.int64]:
    return rng.integers(count, size=(resamples, count))


def _percentiles(value: float, drawn: Doubles) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _interval(found: Interval) -> dict[str, float]:
    return {"value": round(found.value, 6), "low": round(found.low, 6), "high": round(found.high, 6)}


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if values else None


def _read(path: str | Path, form: type[Any], what: str) -> dict[str, Any]:
    """Return all that a JSON file holds, where it has a form."""
    record = read_json(path, dict[str, Any], what)
    try:
        convert(record, form)
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not a readable {what}: {error}") from error
    return record
