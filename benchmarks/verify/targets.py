"""Runs of fine-tuned targets and of heads on frozen vectors, and their summaries.

Texts are not read: predictions are stored, and everything that follows from them, from scores, rows and seconds is recounted.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verify.findings import ROUNDED, TOLERANCE, Findings
from benchmarks.verify.models import of_classes
from benchmarks.verify.summaries import OWN_RESAMPLES, RESAMPLES, holm, nested_draws, p_of, paired, percentiles, student
from benchmarks.verify.tasks import Ints, default_picks

Line = dict[str, Any]
Key = tuple[int, int]  # instance, seed

SETTING = ("dataset", "noise", "target_source", "pool", "encoder")
GROUP = (*SETTING, "target", "budget", "epochs", "method")
READ_NO_VECTORS = (
    "random", "full", "full_equal_steps", "reward_rows", "clean_rows", "source_rows", "class_balanced", "dsir", "less", "trak",
    "ask_llm", "ufo", "data_whisperer",
)  # fmt: skip
LEAST = 3  # runs that an interval needs
WIDE = 0.15  # of an interval's width: what bootstraps of different draws may differ by at an end


def unpacked(text: str) -> Ints:
    """Return class ids: base85 of zlib of bytes."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).astype(np.int64)


def check_runs(found: Findings, lines: Sequence[Line]) -> None:
    """Recount the runs of a setting: rows, budget, labels, and test scores where predictions are stored."""
    header, runs = lines[0], lines[1:]
    found.rows = len(runs)
    whole = {line["rows"] for line in runs if line["method"] == "full"} or {header["setting"]["pool"]}
    found.equal("rows of the whole pool", "runs on all rows", len(whole), 1)
    pool = max(whole)  # the dataset may have fewer rows than the setting's pool
    found.holds("rows of the whole pool", "runs on all rows", pool <= header["setting"]["pool"], f"{pool} rows")
    labels = unpacked(header["test_labels"])
    usual = {line["budget"]: line["rows"] for line in runs if line["method"] == "random"}
    seen = set()
    for number, line in enumerate(runs, 2):
        where = f"line {number} {line['target']} {line['method']}"
        options = json.dumps([line["options"], line["finalist"], line["contest"]], sort_keys=True)
        key = (*(line[name] for name in ("target", "method", "budget", "epochs", "instance", "seed")), options)
        found.holds("no run twice", where, key not in seen, str(key[:6]))
        seen.add(key)
        _check_rows(found, where, line, pool, usual)
        if "predictions" in line:
            predicted = unpacked(line["predictions"])
            if found.equal("test rows", where, len(predicted), len(labels)):
                for metric, said in line["test"].items():
                    found.close(
                        "test scores of the predictions",
                        f"{where} {metric}",
                        said,
                        of_classes(predicted, labels, metric),
                        ROUNDED,
                    )
        elif line["method"] == "finalist":
            found.leave("scores of finalists on selection rows: no predictions are stored")
        else:
            _check_counts(found, where, line, len(labels))
            found.leave("scores of heads but for whole numbers of right answers: no predictions are stored")
        if "fit" in line:
            _check_fit(found, where, line)
    found.equal("one pool", "all runs", len({line["pool_digest"] for line in runs}), 1)
    builds = len({line["task_digest"] for line in runs})
    if builds > 1:
        found.leave(
            f"{builds} builds of the task: last digits of vectors differ between machines, the rows of the pool do not"
        )
    found.leave("which rows were chosen, right_labels, seconds: not stored row by row")


def _check_rows(found: Findings, where: str, line: Line, pool: int, usual: dict[float, int]) -> None:
    most = {"full": pool, "full_equal_steps": 3 * usual.get(line["budget"], pool)}.get(
        line["method"], math.floor(line["budget"] * pool + 1e-9)
    )
    found.holds("row budget", where, 0 < line["rows"] <= most, f"{line['rows']} rows, the budget pays {most}")
    if "class_shares" not in line:
        return
    shares = line["class_shares"]
    within = abs(sum(shares) - 1) <= 6e-5 * len(shares)
    found.holds("class shares", where, within, f"sum to {sum(shares)}")
    whole = all(abs(share * line["rows"] - round(share * line["rows"])) <= 5.1e-5 * line["rows"] for share in shares)
    found.holds("class shares", where, whole, f"of {line['rows']} rows are not whole rows: {shares[:5]}")


def _check_counts(found: Findings, where: str, line: Line, rows: int) -> None:
    right = line["test"]["accuracy"] * rows
    found.holds("whole right answers", where, abs(right - round(right)) <= 6e-7 * rows, f"{right} of {rows} test rows")


