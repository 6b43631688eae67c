"""Records of speed and of learning: what follows from the figures that are stored, and picks where counts are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.verify.chosen import IDS, SPLITS, picks_of, problem_of, scores_of
from benchmarks.verify.findings import Findings
from benchmarks.verify.models import METRICS
from benchmarks.verify.tasks import default_picks

Line = dict[str, Any]

RATIOS = {
    "brier_vs_cholesky": (("scores_per_second", "brier_skill"), ("steps_per_second", "cholesky")),
    "accuracy_vs_cholesky": (("scores_per_second", "accuracy"), ("steps_per_second", "cholesky")),
    "vector_vs_scores": (("steps_per_second", "vector"), ("scores_per_second", "brier_skill")),
    "vector_vs_cartpole": (("steps_per_second", "vector"), ("steps_per_second", "cartpole")),
    "score_vs_ridge": (("scores_per_second", "brier_skill"), ("others_per_second", "refit ridge")),
    "score_vs_logreg": (("scores_per_second", "brier_skill"), ("others_per_second", "refit logreg")),
    "score_vs_finetune": (("scores_per_second", "brier_skill"), ("others_per_second", "finetune")),
}


def check_learning(found: Findings, record: Line) -> None:
    """Recount the greedy rollouts of trained agents: picks, rows, Φ and the scores on every split."""
    for key, block in record.items():
        id = key.partition(" ")[0]
        name = IDS[id]["task"]
        problem, picks = problem_of(name), picks_of(name, 0, ())
        for agent, runs in block["runs"].items():
            for seed, run in runs.items():
                where = f"{id} {agent} seed {seed}"
                found.rows += 1
                if "counts" not in run:
                    found.leave("scores of the searches: their selections are not stored")
                    continue
                chosen = [k for k, count in enumerate(run["counts"]) for _ in range(count)]
                counts, rows = picks.walk(chosen)
                found.equal("capacity of clusters", where, run["counts"], counts)
                found.holds("picks", where, len(chosen) <= picks.picks, f"{len(chosen)} of {picks.picks}")
                recounted = scores_of(name, 0, np.array(rows, np.int64).tobytes())
                found.close("Φ", where, run["score"], recounted["reward"][problem.default_metric])
                for split in SPLITS:
                    for metric in set(run["scores"][split]) & set(METRICS):
                        found.close(
                            "scores", f"{where} {split} {metric}", run["scores"][split][metric], recounted[split][metric]
                        )
    found.leave("scores of untrained policies, seconds: not recounted")


def check_throughput(found: Findings, record: Line) -> None:
    """Recount the ratios of the rates."""
    for precision, block in (("float32", record), ("float64", record["float64"])):
        for name, (above, below) in RATIOS.items():
            ours, theirs = ({**record, **block}[group][key] for group, key in (above, below))
            found.rows += 1
            found.close("ratios", f"{precision} {name}", block["ratio"][name], ours / theirs, 1e-9 * ours / theirs)
    found.leave("rates, and ratios of unrelated selections whose rates are not stored: measured on one machine")


def check_scaling(found: Findings, record: Line) -> None:
    """Recount picks, sums of stages, and how cost grows with the rows."""
    points = {key: block for key, block in record.items() if "point" in block}
    for key, block in points.items():
        found.rows += 1
        point, seconds, plan = block["point"], block["seconds"], block["plan"]
        stages = sum(seconds[stage] for stage in ("fingerprint", "reduce", "cluster", "assemble"))
        found.close("sum of the stages", key, seconds["build"], stages, 3e-4)
        most = math.floor(point["budget"] * point["rows"] + 1e-9)
        found.equal("picks", key, plan["picks"], default_picks(most))
        found.equal("rows of a pick", key, plan["rows_per_pick"], most // plan["picks"])
    said = record["summary"]
    base = next(block["point"] for block in points.values() if block["point"]["rows"] == said["rows"][0])
    along = [
        next(block for block in points.values() if block["point"] == {**base, "rows": float(rows)}) for rows in said["rows"]
    ]
    build = [block["seconds"]["build"] for block in along]
    for number, (rows, block) in enumerate(zip(said["rows"], along, strict=True)):
        found.close(
            "build seconds a million rows",
            str(rows),
            said["build_seconds_per_million_rows"][number],
            build[number] / rows * 1e6,
            6e-4,
        )
        memory = block["memory_mib"]["build"] * 2**20 / rows
        found.close("bytes a row", str(rows), said["memory_bytes_per_row"][number], memory, 0.06)
    slope = np.polyfit(np.log(said["rows"]), np.log(build), 1)[0]
    found.close("exponent", "summary", said["build_exponent"], float(slope), 6e-4)
    for kind in ("batch", "episode"):
        rates = [block["scores_per_second"][kind] for block in along]
        found.close("cost ratio", kind, said["score_cost_ratio"][kind], rates[0] / rates[-1], 6e-4)
    ours = record["clustering"]
    found.close("speed-up", "clustering", ours["speedup"], ours["scikit-learn"]["seconds"] / ours["dsenv"]["seconds"], 0.006)
    for name in ("dsenv", "scikit-learn, 50 iterations from random rows"):
        ratio = ours[name]["inertia"] / ours["scikit-learn"]["inertia"]
        found.close("inertia", name, ours[name]["inertia_ratio"], ratio, 6e-6)
    found.leave("seconds, memory and rates: measured on one machine; digests of tasks that are drawn anew")


def check_crashes(found: Findings, record: Line) -> None:
    """Recount the sums over the programs that were killed."""
    found.rows = len(record["writers"])
    for what, said in record["total"].items():
        found.equal("sums over programs", what, said, sum(one[what] for one in record["writers"].values()))
    found.leave("what happened to killed programs: only killing them again tells")
