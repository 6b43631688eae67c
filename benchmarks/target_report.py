"""From the runs of the target benchmark to its summary and tables.

A head's runs are nested: task instances, in each of them seeds. A fine-tuned target's are its training seeds; two methods
are compared on the seeds both have, by their predictions on the same test rows. Three epochs on a selection are compared
with one epoch on the full pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.target_runs import unpack
from dsenv.errors import InputError
from dsenv.stats import (
    Interval,
    bootstrap_p,
    hierarchical_bootstrap,
    hierarchical_draws,
    holm,
    mean,
    mean_interval,
    paired_bootstrap,
    percentile_interval,
)

AGAINST = ("random", "class_mix", "full")
WITHOUT_VECTORS = (
    "random",
    "full",
    "full_equal_steps",
    "reward_rows",
    "clean_rows",
    "source_rows",
    "class_balanced",
    "dsir",
    "less",
    "trak",
    "ask_llm",
    "ufo",
    "data_whisperer",
)  # these choose without reading vectors
WHOLE = ("full", "full_equal_steps")  # of the whole pool: one epoch, where a selection gets three
SELECTION_EPOCHS, FULL_EPOCHS = 3, 1
LEAST = 3  # fewer runs have no interval
ROUNDED = 1e-5  # how far stored scores may be from those of the stored predictions
DEFAULTS = {"noise": 0, "target_source": None, "pool": 10_000, "encoder": "minilm-fast", "budget": 0.05}

PUBLISHED = [
    {"system": system, "setting": setting, "claim": claim, "source": source, "kind": "published"}
    for system, setting, claim, source in (
        ("RL-guided selection", "four data sets, 5% of the rows",
         "level with the full data or up to 10.8 accuracy points above, up to twice as fast", "2509.25850"),
        ("DOTS + rollout replay", "six pairs of model and data set", "GRPO's level in 23 to 62% less time", "2506.05316"),
        ("LearnAlign", "GSM8K, 1,000 prompts; model reported as Qwen2.5-1.5B-Instruct",
         "77.5 against 77.0 of all prompts", "2506.11480"),
        ("CROPI", "Qwen2.5-1.5B-Instruct, 10% a stage", "2.66 times fewer steps", "2510.26491"),
        ("CLIMB", "950M parameters, 400B tokens",
         "2.0 points above Llama-3.2-1B; 5% above random rows when aimed at one domain", "2504.13161"),
        ("LESS", "Llama-2-7B, 5% of the rows",
         "reported: MMLU 50.2, TydiQA 56.2, BBH 41.5; full data 51.6, 54.0, 43.2", "2402.04333"),
        ("PVI", "Chinese NLI",
         "0.0001 to 0.76% lost without 10 to 30% of the rows; 0.8% gained in rising order", "2507.00038"),
        ("UFO-RL", "Qwen2.5-7B, GSM8K, 10% of the rows",
         "92.03 against 91.88 of the full data; scores up to 185 times faster, trains up to 16 times faster", "2505.12457"),
        ("Data Whisperer", "Llama-3-8B-Instruct, GSM8K, 10% of the rows",
         "above the full data; 3.1 points above and 7.4 times faster than methods before it", "2505.12212"),
        ("Ask-LLM", "T5-Large, C4, 20% of the rows",
         "33.0% over-scaling; above the full data even without 90% of it", "2402.09668"),
        ("LFR", "pre-training of Llama and GPT models",
         "5 to 19% of the tokens suffice; with 3.2% the level of Pythia models twice the size", "2409.06131"),
        ("DELT", "160M parameters, 1B tokens", "reported: about 1.7 points more on average", "2506.21545"),
        ("Influence", "logistic regression, two classes", "10% of the rows equal all of them, 60% beat them", "2504.13586"),
        ("InfiAlign", "Qwen2.5-Math-7B", "level with DeepSeek-R1-Distill on 12% of the data; AIME 3.89% up", "2508.05496"),
        ("DeepDistill", "3.34M queries", "79.2% on AIME 2024", "2504.17565"),
        ("OpenCodeReasoning", "fine-tuning alone", "61.8% on LiveCodeBench", "2504.01943"),
    )
]  # fmt: skip
# What stands here for a published system: its selection rule or search, on our targets.
COUNTERPARTS = {
    "RL-guided selection": "guided", "CLIMB": "climb", "LESS": "less", "PVI": "pvi", "UFO-RL": "ufo",
    "Data Whisperer": "data_whisperer", "Ask-LLM": "ask_llm", "Influence": "influence",
}  # fmt: skip

OURS = "two_stage"  # the method that the goals are of; they were set before it was run
NOT_WORSE = 0.005  # what it may lose to class-mix rows on a clean pool

Key = tuple[int, int]  # instance (0 for a fine-tuned target), seed
Row = dict[str, Any]
IDENTITY = ("dataset", "noise", "target_source", "pool", "encoder", "target", "budget", "epochs", "method")


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of a method with a budget and a number of epochs, on a target in a setting."""

    header: Row
    target: str
    method: str
    budget: float
    epochs: int
    runs: dict[Key, Row]

    @property
    def place(self) -> Row:
        """What the group's methods are compared within: the setting and the target."""
        return {**self.header["setting"], "target": self.target}

    @property
    def metric(self) -> str:
        """The setting's reported metric."""
        return str(self.header["metric"])

    @property
    def drawn_once(self) -> bool:
        """Whether one run an instance stands for all seeds: a head on the full pool has one optimum."""
        return self.target == "head" and self.method == "full"

    def score(self, run: Row) -> float:
        """Return a run's metric on test rows."""
        return float(run["test"][self.metric])

    @property
    def scores(self) -> dict[Key, float]:
        """The metric on test rows of every run."""
        return {key: self.score(run) for key, run in self.runs.items()}