def _check_fit(found: Findings, where: str, line: Line) -> None:
    found.equal("rows seen in training", where, line["fit"]["rows_seen"], line["epochs"] * line["rows"])
    steps = line["epochs"] * math.ceil(line["rows"] / line["options"]["batch_size"])
    found.equal("training steps", where, line["fit"]["steps"], steps)


def check_summary(found: Findings, path: Path, record: Line) -> None:
    """Recount a summary of the runs in the folder of the file's name."""
    groups: dict[tuple[Any, ...], dict[Key, Line]] = {}
    headers: dict[str, Line] = {}
    for file in sorted(path.with_suffix("").glob("*.jsonl")):
        lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        headers[_setting(lines[0]["setting"])] = lines[0]
        groups.update(_groups(lines))
    _check_summary_rows(found, record["rows"], groups, headers)
    _check_differences(found, record["difference"], groups, headers)
    _check_recovered(found, record["rows"], record["difference"])
    found.leave(f"published: {len(record['published'])} claims of others")


def _setting(place: Line) -> str:
    return json.dumps([place[name] for name in SETTING])


def _groups(lines: Sequence[Line]) -> dict[tuple[Any, ...], dict[Key, Line]]:
    """Return runs by setting, target, budget, epochs and method; of two-stage search those of the last contest."""
    deciding: dict[str, float] = defaultdict(float)
    last: dict[tuple[Any, ...], str] = {}
    for line in lines[1:]:
        if line["method"] == "finalist":
            deciding[f"{line['target']} {line['contest']}"] += line["seconds"]["train"]
        if line["method"] == "two_stage":
            last[line["target"], line["budget"], line["epochs"]] = line["contest"]
    found: dict[tuple[Any, ...], dict[Key, Line]] = defaultdict(dict)
    for line in lines[1:]:
        if line["method"] == "finalist":
            continue
        if line["method"] == "two_stage":
            if line["contest"] != last[line["target"], line["budget"], line["epochs"]]:
                continue
            searched = line["seconds"]["search"] + deciding[f"{line['target']} {line['contest']}"]
            line = {**line, "seconds": {**line["seconds"], "search": searched}}
        group = (*(lines[0]["setting"][name] for name in SETTING), *(line[name] for name in GROUP[len(SETTING) :]))
        found[group][line["instance"] if line["target"] == "head" else 0, line["seed"]] = line
    return {group: dict(sorted(runs.items())) for group, runs in found.items()}


def _check_summary_rows(
    found: Findings, rows: Sequence[Line], groups: dict[tuple[Any, ...], dict[Key, Line]], headers: dict[str, Line]
) -> None:
    found.rows += len(rows)
    by_group = {tuple(row[name] for name in GROUP): row for row in rows}
    found.holds(
        "rows of the summary", "rows", set(by_group) == set(groups) and len(rows) == len(by_group), "others than the runs'"
    )
    for group in set(by_group) & set(groups):
        row, runs = by_group[group], list(groups[group].values())
        header, where = headers[_setting(row)], " ".join(map(str, group))
        metric = header["metric"]
        values = {key: line["test"][metric] for key, line in groups[group].items()}
        found.equal("metric", where, row["metric"], metric)
        found.equal("values of the runs", where, row["values"], list(values.values()))
        found.equal("seeds", where, row["seeds"], len({line["seed"] for line in runs}))
        found.equal("instances", where, row["instances"], len({line["instance"] for line in runs}))
        found.equal("rows", where, row["rows"], round(float(np.mean([line["rows"] for line in runs]))))
        nested = _nested(values)
        mean = _mean_of(row["target"], values)
        found.close("mean", where, row["mean"], mean, ROUNDED)
        low, high = None, None
        if len(runs) >= LEAST:
            _, low, high = (
                percentiles(mean, nested_draws(nested)) if row["target"] == "head" else student(list(values.values()))
            )
        found.close("interval", where, row["low"], low, ROUNDED)
        found.close("interval", where, row["high"], high, ROUNDED)
        chosen = [line["selection"][metric] for line in runs if line.get("selection")]
        right = [line["right_labels"] for line in runs if line.get("right_labels") is not None]
        found.close("selection", where, row["selection"], float(np.mean(chosen)) if chosen else None, ROUNDED)
        found.close("right labels", where, row["right_labels"], float(np.mean(right)) if right else None, ROUNDED)
        reads = row["method"] not in READ_NO_VECTORS or row["target"] == "head"
        for stage in ("encode", "cluster"):
            found.close("seconds", f"{where} {stage}", row["seconds"][stage], header["seconds"][stage] if reads else 0, 0.0051)
        for stage in ("search", "train"):
            spent = float(np.mean([line["seconds"][stage] for line in runs]))
            found.close("seconds", f"{where} {stage}", row["seconds"][stage], spent, 0.0051)


