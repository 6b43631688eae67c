"""Task files, selections and results: what was chosen, recounted row by row."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verify.findings import ROUNDED, TOLERANCE, Findings
from benchmarks.verify.models import METRICS, fit, subsets, table, worth
from benchmarks.verify.tasks import Doubles, Picks, Problem, TaskFile, bundled, chance, read_task, synthetic

Line = dict[str, Any]

SPLITS = ("reward", "selection", "test")
MAIN = {
    "GooglePlay": "googleplay",
    "HateUnion": "hateunion",
    "Banking77": "banking77",
    "InfoTabs": "infotabs",
    "GoEmotions": "goemotions",
}
SMALL: Line = {"clustering": "kmeans", "unit": "cluster", "budget": 0.2, "proxy": "table"}
IDS: dict[str, Line] = {
    **{f"DataSelect-{title}-v0": {"task": name} for title, name in MAIN.items()},
    "DataSelect-GooglePlayNoisy-v0": {"task": "googleplay:noisy"},
    "DataSelect-HateTarget-v0": {"task": "hateunion:target"},
    **{f"DataSelect-{title}-Small-v0": {"task": f"{name}:small", **SMALL} for title, name in MAIN.items()},
    "DataSelect-Synthetic-v0": {"task": "synthetic"},
    "DataSelect-v0": {},
}
PLAN = ("clustering", "unit", "budget", "picks")
SHOWN = ("instance", "reward", "observation", "reward_rows", "cache_dir", "render_mode")  # change no selection's score


def file_of(name: str) -> tuple[TaskFile, str]:
    """Return the task file and the variant that a name stands for: a bundled one, ``synthetic``, or a path ``*.npz``."""
    base, _, variant = (
        name.partition(":") if ".npz" not in name else (name.partition(".npz")[0] + ".npz", "", name.partition(".npz:")[2])
    )
    if base == "synthetic":
        return synthetic(), variant
    return read_task(Path(base) if base.endswith(".npz") else bundled(base)), variant


@lru_cache(maxsize=3)
def problem_of(name: str, instance: int = 0) -> Problem:
    """Return a task by its name, at an instance."""
    return Problem(*file_of(name), instance)


@lru_cache(maxsize=3)
def picks_of(name: str, instance: int, plan: tuple[tuple[str, Any], ...]) -> Picks:
    """Return the picks of a problem; ``plan`` as in ``PLAN``."""
    return Picks(problem_of(name, instance), **dict(plan))


@lru_cache(maxsize=8)
def table_of(name: str) -> Doubles:
    """Return the table that a task holds of every set of clusters, (5, N)."""
    return np.asarray(problem_of(name).array("tables"))


@lru_cache(maxsize=4096)
def scores_of(name: str, instance: int, rows: bytes) -> dict[str, dict[str, float]]:
    """Return all metrics of the model of chosen rows, on all splits."""
    problem = problem_of(name, instance)
    model = fit(problem, np.frombuffer(rows, np.int64))
    return {split: {metric: worth(problem, model, getattr(problem, split), metric) for metric in METRICS} for split in SPLITS}


def forget() -> None:
    """Read files anew from here on."""
    for cached in (read_task, problem_of, picks_of, table_of, scores_of):
        cached.cache_clear()


def check_result(found: Findings, where: str, line: Line) -> None:
    """Recount a result: picks, rows, budget, class shares, and the model's scores on every split."""
    own = {name: value for name, value in line["keywords"].items() if name not in SHOWN}
    keywords = {**IDS[line["id"]], **own}
    name, proxy = keywords.pop("task"), keywords.pop("proxy", "ridge")
    metric = keywords.pop("metric", None)
    if unknown := set(keywords) - {*PLAN, "dataset"}:
        found.leave(f"results with the keywords {', '.join(sorted(unknown))}: not known here")
        return
    instance = int(line["keywords"].get("instance") or 0)
    problem = problem_of(name, instance)
    plan = tuple((key, keywords[key]) for key in PLAN if key in keywords)
    picks = picks_of(name, instance, plan)
    metric = metric or problem.default_metric
    found.equal("task digest", where, line["task_digest"], problem.file.digest)
    found.equal("actions of an episode", where, len(line["actions"]), picks.picks)
    counts, rows = picks.walk(line["actions"])
    found.equal("counts", where, line["counts"], counts)
    found.equal("rows", where, line["rows"], len(rows))
    _check_rows(found, where, rows, problem, picks)
    shares = np.bincount(problem.train.labels[rows], minlength=problem.classes) / len(rows)
    close = len(line["class_shares"]) == len(shares) and np.abs(shares - line["class_shares"]).max() <= TOLERANCE
    found.holds("class shares", where, bool(close), f"{line['class_shares']}, recounted {shares.round(6).tolist()}")
    found.equal("metric", where, line.get("metric") or metric, metric)
    found.equal("reported metric", where, line.get("reported") or problem.facts["reported"], problem.facts["reported"])
    if line.get("budget"):
        within = line["evaluations"] <= line["budget"]
        found.holds("evaluations", where, within, f"{line['evaluations']} of {line['budget']} allowed")
    recounted = scores_of(name, instance, np.array(rows, np.int64).tobytes())
    for split in SPLITS:
        for measured, said in line["scores"][split].items():
            if measured in METRICS:
                found.close("scores", f"{where} {split} {measured}", said, recounted[split][measured])
            else:
                found.leave(f"{measured}: of no class scores")
    if proxy not in ("ridge", "table"):
        found.leave(f"Φ of the proxy {proxy}: its training is not repeated here")
        return
    found.close("Φ", where, line["score"], recounted["reward"].get(metric))
    if proxy == "table":
        scores = table_of(name)[METRICS.index(metric)]
        best = max(scores[1 : len(subsets(len(counts), picks.picks))])
        found.close("regret", where, line["regret"], max(0.0, best - recounted["reward"][metric]))


