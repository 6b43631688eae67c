"""The leaderboard's summary and the constants of its normalised score."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verify.chosen import IDS, PLAN, SHOWN, SMALL, problem_of
from benchmarks.verify.findings import ROUNDED, TOLERANCE, Findings
from benchmarks.verify.models import METRICS, fit, worth
from benchmarks.verify.summaries import Interval, improvement, iqm_difference, iqm_interval
from benchmarks.verify.tasks import TASKS, Doubles, Picks, chance

Line = dict[str, Any]
Runs = dict[int, Line]  # by seed

TABULATED = [id for id, keywords in IDS.items() if keywords.get("proxy") == SMALL["proxy"]]
SEARCHES = {"difference": ("greedy", "swap", "best_of"), "improvement": ("greedy", "swap")}
PAPER = {"unit": "cluster", "clustering": "kmeans"}
RANDOM_SEEDS = 20
COMMITTED = Path(__file__).parents[1] / "results" / "leaderboard.json"


def problem_name(line: Line) -> str:
    """Return a row's problem: its id, and ``paper`` behind it where whole K-Means clusters are picked."""
    own = {name: value for name, value in line["keywords"].items() if name not in SHOWN}
    return f"{line['id']}{' paper' if own == PAPER else ''.join(f' {k}={v}' for k, v in sorted(own.items()))}"


def check_leaderboard(found: Findings, path: Path, record: Line) -> None:
    """Recount the summary from the rows in the folder of the file's name; the package's copy has none beside it."""
    if not path.with_suffix("").is_dir():
        found.equal("copy of the summary", path.name, path.read_bytes(), COMMITTED.read_bytes())
        found.leave(f"rows of {path.name}: they are not beside it, but beside what it is a copy of")
        return
    constants = json.loads((TASKS / "constants.json").read_text(encoding="utf-8"))["problems"]
    groups: dict[tuple[str, str, int], Runs] = defaultdict(dict)
    failed = 0
    for file in sorted(path.with_suffix("").glob("*.jsonl")):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            failed += "failed" in line
            if "failed" not in line:
                groups[problem_name(line), line["agent"], line["budget"]][line["seed"]] = line
    if failed:
        found.leave(f"{failed} failed runs: how they are shown")
    headroom = [id for id in IDS if id in constants and constants[id]["headroom"]]
    large = [id for id in headroom if id not in TABULATED]
    wholes = {"headroom": headroom, "large": large, "small": TABULATED}
    agents = sorted({key[1:] for key in groups})
    expected: dict[tuple[Any, ...], Line] = {
        (name, *rest): _summary([runs], constants) for (name, *rest), runs in groups.items()
    }
    for name, ids in wholes.items():
        for agent, budget in agents:
            every = [groups.get((id, agent, budget), {}) for id in ids]
            if all(every):
                shared = sorted(set.intersection(*map(set, every)))
                expected[name, agent, budget] = _summary([{seed: runs[seed] for seed in shared} for runs in every], constants)
    _compare(found, "summary", record["summary"], expected, ("id", "agent", "evaluations"))
    pairs: dict[str, dict[tuple[Any, ...], Line]] = {"difference": {}, "improvement": {}, "variants": {}}
    for agent, budget in agents:
        against = [("difference", search, headroom) for search in SEARCHES["difference"]]
        against += [("improvement", search, headroom) for search in SEARCHES["improvement"]]
        plain, at, _ = agent.partition("@")
        for kind, other, ids in [*against, *([("variants", plain, large)] if at else [])]:
            sides = [[groups.get((id, name, budget), {}) for id in ids] for name in (agent, other)]
            if agent != other and all(map(all, sides)):
                pairs[kind].update(_compared(kind, (budget, agent, other), sides, constants))
    for kind, rows in pairs.items():
        key = ("evaluations", "agent", "against", *(["split"] if kind != "improvement" else []))
        _compare(found, kind, record[kind], rows, key)
    if record.get("transfer"):
        found.leave(f"transfer: {len(record['transfer'])} differences whose runs are not stored")


