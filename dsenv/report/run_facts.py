"""What a report says of a run, as numbers: what was chosen, what it scores, beside what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.baselines import model_for, random_rows
from dsenv.clustering import Clustering
from dsenv.dataset import Ints, TextDataset, largest_remainder
from dsenv.errors import InputError
from dsenv.evaluation import Failure, Result, score_model
from dsenv.finetuning import TargetResult, TargetRun
from dsenv.leaderboard import SUMMARY, load_constants, load_leaderboard, problem_of, summarise
from dsenv.picks import PickPlan, plan_picks
from dsenv.proxies.outputs import ridge_metrics
from dsenv.registration import IDS
from dsenv.rendering import label_table
from dsenv.run_folder import RunFolder, name_in
from dsenv.seeding import generator
from dsenv.selection import Selection
from dsenv.stats import Interval, mean, mean_interval
from dsenv.synthetic import synthetic_task
from dsenv.task import RESPONSE_SKILL, SelectionTask, bundled_tasks
from dsenv.task_file import CLUSTERINGS

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro\u2011F1",
    "neg_log_loss": "negative log loss",
    "brier_skill": "Brier skill",
    "balanced_brier_skill": "balanced Brier skill",
    RESPONSE_SKILL: "response skill",
}
PLAIN_METHODS = ("random", "class_balanced", "class_mix", "uniform", "proportional", "all rows", "given rows")
FEWEST_SEEDS = 3  # of an interval
SHARES = ("accuracy", METRIC_NAMES["macro_f1"])  # between 0 and 1, as Student's interval need not be
RANDOM_DRAWS = 5
SAME = 1e-4  # scores this near are of one metric: proxies of one ridge model differ by rounding
TARGET_METRICS: tuple[tuple[str, Callable[[TargetRun], float | None]], ...] = (
    ("accuracy", lambda run: run.accuracy),
    (METRIC_NAMES["macro_f1"], lambda run: run.macro_f1),
    ("loss", lambda run: run.loss),
)


@dataclass(frozen=True)
class Scored:
    """Rows and what the ridge model makes of them.

    Attributes:
        reward: Φ on the reward rows.
        final: the metric that the task reports, on its test rows.
    """

    reward: float
    final: float


@dataclass(frozen=True)
class Line:
    """A line of the leaderboard.

    Attributes:
        name: of the selection, agent or baseline.
        kind: ``selection``, ``agent``, ``baseline`` or ``bundled``.
        reward: Φ on the reward rows; the mean over seeds.
        final: the metric that the task reports, on its test rows.
        normalised: 0 = proportional picks, 1 = best known, where the constants hold the problem.
        evaluations: of the proxy.
        seconds: of the search, with the agent's.
        seeds: how many.
        rows: how many were chosen.
        recorded: what the selection's own file says of its score, where that is another proxy or metric.
    """

    name: str
    kind: str
    reward: float
    final: float | None = None
    normalised: float | None = None
    evaluations: int | None = None
    seconds: float | None = None
    seeds: int | None = None
    rows: int | None = None
    recorded: float | None = None


@dataclass(frozen=True)
class Measured:
    """What the seeds of one result of a target come to for one metric."""

    value: float
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None


class RunFacts:
    """The facts of a run.

    Variant and instance of the task are those of the run's last selection; what was selected for others is left out.

    Attributes:
        run: the folder.
        task: the task, at the variant and instance.
        selections: by name.
        left_out: names of selections of another variant or instance, or of another task.
        targets: results of targets by name.
        results: of agents, on this task and metric.
        results_left_out: how many results are of another task or metric.
        failures: runs of agents that ended with an error.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        stored = run.task
        found = run.selections
        self.task = _at_last(stored, list(found.values()))
        self.selections = {name: one for name, one in found.items() if _belongs(one, self.task)}
        self.left_out = [name for name in found if name not in self.selections]
        self.targets = run.targets
        self._found = found
        rows = run.results
        self.failures = [row for row in rows if isinstance(row, Failure)]
        results = [row for row in rows if isinstance(row, Result)]
        self.results = [
            row
            for row in results
            if row.task_digest == self.task.digest and _variant(row) == self.task.variant and row.metric in ("", self.metric)
        ]
        self.results_left_out = len(results) - len(self.results)

    @cached_property
    def metric(self) -> str:
        """What Φ measures: the task's own metric, or the one that reproduces the last selection's score."""
        default = self.task.default_metric
        for selection in reversed([one for one in self.selections.values() if one.score is not None]):
            for metric in dict.fromkeys((default, *ridge_metrics(self.task))):
                found = self._measure(self.numbers(selection), metric, "reward")
                if selection.score is not None and abs(found - selection.score) < SAME:
                    return metric
        return default

    @property
    def metric_name(self) -> str:
        """The metric in words."""
        return METRIC_NAMES.get(self.metric, self.metric)

    @property
    def final_metric(self) -> str:
        """What the ridge model is scored by on test rows: the metric that the task reports, or of responses their skill."""
        return RESPONSE_SKILL if self.task.is_instructions else self.task.reported

    @property
    def final_name(self) -> str:
        """That in words."""
        return METRIC_NAMES.get(self.final_metric, self.final_metric)

    @property
    def label_word(self) -> str:
        """What a row's class is called."""
        return "group of responses" if self.task.is_instructions else "label"

    @cached_property
    def clustering(self) -> Clustering:
        """The clusters that the run's picks are of."""
        kept = [name for name in CLUSTERINGS if name in self.task.facts["clusterings"]]
        picked = [one for one in self.selections.values() if one.counts is not None]
        for selection in reversed(picked):
            for name in kept:
                clustering = self.task.clustering(name)
                taken = np.bincount(clustering.cluster[self.numbers(selection)], minlength=clustering.clusters)
                counts = np.asarray(selection.counts)
                if len(counts) == len(taken) and np.array_equal(counts > 0, taken > 0):
                    return clustering
        return self.task.clustering(kept[0])

    @cached_property
    def labels(self) -> Ints:
        """(K, C) rows of each cluster and class."""
        return label_table(self.task, self.clustering)

    def numbers(self, selection: Selection) -> Ints:
        """Return a selection's row numbers in the pool."""
        order = np.argsort(self.task.row_ids, kind="stable")
        return np.asarray(order[np.searchsorted(self.task.row_ids[order], np.asarray(selection.rows, np.int64))])

    @cached_property
    def taken(self) -> dict[str, Ints]:
        """(K,) rows that each selection takes of each cluster."""
        cluster, clusters = self.clustering.cluster, self.clustering.clusters
        return {name: np.bincount(cluster[self.numbers(one)], minlength=clusters) for name, one in self.selections.items()}

    @cached_property
    def scored(self) -> dict[str, Scored]:
        """The ridge model's scores of each selection."""
        return {name: self._score(self.numbers(one)) for name, one in self.selections.items()}

    @cached_property
    def chosen(self) -> str | None:
        """The name of the selection that the headline is about: what finalists came to, else the highest Φ."""
        last = [name for name, one in self.selections.items() if one.method.startswith("finalist")]
        if last:
            return last[-1]
        own = [name for name, one in self.selections.items() if one.method not in PLAIN_METHODS] or list(self.selections)
        return max(own, key=lambda name: self.scored[name].reward) if own else None

    @cached_property
    def baselines(self) -> dict[str, Scored]:
        """Proportional picks of the registered id, or as many rows as were chosen; as many random rows; all rows."""
        found = {"all rows": self._score(None)}
        if self.chosen is None:
            return found
        count = len(self.selections[self.chosen].rows)
        if self.plan is not None and self.fits(self.chosen):
            counts = self.plan.complete(np.zeros(self.plan.clusters, np.int64))
            name, proportional = "proportional picks", self.plan.rows(counts)
        else:
            share = np.minimum(largest_remainder(self.clustering.sizes.astype(np.float64), count), self.clustering.sizes)
            name, proportional = "proportional rows", np.flatnonzero(self.clustering.position < share[self.clustering.cluster])
        rngs = [generator(seed, "baseline rows") for seed in range(RANDOM_DRAWS)]
        draws = [self._score(random_rows(self.task, count, rng)) for rng in rngs]
        drawn = Scored(mean([one.reward for one in draws]), mean([one.final for one in draws]))
        return {name: self._score(proportional), "random rows": drawn, **found}

    @cached_property
    def problem(self) -> str | None:
        """The registered id whose task this is, where it is a bundled one or the synthetic one."""
        for id, keywords in IDS.items():
            if keywords["task"] == self.task.name and self._bundled:
                return id
        return None

    @cached_property
    def plan(self) -> PickPlan | None:
        """The picks of the registered id."""
        if self.problem is None:
            return None
        own = {name: IDS[self.problem][name] for name in ("unit", "budget") if name in IDS[self.problem]}
        return plan_picks(self.task.clustering(IDS[self.problem].get("clustering", "stratified")), **own)

    def fits(self, name: str) -> bool:
        """Return whether a selection solves the registered id's problem, budget and picks included."""
        selection = self.selections[name]
        if self.plan is None:
            return False
        if selection.counts is None:
            return len(selection.rows) == self.plan.budget_rows
        try:
            rows = self.plan.rows(np.asarray(selection.counts))
        except InputError:
            return False
        return np.array_equal(np.sort(rows), np.sort(self.numbers(selection)))

    @cached_property
    def lines(self) -> list[Line]:
        """The leaderboard of the run, best first; lines of the bundled summary too, where they are comparable."""
        ends: Mapping[str, Any] = {}
        constants = load_constants()
        if self.problem in constants:
            ends = constants[self.problem]["instances"].get(str(self.task.instance), {})

        def normalised(value: float) -> float | None:
            gap = ends["one"]["reward"] - ends["zero"]["reward"] if ends else 0.0
            return (value - ends["zero"]["reward"]) / gap if gap else None

        lines, comparable = [], False
        for name, one in self.selections.items():
            fits, scored = self.fits(name), self.scored[name]
            comparable |= fits
            other = one.score is not None and abs(one.score - scored.reward) >= SAME
            lines.append(
                Line(name, "selection", scored.reward, scored.final, normalised(scored.reward) if fits else None,
                     one.evaluations or None, one.seconds, 1, len(one.rows), one.score if other else None)
            )  # fmt: skip
        rows = max((len(one.rows) for one in self.selections.values()), default=None)
        for name, scored in self.baselines.items():
            count = len(self.task.train_labels) if name == "all rows" else rows
            lines.append(
                Line(name, "baseline", scored.reward, scored.final, normalised(scored.reward) if comparable else None,
                     rows=count)
            )  # fmt: skip
        problems = {problem_of(row) for row in self.results}
        comparable |= self.problem in problems
        for row in summarise(self.results, constants)["summary"]:
            if row["id"] in problems and row["score"] is not None:
                name = row["agent"] if len(problems) == 1 else f"{row['agent']} ({row['id']})"
                line = _summary_line(row, name, "agent")
                lines.append(replace(line, final=self._final_of(row["id"], row["agent"], row["evaluations"])))
        if comparable and self.problem is not None and SUMMARY.is_file():
            lines += self._bundled_lines(lines)
        known = all(line.normalised is not None for line in lines)
        return sorted(lines, key=lambda line: -(line.normalised if known and line.normalised is not None else line.reward))

    def measures(self, result: TargetResult) -> dict[str, Measured]:
        """Return what a result of a target comes to, metric by metric, beside all rows with the same target."""
        whole = next((one for one in self.targets.values() if one.method == "all rows" and same_target(one, result)), None)
        found = {}
        for name, read in TARGET_METRICS:
            values = {run.seed: value for run in result.runs if (value := read(run)) is not None}
            if not values:
                continue
            interval = mean_interval(list(values.values())) if len(values) >= FEWEST_SEEDS else None
            if interval is not None and name in SHARES:
                interval = Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))
            gap, gap_interval = None, None
            if whole is not None and whole is not result:
                others = {run.seed: value for run in whole.runs if (value := read(run)) is not None}
                shared = [values[seed] - others[seed] for seed in values if seed in others]
                if shared:
                    gap, gap_interval = mean(shared), mean_interval(shared) if len(shared) >= FEWEST_SEEDS else None
            found[name] = Measured(mean(list(values.values())), interval, gap, gap_interval)
        return found

    def name_of(self, result: TargetResult) -> str | None:
        """Return the name of the selection that a target was trained on; None where the run has none."""
        return name_in(self._found, result)

    def check(self, dataset: TextDataset) -> TextDataset:
        """Return the dataset with the task's derivation applied.

        Raises:
            InputError: where the task was built from another.
        """
        derived = dataset
        if dataset.derivation != self.task.facts["derivation"]:
            derived = dataset.derive(self.task.facts["derivation"])
        self.task.check_dataset(derived)
        return derived

    @cached_property
    def _bundled(self) -> bool:
        base = self.task.metadata["name"]
        if base == "synthetic":
            return self.task.digest == synthetic_task().digest
        known = bundled_tasks().get(base)
        return known is not None and self.task.digest.startswith(known.stem.rpartition("-")[2])

    def _final_of(self, problem: str, agent: str, budget: int) -> float | None:
        """The mean of what an agent's results come to on test rows."""
        found = [
            row.scores["test"][self.final_metric]
            for row in self.results
            if (problem_of(row), row.agent, row.budget or row.evaluations) == (problem, agent, budget)
            and self.final_metric in row.scores["test"]
        ]
        return mean(found) if found else None

    def _bundled_lines(self, own: Sequence[Line]) -> list[Line]:
        rows = [row for row in load_leaderboard([SUMMARY], {})["summary"] if row["id"] == self.problem]
        budgets = sorted({row["evaluations"] for row in rows})
        spent = max((line.evaluations or 0 for line in own), default=0)
        budget = min(budgets, key=lambda known: (abs(known - spent), known), default=0)
        kept = [row for row in rows if row["evaluations"] == budget and row["score"] is not None]
        return [_summary_line(row, row["agent"], "bundled") for row in kept]

    def _score(self, numbers: Ints | None) -> Scored:
        return Scored(self._measure(numbers, self.metric, "reward"), self._measure(numbers, self.final_metric, "test"))

    def _measure(self, numbers: Ints | None, metric: str, split: str) -> float:
        rows = np.arange(len(self.task.train_labels)) if numbers is None else numbers
        return score_model(self.task, model_for(self.task, rows, metric), (split,), (metric,))[split][metric]


