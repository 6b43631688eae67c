"""How proxies and their variants agree with the target: correlations and regrets of the scores that are stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.verify.findings import Findings
from benchmarks.verify.summaries import RESAMPLES, Interval, percentiles, spearman
from benchmarks.verify.tasks import Doubles, chance

Line = dict[str, Any]
TARGETS = "target_scores.json"  # beside the record
ENDS = ("value", "low", "high")


def _targets(path: Path) -> Line:
    found: Line = json.loads((path.parent / TARGETS).read_text(encoding="utf-8"))
    return found


def check_fidelity(found: Findings, path: Path, record: Line) -> None:
    """Recount every correlation and regret of the stored scores of proxies."""
    targets = _targets(path)
    for key, block in record.items():
        target = targets[key]
        selection, test, searched = _columns(target)
        found.equal("task digest", key, block["task_digest"], target["task_digest"])
        found.equal("selections", key, block["selections"], len(selection))
        found.equal("unsearched selections", key, block["unsearched"], int((~searched).sum()))
        for name, proxy in block["proxies"].items():
            found.rows += 1
            _check_agreement(found, f"{key} {name}", proxy, selection, test, searched)
        for split in ("selection", "test"):
            _check_ceiling(found, f"{key} target {split}", block["target"][split], target, split)
        spent = [sum(run["seconds"].values()) for run in target["runs"].values()]
        found.close("seconds", key, block["target"]["seconds_per_score"], float(np.mean(spent)))
    found.leave("scores of the proxies, seconds, hold-out values: the tasks are built from texts")


def check_variants(found: Findings, path: Path, record: Line) -> None:
    """Recount what variants of the ridge are worth, and those that follow from other stored scores."""
    targets, fidelity = _targets(path), path.parent / "fidelity.json"
    others = json.loads(fidelity.read_text(encoding="utf-8")) if fidelity.is_file() else {}
    for key, block in record.items():
        selection, test, searched = _columns(targets[key])
        found.equal("task digest", key, block["task_digest"], targets[key]["task_digest"])
        found.equal("selections", key, block["selections"], len(selection))
        scores = {name: np.array(variant["scores"]) for name, variant in block["variants"].items()}
        if key in others:
            same = np.abs(scores["ridge"] - others[key]["proxies"]["ridge"]["scores"]).max()
            found.close("the ridge's scores in fidelity.json", key, float(same), 0.0)
        warmed = np.mean([values for name, values in scores.items() if name.startswith("ridge, warmed vectors, seed")], 0)
        mean = scores["ridge, warmed vectors, mean of the seeds"]
        found.close("mean of the seeds", key, float(np.abs(mean - warmed).max()), 0.0)
        off = np.abs(scores["a + b ridge, left one out"] - _left_one_out(selection, scores["ridge"])).max()
        found.close("a + b ridge, left one out", key, float(off), 0.0)
        for name, variant in block["variants"].items():
            where = f"{key} {name}"
            found.rows += 1
            _check_agreement(found, where, variant, selection, test, searched)
            for field, rows in (("difference", np.ones(len(selection), bool)), ("difference_unsearched", ~searched)):
                ours, plain, target = scores[name][rows], scores["ridge"][rows], selection[rows]
                value = _correlation(ours, target)[0] - _correlation(plain, target)[0]
                drawn = _resampled(ours, target) - _resampled(plain, target)
                interval = percentiles(value, drawn[~np.isnan(drawn)]) if not np.isnan(drawn).all() else (value, -2.0, 2.0)
                _check_interval(found, field, where, variant[field], interval)
    found.leave("given_shares, and scores of the other variants: the tasks are built from texts")


def _columns(target: Line) -> tuple[Doubles, Doubles, Any]:
    """Return the target's scores on selection and on test rows, and which selections a search found."""
    runs = [target["runs"][f"{number} seed=0"] for number in range(len(target["selections"]))]
    selection, test = (np.array([run[split][target["reported"]] for run in runs]) for split in ("selection", "test"))
    hows = [chosen["how"].split()[0] for chosen in target["selections"]]
    return selection, test, np.array([how in ("greedy", "swap", "worst") for how in hows])


def _check_agreement(found: Findings, where: str, line: Line, selection: Doubles, test: Doubles, searched: Any) -> None:
    proxy = np.array(line["scores"])
    if not found.equal("scores", where, len(proxy), len(selection)):
        return
    half = sorted(range(len(selection)), key=lambda i: -selection[i])[: len(selection) // 2]
    _check_interval(found, "correlation", where, line["spearman"], _correlation(proxy, selection))
    _check_interval(found, "better half", where, line["better_half"], _correlation(proxy[half], selection[half]))
    _check_interval(found, "unsearched", where, line["unsearched"], _correlation(proxy[~searched], selection[~searched]))
    _check_interval(found, "correlation, test", where, line["spearman_test"], _correlation(proxy, test))
    best = int(proxy.argmax())
    found.close("regret", where, line["regret"], float(max(selection) - selection[best]))
    found.close("regret, test", where, line["regret_test"], float(max(test) - test[best]))


def _check_interval(found: Findings, what: str, where: str, said: Line, recounted: Interval) -> None:
    for end, value in zip(ENDS, recounted, strict=True):
        found.close(what, f"{where} {end}", said[end], value)


def _check_ceiling(found: Findings, where: str, said: Line, target: Line, split: str) -> None:
    """How far training seeds of the target agree: the mean over pairs of seeds, over resampled selections."""
    scores = np.array(
        [[target["runs"][f"{n} seed={seed}"][split][target["reported"]] for seed in range(3)] for n in target["repeated"]]
    )
    found.close("spread of seeds", where, said["spread"], float(np.mean(np.std(scores, 1, ddof=1))))
    rng = chance(0, "fidelity ceiling")
    drawn: list[float] = []
    while len(drawn) < RESAMPLES // 4:
        again = scores[rng.integers(0, len(scores), len(scores))]
        if all(len(set(column)) > 1 for column in again.T.tolist()):
            drawn.append(_agreement(again))
    _check_interval(found, "agreement of seeds", where, said, percentiles(_agreement(scores), np.array(drawn)))


def _agreement(scores: Doubles) -> float:
    return float(np.mean([spearman(scores[:, a], scores[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]))


def _correlation(proxy: Doubles, target: Doubles) -> Interval:
    if len(set(proxy.tolist())) < 2 or len(set(target.tolist())) < 2:
        return 0.0, -1.0, 1.0
    drawn = _resampled(proxy, target)
    return percentiles(spearman(proxy, target), drawn[~np.isnan(drawn)])


def _resampled(proxy: Doubles, target: Doubles) -> Doubles:
    again = chance(0, "fidelity").integers(0, len(target), (RESAMPLES, len(target)))
    ranks = [rankdata(side[again], axis=1) for side in (proxy, target)]
    found = np.full(RESAMPLES, np.nan)
    varied = np.array([np.ptp(side, axis=1) > 0 for side in ranks]).all(0)
    ours, theirs = (side[varied] - side[varied].mean(1, keepdims=True) for side in ranks)
    found[varied] = (ours * theirs).sum(1) / np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return found


def _left_one_out(target: Doubles, proxy: Doubles) -> Doubles:
    """Predict each target by a line through the others'."""
    found = []
    for place in range(len(target)):
        others: Sequence[int] = [i for i in range(len(target)) if i != place]
        slope, start = np.polyfit(proxy[others], target[others], 1)
        found.append(start + slope * proxy[place])
    return np.array(found)