def _check_differences(
    found: Findings, rows: Sequence[Line], groups: dict[tuple[Any, ...], dict[Key, Line]], headers: dict[str, Line]
) -> None:
    """Each difference from the runs that both sides have; Holm's p-values from the p-values that are stated."""
    found.rows += len(rows)
    own = found.checks["ends of intervals by other draws"]
    for row in rows:
        group, other = _sides(row)
        where = f"{' '.join(map(str, group))} minus {row['against']}"
        if not found.holds("both sides have runs", where, group in groups and other in groups, "no such runs"):
            continue
        pairs = _pairs(row, groups[group], groups[other])
        metric = headers[_setting(row)]["metric"]
        gaps = {key: ours["test"][metric] - theirs["test"][metric] for key, (ours, theirs) in pairs.items()}
        value = _mean_of(row["target"], gaps)
        found.equal("pairs", where, row["pairs"], len(gaps))
        found.close("difference", where, row["value"], value, ROUNDED)
        if len(gaps) < LEAST:
            found.equal("no interval of few", where, [row["low"], row["high"], row["p"]], [None, None, None])
        elif row["target"] == "head":
            drawn = nested_draws(_nested(gaps))
            for end, recounted in zip(("low", "high", "p"), (*percentiles(value, drawn)[1:], p_of(drawn)), strict=True):
                found.close("interval and p-value", f"{where} {end}", row[end], recounted, ROUNDED)
        elif all("predictions" in line for line in chain(*pairs.values())):
            _check_paired(found, where, row, list(pairs.values()), unpacked(headers[_setting(row)]["test_labels"]), metric)
    if found.checks["ends of intervals by other draws"] > own:
        found.leave(
            f"intervals and p-values of differences of fine-tuned targets to the last digit: {OWN_RESAMPLES} draws of our own "
            f"may differ from theirs by {WIDE:.0%} of an interval's width"
        )
    families: dict[tuple[Any, ...], list[Line]] = defaultdict(list)
    for row in rows:
        if row["p"] is not None:
            families[tuple(row[name] for name in ("target", "budget", "epochs", "method", "against"))].append(row)
    for name, family in families.items():
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            found.close("Holm's p-value", " ".join(map(str, name)), row["p_holm"], adjusted, 2 * ROUNDED * len(family))


def _check_paired(found: Findings, where: str, row: Line, pairs: list[tuple[Line, Line]], labels: Ints, metric: str) -> None:
    first, second = ([unpacked(pair[side]["predictions"]) for pair in pairs] for side in (0, 1))
    (value, low, high), p = paired(first, second, labels, metric)
    found.close("difference of the predictions", where, row["value"], value, 1e-5)
    width = max(row["high"] - row["low"], high - low)
    for end, recounted in (("low", low), ("high", high)):
        found.close("ends of intervals by other draws", f"{where} {end}", row[end], recounted, WIDE * width + TOLERANCE)
    middle = (p + row["p"]) / 2
    chance = 5 * math.sqrt(2 * middle * (1 - middle / 2) * (1 / RESAMPLES + 1 / OWN_RESAMPLES)) + 4 / OWN_RESAMPLES
    found.close("p-values by other draws", where, row["p"], p, chance)


def _check_recovered(found: Findings, rows: Sequence[Line], differences: Sequence[Line]) -> None:
    """(method - random) / (full - random), where the whole pool is clearly above random rows."""
    for row in rows:
        near = [
            gap for gap in differences
            if gap["against"] == "random" and all(gap[name] == row[name] for name in (*SETTING, "target", "budget"))
        ]  # fmt: skip
        full = [gap for gap in near if gap["method"] == "full" and gap["epochs"] == 1]
        mine = [gap for gap in near if gap["method"] == row["method"] and gap["epochs"] == row["epochs"]]
        share = None
        if row["method"] != "full" and full and (full[0]["low"] or 0) > 0:
            share = 0.0 if row["method"] == "random" else mine[0]["value"] / full[0]["value"] if mine else None
        found.close("recovered", " ".join(str(row[name]) for name in GROUP), row["recovered"], share, ROUNDED)