def same_target(one: TargetResult, other: TargetResult) -> bool:
    """Return whether two results are of the same target."""
    ours, theirs = ((str(result.recipe.get("target")), result.recipe.get("method")) for result in (one, other))
    return Path(ours[0]).name == Path(theirs[0]).name and ours[1] == theirs[1]


def over_seeds(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Return the mean, and its interval where there are several."""
    return mean(values), mean_interval(values) if len(values) > 1 else None


def _summary_line(row: Mapping[str, Any], name: str, kind: str) -> Line:
    return Line(name, kind, row["score"], row["test"], row["iqm"], row["evaluations"], row["seconds"], row["seeds"])


def _at_last(stored: SelectionTask, selections: Sequence[Selection]) -> SelectionTask:
    """Return the task at the instance of the last selection of it."""
    own = [one for one in selections if one.task_digest == stored.digest]
    return stored.at_instance(own[-1].instance) if own else stored


def _variant(row: Result) -> str:
    name = str(row.keywords.get("task", IDS.get(row.id, {}).get("task", "")))
    return "" if name.endswith(".npz") else name.partition(":")[2]


def _belongs(selection: Selection, task: SelectionTask) -> bool:
    return (
        selection.task_digest == task.digest
        and selection.task == task.name
        and selection.instance == task.instance
        and set(selection.rows) <= set(task.row_ids.tolist())
    )