def check_constants(found: Findings, record: Line) -> None:
    """Recount proportional picks, the optimum where there is a table, and what headroom is measured by."""
    found.left.append("constants 'one' of problems without a table: the best selection known is not stored")
    for name, block in record["problems"].items():
        id, _, paper = name.partition(" ")
        keywords = {**IDS[id], **(PAPER if paper else {})}
        plan = {key: keywords[key] for key in PLAN if key in keywords}
        gains = []
        for instance, ends in block["instances"].items():
            where, found.rows = f"{name} instance {instance}", found.rows + 1
            problem = problem_of(keywords["task"], int(instance))
            picks, metric = Picks(problem, **plan), problem.default_metric
            counts = picks.proportional()
            model = fit(problem, picks.walk([k for k, count in enumerate(counts) for _ in range(count)])[1])
            for split in ("reward", "test"):
                found.close(
                    "proportional picks",
                    f"{where} {split}",
                    ends["zero"][split],
                    worth(problem, model, getattr(problem, split), metric),
                )
            gains.append(ends["one"]["reward"] - ends["zero"]["reward"])
            if id in TABULATED:
                best = problem.array("tables")[METRICS.index(metric)][1:].max()  # recounted with its file
                found.close("optimum", where, ends["one"]["reward"], float(best))
            else:
                found.holds("best known is no worse", where, gains[-1] >= -TOLERANCE, f"{gains[-1]} above proportional picks")
        problem = problem_of(keywords["task"], 0)
        picks, metric, rows = Picks(problem, **plan), problem.default_metric, len(problem.train.labels)
        count = len(picks.walk([k for k, count in enumerate(picks.proportional()) for _ in range(count)])[1])
        drawn = [fit(problem, chance(seed, "baseline rows").permutation(rows)[:count]) for seed in range(RANDOM_SEEDS)]
        deviation = float(np.std([worth(problem, model, problem.reward, metric) for model in drawn], ddof=1))
        found.close("deviation of random rows", name, block["random_std"], deviation)
        found.equal("headroom", name, block["headroom"], bool(np.mean(gains) > 3 * deviation))


def _summary(every: Sequence[Runs], constants: Line) -> Line:
    lines = [line for runs in every for line in runs.values()]
    values = _values(every, constants)
    row: Line = {"iqm": None, "low": None, "high": None}
    if all(map(len, values)):
        row = dict(zip(("iqm", "low", "high"), iqm_interval(values), strict=True))
    regrets = [line["regret"] for line in lines if line["regret"] is not None]
    for split in ("selection", "test"):
        row[split] = _mean([line["scores"][split][line["reported"]] for line in lines])
    row["regret"] = _mean(regrets) if len(regrets) == len(lines) else None
    row["seconds"], row["score"] = (_mean([line[name] for line in lines]) for name in ("seconds", "score"))
    return {**row, "seeds": min(map(len, values if row["iqm"] is not None else every))}


def _compared(kind: str, key: tuple[Any, ...], sides: list[list[Runs]], constants: Line) -> dict[tuple[Any, ...], Line]:
    if kind == "improvement":
        values = [_values(side, constants) for side in sides]
        if not all(len(one) for side in values for one in side):
            return {}
        return {key: {**_named(improvement(*values)), "seeds": min(len(runs) for side in sides for runs in side)}}
    found = {}
    for split in ("reward", "test"):
        normal = [
            [{seed: _normal(line, constants).get(split) for seed, line in runs.items()} for runs in side] for side in sides
        ]
        shared = [
            sorted(s for s in set(a) & set(b) if a[s] is not None and b[s] is not None) for a, b in zip(*normal, strict=True)
        ]
        if all(shared):
            ours, theirs = (
                [np.array([runs[s] for s in seeds]) for runs, seeds in zip(side, shared, strict=True)] for side in normal
            )
            found[*key, split] = {**_named(iqm_difference(ours, theirs)), "seeds": min(map(len, shared))}
    return found


def _compare(found: Findings, kind: str, said: list[Line], expected: dict[tuple[Any, ...], Line], key: Sequence[str]) -> None:
    rows = {tuple(row[name] for name in key): row for row in said}
    found.rows += len(said)
    found.equal(f"rows of {kind}", kind, len(said), len(rows))
    odd = sorted(map(str, set(rows) ^ set(expected)))
    found.holds(f"rows of {kind}", kind, not odd, f"{len(odd)} stand on one side alone: {odd[:3]}")
    for name in set(rows) & set(expected):
        for field, value in expected[name].items():
            found.close(f"{kind}: {field}", " ".join(map(str, name)), rows[name][field], value, ROUNDED)


def _values(every: Sequence[Runs], constants: Line) -> list[Doubles]:
    normal = [[_normal(line, constants).get("reward") for line in runs.values()] for runs in every]
    return [np.array([value for value in values if value is not None]) for values in normal]


def _normal(line: Line, constants: Line) -> dict[str, float]:
    """Return the scores of reward and test rows with 0 at proportional picks and 1 at the best known.

    On test rows the unit is the mean over instances, where it is above 0.
    """
    instances = constants.get(problem_name(line), {}).get("instances", {})
    ends = instances.get(str(line["keywords"].get("instance", 0)))
    if ends is None:
        return {}
    found = {}
    if ends["one"]["reward"] != ends["zero"]["reward"]:
        found["reward"] = (line["score"] - ends["zero"]["reward"]) / (ends["one"]["reward"] - ends["zero"]["reward"])
    unit = float(np.mean([one["one"]["test"] - one["zero"]["test"] for one in instances.values()]))
    if unit > 0:
        found["test"] = (line["scores"]["test"][line["metric"]] - ends["zero"]["test"]) / unit
    return found


def _named(interval: Interval) -> Line:
    return dict(zip(("value", "low", "high"), interval, strict=True))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
