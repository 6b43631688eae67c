"""Runs of policies in training on questions with checkable answers: what was charged, points on the way, and summaries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verify.findings import Findings
from benchmarks.verify.summaries import RESAMPLES, Interval, percentiles, student

Line = dict[str, Any]

UNITS = ("rollouts", "steps", "seconds", "gradient_passes")
RISING = ("rounds", *UNITS)
COUNTED = ("rounds", "rollouts", "steps", "gradient_passes")
TEST_QUESTIONS = 16  # of a cluster of arithmetic questions
POLICIES = Path(__file__).parents[2] / "dsenv" / "policies"


def check_training(found: Findings, lines: Sequence[Line]) -> None:
    """Recount the runs of a controller: charges, points that rise, whole numbers of right answers."""
    found.rows = len(lines)
    agents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in POLICIES.rglob("*.safetensors")}
    found.equal("no run twice", "all runs", len({(line["seed"], json.dumps(line["plan"])) for line in lines}), len(lines))
    for name in ("policy_sha256", "questions_sha256"):
        by_questions = {(json.dumps(line["plan"]), line[name]) for line in lines}
        found.equal("one policy, one set of questions", name, len(by_questions), len({plan for plan, _ in by_questions}))
    for line in lines:
        where = f"{line['controller']} seed {line['seed']}"
        points, costs, plan, settings = line["points"], line["costs"], line["plan"], _settings(line)
        charged = costs["rollouts"] + costs["reference_rollouts"] + costs["choosing_passes"]
        last = points[-1]
        found.equal("charged rollouts", where, last["rollouts"], charged)
        found.equal("gradient passes", where, last["gradient_passes"], costs["gradient_passes"])
        found.equal("steps", where, last["steps"], costs["steps"])
        spent = sum(seconds for stage, seconds in costs["seconds"].items() if stage != "evaluate")
        found.close("seconds", where, last["seconds"], spent)
        for before, after in pairwise(points):
            sound = all(before[name] <= after[name] for name in RISING) and before["rounds"] < after["rounds"]
            found.holds("points rise", where, sound, f"from {before['rollouts']} to {after['rollouts']} rollouts")
        found.equal("start", where, [points[0][name] for name in COUNTED], [0] * len(COUNTED))
        wanted = plan["rollouts"] // (plan["settings"]["batch"] * plan["settings"]["group"])
        enough = last["steps"] >= wanted and any(point["rollouts"] <= plan["rollouts"] for point in points[1:])
        found.holds("budget", where, enough, f"ends at {last['rollouts']} rollouts and {last['steps']} steps, of {wanted}")
        for point in points:
            place = f"{where} at {point['rollouts']}"
            found.equal("steps of the rounds", place, point["steps"], point["rounds"] * settings["steps"])
            asked = point["rounds"] * _round_rollouts(settings)
            found.holds(
                "rollouts of the rounds", place, asked <= point["rollouts"], f"{point['rollouts']}, rounds take {asked}"
            )
            _check_rates(found, place, point, plan["questions"] == "arithmetic")
        if "agent_sha256" in line:
            found.holds(
                "weights of the agent", where, line["agent_sha256"] in agents, "no file of the package has that digest"
            )
    found.leave("pass rates and costs themselves: training is not repeated; seconds")


def _check_rates(found: Findings, where: str, point: Line, arithmetic: bool) -> None:
    if not arithmetic:
        found.leave("pass rates by cluster of other questions: how many a cluster has is not stored")
        return
    rates = point["by_cluster"]
    whole = all(abs(rate * TEST_QUESTIONS - round(rate * TEST_QUESTIONS)) < 1e-9 for rate in rates)
    found.holds("whole right answers", where, whole, f"of {TEST_QUESTIONS} test questions a cluster")
    found.close("pass rate of the clusters'", where, point["test"], sum(rates) / len(rates))


def _settings(line: Line) -> Line:
    return {"fresh": 1.0, **line["plan"]["settings"], **line["variant"]["settings"]}


def _round_rollouts(settings: Line) -> int:
    """Rollouts of a round: of every batch the fresh share is rolled out, at least one question."""
    return int(settings["steps"] * max(1, round(settings["fresh"] * settings["batch"])) * settings["group"])


def check_record(found: Findings, path: Path, record: Line) -> None:
    """Recount the summary of the runs in the folder of the file's name."""
    runs = {
        file.stem: [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(path.with_suffix("").glob("*.jsonl"))
    }
    plans = {json.dumps(line["plan"], sort_keys=True) for lines in runs.values() for line in lines}
    found.equal("one plan", path.name, len(plans), 1)
    plan = runs["uniform"][0]["plan"]
    limits = {
        "rollouts": plan["rollouts"],
        "steps": plan["rollouts"] // (plan["settings"]["batch"] * plan["settings"]["group"]),
    }
    level = float(np.mean([_last(line, "rollouts", limits)["test"] for line in runs["uniform"]]))
    found.close("level", path.name, record["level"], level)
    found.equal("controllers", path.name, sorted(record["controllers"]), sorted(runs))
    uniform = [_reach(line, level)[0] for line in runs["uniform"]]
    rng = np.random.default_rng(0)
    for name in record["controllers"]:
        lines, row = runs[name], record["controllers"][name]
        found.rows += 1
        found.equal("runs", name, row["runs"], len(lines))
        reached = [_reach(line, level) for line in lines]
        hits = sum(hit for _, hit in reached)
        cells = {
            "pass_rate": [_last(line, "rollouts", limits)["test"] for line in lines],
            "pass_rate_at_equal_steps": [_last(line, "steps", limits)["test"] for line in lines],
            "signal": [float(np.mean([point["signal"] for point in line["points"][1:]])) for line in lines],
            **{unit: [point[unit] for point, _ in reached] for unit in UNITS},
        }
        for field, values in cells.items():
            _check_cell(found, field, name, row[field], student(values) if len(values) > 1 else None)
            found.equal("runs that reach the level", f"{name} {field}", row[field]["reached"], hits)
        shares = []
        for line in lines:
            last = _last(line, "rollouts", limits)
            shares.append(1 - last["rounds"] * _round_rollouts(_settings(line)) / last["rollouts"])
        found.close("choosing", name, row["choosing"], float(np.mean(shares)))
        measured = [point["correlation"] for line in lines for point in line["points"] if point["correlation"] is not None]
        found.close("correlation", name, row["correlation"], float(np.mean(measured)) if measured else None)
        for unit in UNITS:
            ours, theirs = (np.array([point[unit] for point in side], float) for side in ([p for p, _ in reached], uniform))
            drawn = [side[rng.integers(len(side), size=(RESAMPLES, len(side)))].mean(1) for side in (ours, theirs)]
            interval = percentiles(1 - ours.mean() / theirs.mean(), 1 - drawn[0] / drawn[1])
            _check_cell(found, "savings", f"{name} {unit}", record["savings"][name][unit], interval)
        _check_curve(found, name, record["curves"][name], lines, plan)
    _check_difficulty(found, record["by_difficulty"], runs, limits)


def _last(line: Line, unit: str, limits: dict[str, int]) -> Line:
    found: Line = max(
        (point for point in line["points"] if point[unit] <= limits[unit]), key=lambda point: int(point["rounds"])
    )
    return found


def _reach(line: Line, level: float) -> tuple[dict[str, float], bool]:
    """Return what was spent when the pass rate came to the level, on the straight line between two points, or in all."""
    points = line["points"]
    for place, point in enumerate(points):
        if point["test"] >= level:
            before = points[max(place - 1, 0)]
            rise = point["test"] - before["test"]
            share = (level - before["test"]) / rise if rise else 1.0
            return {unit: (1 - share) * before[unit] + share * point[unit] for unit in UNITS}, True
    return {unit: points[-1][unit] for unit in UNITS}, False


def _check_cell(found: Findings, what: str, where: str, said: Line, recounted: Interval | None) -> None:
    if recounted is None:
        found.equal(what, where, [said["low"], said["high"]], [None, None])
        return
    for end, value in zip(("value", "low", "high"), recounted, strict=True):
        found.close(what, f"{where} {end}", said[end], value, 1e-9 * max(1.0, abs(value)))


def _check_curve(found: Findings, where: str, curve: Line, lines: Sequence[Line], plan: Line) -> None:
    marks = range(0, plan["rollouts"] + 1, plan["every"])
    for number, mark in enumerate(marks):
        spent = {unit: [_between(line, mark, unit) for line in lines] for unit in (*UNITS, "test")}
        for unit in UNITS:
            value = float(np.mean(spent[unit]))
            found.close("curve", f"{where} {unit} {mark}", curve[unit][number], value, 1e-9 * max(1.0, value))
        if len(lines) > 1:
            for end, value in zip(("value", "low", "high"), student(spent["test"]), strict=True):
                found.close("curve", f"{where} {end} {mark}", curve[end][number], value)
    found.equal("marks of the curve", where, len(curve["value"]), len(marks))


def _between(line: Line, mark: int, what: str) -> float:
    """Return what stood at a mark of rollouts, on the straight line between two points."""
    points = line["points"]
    for before, after in pairwise(points):
        if before["rollouts"] <= mark <= after["rollouts"]:
            share = (mark - before["rollouts"]) / (after["rollouts"] - before["rollouts"])
            return float(before[what] + share * (after[what] - before[what]))
    return float(points[-1][what])


def _check_difficulty(found: Findings, said: Line, runs: dict[str, list[Line]], limits: dict[str, int]) -> None:
    start = runs["uniform"][0]["points"][0]["by_cluster"]
    groups: dict[str, list[int]] = {"below .2": [], ".2 to .8": [], "above .8": []}
    for cluster, rate in enumerate(start):
        if rate is not None:
            groups["below .2" if rate < 0.2 else ".2 to .8" if rate <= 0.8 else "above .8"].append(cluster)
    found.equal("clusters by difficulty", "start", said["clusters"], {name: len(inside) for name, inside in groups.items()})
    rows = {"start": [start]}
    rows |= {name: [_last(line, "rollouts", limits)["by_cluster"] for line in lines] for name, lines in runs.items()}
    for name, rates in rows.items():
        for group, inside in groups.items():
            value = math.fsum(rate[k] for rate in rates for k in inside) / (len(rates) * len(inside)) if inside else None
            found.close("pass rates by difficulty", f"{name} {group}", said[name][group], value)