def _check_rows(found: Findings, where: str, rows: list[int], problem: Problem, picks: Picks) -> None:
    """Rows of a selection by their numbers in the pool: each one of the pool, none twice, no more than the budget pays."""
    known = all(0 <= row < len(problem.train.labels) for row in rows)
    found.holds("rows of the training split", where, known, f"of {len(problem.train.labels)} training rows")
    found.equal("duplicate rows", where, len(rows) - len(set(rows)), 0)
    if picks.unit == "rows":
        found.holds("row budget", where, len(rows) <= picks.most, f"{len(rows)} rows, the budget pays {picks.most}")


def check_selection(found: Findings, line: Line, task: str | None, metric: str | None, plan: dict[str, Any]) -> None:
    """Recount a selection.

    Args:
        found: where to note what was found.
        line: the selection's JSON.
        task: its task, where it is none that the package brings: a file ``*.npz``, behind it a colon and the variant.
        metric: what Φ measures, where it is not the task's own.
        plan: ``clustering``, ``unit``, ``budget`` and ``picks``, where they are not the defaults; the file does not say them.
    """
    found.rows = len(line["rows"])
    problem = problem_of(task or line["task"], line["instance"])
    picks = Picks(problem, **plan)
    where = f"selection by {line['method']}"
    found.equal("task digest", where, line["task_digest"], problem.file.digest)
    found.equal("fingerprint", where, line["fingerprint"], problem.facts["fingerprint"])
    found.equal("derivation", where, line["derivation"], problem.facts["derivation"])
    found.equal("rows of the pool", where, line["pool"], len(problem.train.labels))
    number = {row: place for place, row in enumerate(problem.row_ids.tolist())}
    strange = [row for row in line["rows"] if row not in number]
    found.holds("rows of the training split", where, not strange, f"{len(strange)} others, {strange[:3]} say")
    rows = [number[row] for row in line["rows"] if row in number]
    _check_rows(found, where, rows, problem, picks)
    if line["counts"] is None:
        found.leave("counts: there are none, rows were chosen one by one")
    else:
        chosen = [k for k, count in enumerate(line["counts"]) for _ in range(count)]
        found.holds("picks", where, len(chosen) <= picks.picks, f"{len(chosen)} of {picks.picks} allowed")
        counts, walked = picks.walk(chosen)
        found.equal("capacity of clusters", where, line["counts"], counts)
        found.equal("rows of the counts", where, rows, walked)
    scores = [score for _, score in line["history"]]
    found.holds("rising history", where, scores == sorted(scores), str(scores[:9]))
    if line["score"] is None:
        found.leave("Φ: the selection states none")
    elif rows:
        asked = metric or problem.default_metric
        model = fit(problem, rows, asked)
        found.close("Φ", where, line["score"], worth(problem, model, problem.reward, asked))