def _sides(row: Line) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the groups of a difference: the whole pool has one epoch and the budget 1, selections three, or the method's."""
    place = tuple(row[name] for name in (*SETTING, "target"))
    budget = 1.0 if row["method"] == "full" else row["budget"]
    group = (*place, budget, row["epochs"], row["method"])
    if row["against"] == "full":
        return group, (*place, 1.0, 1, "full")
    epochs = 3 if row["method"] in ("full", "full_equal_steps") else row["epochs"]
    return group, (*place, row["budget"], epochs, row["against"])


def _pairs(row: Line, ours: dict[Key, Line], theirs: dict[Key, Line]) -> dict[Key, tuple[Line, Line]]:
    """Pair runs of the same instance and seed; a head on the whole pool has one run for all seeds of an instance."""

    def found(runs: dict[Key, Line], method: str, key: Key) -> Line | None:
        return runs.get((key[0], 0) if row["target"] == "head" and method == "full" else key)

    keys = theirs if row["target"] == "head" and row["method"] == "full" else ours
    pairs = {key: (found(ours, row["method"], key), found(theirs, row["against"], key)) for key in keys}
    return {key: (mine, other) for key, (mine, other) in pairs.items() if mine is not None and other is not None}


def _nested(values: dict[Key, float]) -> list[list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for (instance, _), value in values.items():
        found[instance].append(value)
    return list(found.values())


def _mean_of(target: str, values: dict[Key, float]) -> float:
    """The mean over runs; of a head the mean of the instances' means."""
    groups: Iterable[Sequence[float]] = _nested(values) if target == "head" else [list(values.values())]
    return float(np.mean([float(np.mean(group)) for group in groups]))


def check_target_scores(found: Findings, record: Line) -> None:
    """Check what is stored of targets on many selections: complete picks, whole right answers of the rows, no run missing."""
    for key, block in record.items():
        pool = int(key.partition("pool=")[2])
        picks = default_picks(math.floor(0.05 * pool + 1e-9))
        for number, chosen in enumerate(block["selections"]):
            found.rows += 1
            sound = min(chosen["counts"]) >= 0 and sum(chosen["counts"]) <= picks
            found.holds("picks", f"{key} selection {number}", sound, f"{sum(chosen['counts'])} of {picks}")
        seeds = [f"{number} seed=0" for number in range(len(block["selections"]))]
        seeds += [f"{number} seed={seed}" for number in block["repeated"] for seed in (1, 2)]
        found.equal("runs", key, sorted(block["runs"]), sorted(set(seeds)))
        for split in ("selection", "test"):
            shares = np.array([run[split]["accuracy"] for run in block["runs"].values()])
            rows = [n for n in range(block["sample"], 0, -1) if np.abs(shares * n - np.rint(shares * n)).max() < TOLERANCE]
            found.checks["whole right answers"] += len(shares) - 1
            found.holds("whole right answers", f"{key} {split}", bool(rows), f"of no number of rows up to {block['sample']}")
            for name, run in block["runs"].items():
                sound = 0 <= run[split]["macro_f1"] <= 1 and run[split]["neg_log_loss"] <= 0
                found.holds("range of scores", f"{key} {name} {split}", sound, str(run[split]))
    found.leave("scores: no predictions are stored, and the tasks are built from texts")


def check_end_to_end(found: Findings, record: Line) -> None:
    """Check what is stored of the runs from texts to scores: row budgets, whole rows of classes, rows seen in training."""
    for key, block in record.items():
        pool, budget = block["options"]["pool"], block["options"]["budget"]
        most = math.floor(budget * pool + 1e-9)
        each = most // default_picks(most) * default_picks(most)
        for name, runs in block["runs"].items():
            for seed, run in runs.items():
                found.rows += 1
                where, whole = f"{key} {name} seed {seed}", name == "full pool"
                if whole:
                    found.equal("rows of the whole pool", where, run["rows"], pool)
                else:
                    found.holds("row budget", where, run["rows"] <= each, f"{run['rows']}, the picks pay {each}")
                rows = [share * run["rows"] for share in run["class_shares"]]
                near = all(abs(count - round(count)) < TOLERANCE for count in rows) and round(sum(rows)) == run["rows"]
                found.holds("class shares", where, near, str(run["class_shares"]))
                found.equal("rows seen in training", where, run["fit"]["rows_seen"], run["recipe"]["epochs"] * run["rows"])
                steps = run["recipe"]["epochs"] * math.ceil(run["rows"] / run["recipe"]["batch_size"])
                found.equal("training steps", where, run["fit"]["steps"], steps)
                found.close("seconds", where, run["seconds"]["train"], run["fit"]["seconds"])
    found.leave("scores of ridge and target: the tasks are built from texts, and no predictions are stored")