def summarise(files: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Return the rows, the differences and the published claims that the tables show.

    Args:
        files: the lines of each setting's file: first the setting, then its runs; empty ones are passed over.

    Raises:
        InputError: for a file without its setting, a setting or a run that is there twice, or predictions that do not
            give the stored scores.
    """
    groups = [group for lines in files if lines for group in groups_of(lines)]
    if len({repr(lines[0].get("setting")) for lines in files if lines}) < sum(map(bool, files)):
        raise InputError("two files of runs are of one setting; keep one of them")
    compared = [(group, other, shared_keys(group, other)) for group, other in pairs(groups)]
    difference = [compare(group, other, keys) for group, other, keys in compared if keys]
    adjust(difference)
    return {"rows": [row_of(group, difference) for group in groups], "difference": difference, "published": PUBLISHED}


def groups_of(lines: Sequence[Row]) -> list[Group]:
    """Return a file's runs by target, budget, method and epochs, in this order."""
    header = lines[0]
    missing = [name for name in ("setting", "metric", "seconds") if name not in header]
    if missing:
        raise InputError(f"the first line of a file of runs describes its setting; {', '.join(missing)} is not there")
    found: dict[tuple[str, float, str, int], dict[Key, Row]] = defaultdict(dict)
    decided: dict[tuple[str, str], float] = defaultdict(float)  # seconds of the fine-tunes that chose between finalists
    for run in (line for line in lines[1:] if line["method"] == "finalist"):
        decided[run["target"], run["contest"]] += run["seconds"]["train"]
    # Other finalists, or other fine-tunes to decide between them, are another contest: the last one counts.
    last = {(run["target"], run["budget"], run["epochs"]): run["contest"] for run in lines[1:] if run["method"] == "two_stage"}
    for run in (line for line in lines[1:] if line["method"] != "finalist"):
        if run["method"] == "two_stage":
            if run["contest"] != last[run["target"], run["budget"], run["epochs"]]:
                continue
            spent = run["seconds"]["search"] + decided[run["target"], run["contest"]]
            run = {**run, "seconds": {**run["seconds"], "search": spent}}
        runs = found[run["target"], run["budget"], run["method"], run["epochs"]]
        # A fine-tuned target is paired by its training seed: a seed is an instance too, but for what is searched once.
        key = (run["instance"] if run["target"] == "head" else 0, run["seed"])
        if key in runs:
            raise InputError(f"{header['setting']['dataset']}: two runs of {run['method']}, instance {key[0]}, seed {key[1]}")
        runs[key] = run
    return [
        Group(header, target, method, budget, epochs, dict(sorted(found[target, budget, method, epochs].items())))
        for target, budget, method, epochs in sorted(found)
    ]


def pairs(groups: Iterable[Group]) -> Iterator[tuple[Group, Group]]:
    """Yield each group with each of its setting and target that it is compared with."""
    places: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        places[repr(group.place)].append(group)
    for near in places.values():
        for group in near:
            yield from ((group, other) for name in AGAINST for other in near if other.method == name and fits(group, other))


def fits(group: Group, other: Group) -> bool:
    """Whether ``other`` is what ``group`` is compared with: same budget, and epochs as selections and the pool get them."""
    if group.method == other.method:
        return False
    if other.method == "full":
        return other.epochs == FULL_EPOCHS
    epochs = SELECTION_EPOCHS if group.method in WHOLE else group.epochs
    return other.epochs == epochs and (group.method == "full" or group.budget == other.budget)


def compare(group: Group, other: Group, keys: Sequence[Key]) -> Row:
    """Return the difference of two groups on runs that both have; with fewer than three it has no interval."""
    ours, theirs = (runs_at(one, keys) for one in (group, other))
    gaps = {key: group.score(mine) - other.score(its) for key, mine, its in zip(keys, ours, theirs, strict=True)}
    value = mean_score(group, gaps)
    interval, p = None, None
    if len(gaps) >= LEAST:
        if group.target == "head":
            drawn = hierarchical_draws(by_instance(gaps))
            interval, p = percentile_interval(value, drawn), bootstrap_p(drawn)
        elif "test_labels" in group.header and all("predictions" in run for run in (*ours, *theirs)):
            interval, p = compare_predictions(group, ours, theirs)
            check_scores(group, other, interval.value, value)
    return {
        **group.place,
        "budget": other.budget if group.method == "full" else group.budget,
        "epochs": group.epochs,
        "metric": group.metric,
        "method": group.method,
        "against": other.method,
        "pairs": len(gaps),
        "value": rounded(value),
        **ends(interval),
        "p": rounded(p),
        "p_holm": None,
    }


def runs_at(group: Group, keys: Iterable[Key]) -> list[Row]:
    """Return a group's runs in the order of the keys."""
    return [group.runs[(key[0], 0) if group.drawn_once else key] for key in keys]


def shared_keys(group: Group, other: Group) -> list[Key]:
    """Return instance and seed of the runs that both groups have; what is drawn once has every seed of its instances."""
    once, many = (group, other) if group.drawn_once else (other, group)
    return [key for key in many.runs if ((key[0], 0) if once.drawn_once else key) in once.runs]


def compare_predictions(group: Group, ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[Interval, float]:
    """Return the difference of two fine-tuned targets, resampling training seeds and test rows, and its p-value."""
    first, second = ([unpack(run["predictions"]) for run in runs] for runs in (ours, theirs))
    classes = len(ours[0]["class_shares"])
    return paired_bootstrap(first, second, unpack(group.header["test_labels"]), classes=classes, metric=group.metric)


def check_scores(group: Group, other: Group, predicted: float, stored: float) -> None:
    """Refuse predictions or test labels that are not those of the stored scores.

    Raises:
        InputError: naming the comparison.
    """
    if abs(predicted - stored) > ROUNDED:
        raise InputError(
            f"{place_name(group.place)}: by predictions {group.method} - {other.method} is {predicted:.6f}, by stored scores "
            f"{stored:.6f}: the test labels are of another dataset, or runs were altered"
        )


def adjust(difference: Sequence[Row]) -> None:
    """Fill in ``p_holm``: one family is a comparison of two methods over all settings, for one target and budget."""
    families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in difference:
        if row["p"] is not None:
            families[tuple(row[name] for name in ("target", "budget", "epochs", "method", "against"))].append(row)
    for family in families.values():
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = rounded(float(p))


def row_of(group: Group, difference: Sequence[Row]) -> Row:
    """Return a group's summary."""
    runs = list(group.runs.values())
    setting = group.header["seconds"]
    read = group.method not in WITHOUT_VECTORS or group.target == "head"  # whose features the vectors are
    return {
        **group.place,
        "budget": group.budget,
        "epochs": group.epochs,
        "method": group.method,
        "rows": round(float(np.mean([run["rows"] for run in runs]))),
        "metric": group.metric,
        "values": list(group.scores.values()),
        "seeds": len({run["seed"] for run in runs}),
        "instances": len({run["instance"] for run in runs}),
        "mean": rounded(mean_score(group, group.scores)),
        **ends(interval_of(group)),
        "selection": mean_of(run["selection"][group.metric] for run in runs if run.get("selection")),
        "right_labels": mean_of(run["right_labels"] for run in runs if run.get("right_labels") is not None),
        "recovered": recovered(group, difference),
        "seconds": {
            **{stage: round(float(setting[stage]), 2) if read else 0 for stage in ("encode", "cluster")},
            **{stage: mean_of((run["seconds"][stage] for run in runs), 2) for stage in ("search", "train")},
        },
    }


def interval_of(group: Group) -> Interval | None:
    """Return the interval of a group's mean, where it has runs enough."""
    if len(group.runs) < LEAST:
        return None
    if group.target == "head":
        return hierarchical_bootstrap(by_instance(group.scores))
    return mean_interval(list(group.scores.values()))


def mean_score(group: Group, values: dict[Key, float]) -> float:
    """Return the mean over runs; of a head the mean of the instances' means, however many seeds each has."""
    return mean([mean(runs) for runs in by_instance(values)] if group.target == "head" else list(values.values()))


def by_instance(values: dict[Key, float]) -> list[list[float]]:
    """Return the values of each instance."""
    nested: dict[int, list[float]] = defaultdict(list)
    for (instance, _), value in values.items():
        nested[instance].append(value)
    return list(nested.values())


def recovered(group: Group, difference: Sequence[Row]) -> float | None:
    """Return (method - random) / (full - random), or nothing where the full pool is not clearly above random rows."""
    near = [row for row in difference if row["against"] == "random" and is_at(row, group.place)]
    headroom = [
        row for row in near if row["method"] == "full" and row["epochs"] == FULL_EPOCHS and row["budget"] == group.budget
    ]
    if group.method == "full" or not headroom or headroom[0]["low"] is None or headroom[0]["low"] <= 0:
        return None
    if group.method == "random":
        return 0.0
    gain = [row["value"] for row in near if all(row[k] == getattr(group, k) for k in ("method", "budget", "epochs"))]
    return rounded(gain[0] / headroom[0]["value"]) if gain else None


def is_at(row: Row, place: Row) -> bool:
    """Whether a row is of a setting and target."""
    return all(row[name] == value for name, value in place.items())


def ends(interval: Interval | None) -> Row:
    """Return the ends of an interval, or nothing for none."""
    return {"low": None, "high": None} if interval is None else {"low": rounded(interval.low), "high": rounded(interval.high)}


def rounded(value: float | None) -> float | None:
    """Return six digits; nothing stays nothing."""
    return None if value is None else round(value, 6)


def mean_of(values: Iterable[float], digits: int = 6) -> float | None:
    """Return the mean of what is there."""
    found = list(values)
    return round(float(np.mean(found)), digits) if found else None


def tables(summary: dict[str, Any]) -> str:
    """Return all tables under their names."""
    return "\n\n".join(f"{name}\n\n{block}" for name, block in named_tables(summary).items())


def named_tables(summary: dict[str, Any]) -> dict[str, str]:
    """Return the tables by their names in a page, such as ``target dataset=googleplay noise=0.4 target=minilm``.

    One a setting, target and budget, of which only ``dataset``, ``target`` and what is not the default are named;
    ``target head``: the head in all settings, ``target head budgets``: in those with several budgets; ``target goals``:
    what our method was to reach and did; ``target claims``: what was published and what was measured.
    """
    if not summary.get("rows"):
        return {}
    found = {f"target {place_name(place)}": place_table(summary, place) for place in places(summary["rows"])}
    head = [place for place in places(summary["rows"]) if place["target"] == "head"]
    if usual := [place for place in head if place["budget"] in (DEFAULTS["budget"], 1)]:
        found["target head"] = means_table(summary, usual)
    several = [place for place in head if sum(is_at(place, {**other, "budget": place["budget"]}) for other in head) > 1]
    if several:
        found["target head budgets"] = means_table(summary, several)
    if goals := goals_table(summary):
        found["target goals"] = goals
    return {**found, "target claims": claims_table(summary)}


def places(rows: Iterable[Row]) -> list[Row]:
    """Return settings with target and budget, each once; runs on the full pool belong to all budgets of their place."""
    found: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in rows:
        place = {name: row[name] for name in ("dataset", "noise", "target_source", "pool", "encoder", "target")}
        found[repr(place)][row["budget"]] = {**place, "budget": row["budget"]}
    return [
        place
        for by_budget in found.values()
        for budget, place in sorted(by_budget.items())
        if budget != 1 or len(by_budget) == 1
    ]


def place_name(place: Row) -> str:
    """Return a setting in the words of a table's name."""
    shown = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in place.items()
             if name not in ("dataset", "target") and value != DEFAULTS[name]]  # fmt: skip
    return " ".join([f"dataset={place['dataset']}", *shown, f"target={place['target']}"])


def rows_at(summary: dict[str, Any], place: Row) -> list[Row]:
    """Return the rows of a table, best first."""
    setting = {name: value for name, value in place.items() if name != "budget"}
    rows = [row for row in summary["rows"] if is_at(row, setting) and row["budget"] in (place["budget"], 1)]
    return sorted(rows, key=lambda row: -row["mean"])


def place_table(summary: dict[str, Any], place: Row) -> str:
    """Return the methods of a setting, target and budget, best first: test metric with its 95% interval, and differences."""
    rows = rows_at(summary, place)
    noisy = any(row["right_labels"] is not None for row in rows)
    differences = [row for row in summary["difference"] if is_at(row, place)]
    columns = ["method", "rows", *["right labels"] * noisy, rows[0]["metric"].replace("macro_f1", "macro-F1")]
    lines = [[*columns, *(f"minus {name}" for name in AGAINST), "encode + cluster s", "search s", "train s"]]
    for row in rows:
        right = [] if not noisy else ["" if row["right_labels"] is None else f"{row['right_labels']:.2f}"]
        mine = {one["against"]: one for one in differences if all(one[k] == row[k] for k in ("method", "epochs"))}
        seconds = row["seconds"]
        spent = [f"{value:.0f}" for value in (seconds["encode"] + seconds["cluster"], seconds["search"], seconds["train"])]
        gaps = [cell(mine[name], "value", "+z.3f") if name in mine else "" for name in AGAINST]
        lines.append([label(row, rows), str(row["rows"]), *right, cell(row, "mean", ".3f"), *gaps, *spent])
    return markdown(lines)


def goals_table(summary: dict[str, Any]) -> str:
    """Return our method's differences on the fine-tuned target, beside what was to be reached; nothing before it was run."""
    usual = {"target": "minilm", "budget": DEFAULTS["budget"], "pool": DEFAULTS["pool"], "encoder": DEFAULTS["encoder"]}
    rows = [row for row in summary["difference"] if is_at(row, usual | {"method": OURS, "epochs": SELECTION_EPOCHS})]
    lines = [["setting", "metric", f"{OURS} minus", "measured", "Holm's p", "goal", "reached", "recovered headroom"]]
    for row in rows:
        against, (goal, reached) = row["against"], goal_of(row)
        headroom = next(one["recovered"] for one in summary["rows"] if is_at(one, {name: row[name] for name in IDENTITY}))
        shown = "" if headroom is None or against != "full" else f"{headroom:.2f}"
        p = "" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        measured = cell(row, "value", "+z.3f")
        metric = row["metric"].replace("macro_f1", "macro-F1")
        lines.append([column_name(row), metric, against.replace("_", " "), measured, p, goal, reached, shown])
    return markdown(lines) if rows else ""


def goal_of(row: Row) -> tuple[str, str]:
    """Return what a difference of our method was to be, and whether it is; on a clean pool that of class-mix rows alone."""
    if row["noise"] or row["target_source"]:
        if row["against"] == "full":
            return "at least 0", "yes" if row["value"] >= 0 else "no"
        return "interval above 0", "yes" if (row["low"] or 0) > 0 else "no"
    if row["against"] == "class_mix":
        return f"at least -{NOT_WORSE}", "yes" if row["value"] >= -NOT_WORSE else "no"
    return "", ""


def time_table(summary: dict[str, Any]) -> str:
    """Return seconds by stage, their sum, and what share that is of the full pool's with as many epochs; one machine."""
    lines = [["method", "epochs", "encode + cluster s", "search s", "train s", "sum s", "of the full pool's"]]
    whole = {row["epochs"]: sum(row["seconds"].values()) for row in summary["rows"] if row["method"] == "full"}
    for row in sorted(summary["rows"], key=lambda row: sum(row["seconds"].values())):
        seconds, total = row["seconds"], sum(row["seconds"].values())
        spent = [seconds["encode"] + seconds["cluster"], seconds["search"], seconds["train"], total]
        share = f"{total / whole[row['epochs']]:.2f}" if row["epochs"] in whole else ""
        lines.append([row["method"], str(row["epochs"]), *(f"{value:.0f}" for value in spent), share])
    return markdown(lines)


def means_table(summary: dict[str, Any], every: Sequence[Row]) -> str:
    """Return mean test metrics, methods by places, those that stand in most first, then in the order of their mean."""
    cells: dict[str, dict[int, float]] = defaultdict(dict)
    for column, place in enumerate(every):
        rows = rows_at(summary, place)
        for row in rows:
            cells[label(row, rows)][column] = row["mean"]
    order = sorted(cells, key=lambda name: (-len(cells[name]), -float(np.mean(list(cells[name].values())))))
    lines = [["method", *map(column_name, every)]]
    lines += [[name, *(f"{cells[name][i]:.3f}" if i in cells[name] else "" for i in range(len(every)))] for name in order]
    return markdown(lines)


def claims_table(summary: dict[str, Any]) -> str:
    """Return what was published beside what its counterpart here has shown."""
    lines = [["system", "published setting", "published claim", "arXiv", "here", "minus random", "minus full"]]
    for claim in summary["published"]:
        method = COUNTERPARTS.get(claim["system"])
        shown = [measured(summary["difference"], method, against) if method else "" for against in ("random", "full")]
        lines.append([*(claim[k] for k in ("system", "setting", "claim", "source")), method or "", *shown])
    return markdown(lines)


def measured(difference: Iterable[Row], method: str, against: str) -> str:
    """Return a method's differences at 5%: one by one for fine-tuned targets, counted for the head."""
    usual = {name: value for name, value in DEFAULTS.items() if name not in ("noise", "target_source")}
    usual |= {"method": method, "against": against, "epochs": SELECTION_EPOCHS}
    rows = [row for row in difference if row["low"] is not None and is_at(row, usual)]
    head = [row for row in rows if row["target"] == "head"]
    shown = [f"{column_name(row)} {row['metric']}: {cell(row, 'value', '+z.3f')}" for row in rows if row["target"] != "head"]
    if head:
        shown.append(f"head: {significant(head, 1)} settings above 0 and {significant(head, -1)} below, of {len(head)}")
    return "; ".join(shown)


def significant(rows: Iterable[Row], sign: int) -> int:
    """Return how many differences are on a side of 0 with an adjusted p-value below 5%."""
    return sum(row["p_holm"] is not None and row["p_holm"] < 0.05 and sign * row["value"] > 0 for row in rows)


def label(row: Row, rows: Iterable[Row]) -> str:
    """Return a method's name, with its epochs where the table has it with several."""
    epochs = {one["epochs"] for one in rows if one["method"] == row["method"]}
    shown = f", {row['epochs']} epoch{'s' * (row['epochs'] > 1)}" if len(epochs) > 1 else ""
    return f"{row['method']}{shown}"


def column_name(place: Row) -> str:
    """Return a setting in few words."""
    place = {name: place[name] for name in ("dataset", *DEFAULTS)}
    words = place_name({**place, "target": "head"}).removeprefix("dataset=").removesuffix(" target=head")
    return words.replace("target_source=", "")


def cell(row: Row, name: str, form: str) -> str:
    """Return an estimate with its interval, where it has one."""
    interval = "" if row["low"] is None else f" [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{row[name]:{form}}{interval}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a table; the first line names its columns."""
    head, *rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *rows])