def check_task(found: Findings, path: Path) -> None:
    """Recount a task file: digest, clusters, tables, and those reference scores that no choice by scores went into."""
    file = read_task(path)
    found.rows = len(file.arrays["labels"])
    found.equal("task digest", path.name, file.said, file.digest)
    named = path.stem.rpartition("-")
    if named[0] == file.metadata["name"]:
        found.holds("digest in the file's name", path.name, file.digest.startswith(named[2]), file.digest[:12])
    for variant in ("", *file.metadata.get("variants", {})):
        _check_problem(found, Problem(file, variant), f"{file.metadata['name']}{variant and ':'}{variant}")
    found.leave("reference scores class_mix_rows and full_offsets: the best of many by their scores")


def _check_problem(found: Findings, problem: Problem, where: str) -> None:
    for name in problem.facts["clusterings"]:
        cluster, position = problem.clusters(name)
        sizes = np.bincount(cluster)
        found.holds("no empty cluster", f"{where} {name}", bool((sizes > 0).all()), f"sizes {sizes.tolist()}")
        order = np.lexsort((position, cluster))
        counted = np.concatenate([np.arange(size) for size in sizes])
        found.holds("row order", f"{where} {name}", bool((position[order] == counted).all()), "places are not 0, 1, ...")
    tabulated = f"{problem.variant}:tables" in problem.file.arrays
    if tabulated:
        picks = Picks(problem, "kmeans", "cluster", 0.2)
        found.equal("tabulated picks", where, problem.facts["tabulated_picks"], picks.picks)
        said, recounted = problem.array("tables"), table(problem, picks)
        if found.equal("selections of the table", where, said.shape, recounted.shape):
            for metric, ours, theirs in zip(METRICS, recounted, said, strict=True):
                off = np.abs(ours - theirs)
                found.checks["entries of the table"] += len(off) - 1
                far = f"{(off > TOLERANCE).sum()} entries differ, by {off.max():.1e} at most"
                found.holds("entries of the table", f"{where} {metric}", bool(off.max() <= TOLERANCE), far)
    else:
        picks = Picks(problem)
    _check_reference(found, problem, picks, where)


def _check_reference(found: Findings, problem: Problem, picks: Picks, where: str) -> None:
    said = problem.facts.get("reference")
    if said is None:
        found.leave(f"{where}: holds no reference scores")
        return
    counts = picks.proportional()
    proportional = picks.walk([k for k, count in enumerate(counts) for _ in range(count)])[1]
    found.equal("rows of the reference", where, said["rows"], len(proportional))
    labels, everything = problem.train.labels, np.arange(len(problem.train.labels))
    weights = np.bincount(labels)[labels] ** -0.5
    models = {
        "proportional": [fit(problem, proportional)],
        "full": [fit(problem, everything)],
        "full_class_weights": [fit(problem, everything, weights=weights / weights.mean())],
        "random_rows": [
            fit(problem, chance(seed, "baseline rows").permutation(len(labels))[: said["rows"]])
            for seed in range(said["seeds"])
        ],
    }
    for name, fitted in models.items():
        for split in ("reward", "test"):
            for metric, summary in said[name][split].items():
                values = [worth(problem, model, getattr(problem, split), metric) for model in fitted]
                place = f"{where} {name} {split} {metric}"
                found.close("reference scores", place, summary["mean"], sum(values) / len(values), ROUNDED)
                spread = math.sqrt(sum((value - sum(values) / len(values)) ** 2 for value in values) / len(values))
                found.close("reference scores", place, summary["std"], spread, ROUNDED)
