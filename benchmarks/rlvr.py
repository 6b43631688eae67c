"""Which questions to train on: controllers of a policy in training by GRPO, at equal rollouts, steps and seconds.

``python -m benchmarks.rlvr [--controllers NAME ...] [--seeds 5] [--quick] [--json F] [--jobs 2]``

Every run is stored when it is done (``results/rlvr/<controller>.jsonl``; of other plans than the default in ``runs/``) and a
run that was stopped goes on from its snapshot: a second call goes on where the first was stopped. ``--questions gsm8k
--policy FOLDER`` is the same for a real model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import RESULTS, provenance
from benchmarks.workers import worker_processes
from dsenv.errors import InputError, check_whole, ending_cleanly, one_of
from dsenv.files import atomic_write, locked
from dsenv.stats import mean_interval, percentile_interval

RESAMPLES = 2000
UNITS = ("rollouts", "steps", "seconds", "gradient_passes")
REPLAY = {"fresh": 0.5, "capacity": 256}
FIRST_TUNING_SEED = 100
SETTINGS: dict[str, Any] = {"batch": 8, "group": 8, "steps": 4, "learning_rate": 1e-4}
PLOT = Path(__file__).parent.parent / "docs" / "rlvr.png"


@dataclass(frozen=True)
class Variant:
    """A controller with its options and what of the trainer's settings differs from the others'."""

    controller: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


DOTS: dict[str, Any] = {"reference": 16, "refresh": 8, "memory": 8, "temperature": 0.05, "fits": 8}
STAGED: dict[str, Any] = {"candidates": 96, "keep": 64, "warmup": 8, "stage": 8}
VARIANTS = {
    "uniform": Variant("uniform"),
    "uniform_replay": Variant("uniform", settings=REPLAY),
    "difficulty": Variant("difficulty"),
    "difficulty_replay": Variant("difficulty", settings=REPLAY),
    "dots": Variant("dots", DOTS),
    "dots_replay": Variant("dots", DOTS, REPLAY),
    "learnalign": Variant("learnalign"),
    "learnalign_staged": Variant("learnalign", STAGED),
    "cropi": Variant("cropi"),
    "ufo": Variant("ufo"),
    "ufo_folded": Variant("ufo", {"folds": 3}),
    "pass_rates": Variant("pass_rates"),
    "lfr": Variant("lfr"),
    "ucb": Variant("ucb"),
    "thompson": Variant("thompson"),
    "thompson_replay": Variant("thompson", settings=REPLAY),
    "ppo": Variant("ppo"),
    "ppo_replay": Variant("ppo", settings=REPLAY),
    "likelihood": Variant("likelihood"),
    "likelihood_replay": Variant("likelihood", settings=REPLAY),
}
SHORT = (
    "uniform", "uniform_replay", "dots_replay", "learnalign_staged", "cropi", "thompson", "ppo",
    "likelihood", "likelihood_replay",
)  # fmt: skip
NAMED = "likelihood_replay"  # the best of them on the tuning questions and seeds


@dataclass(frozen=True)
class Plan:
    """What all runs share."""

    questions: str = "arithmetic"
    question_seed: int = 0  # of arithmetic questions; settings were chosen on another set, and on other training seeds
    policy: str = "arithmetic"
    rollouts: int = 16_384
    every: int = 1024
    max_new_tokens: int = 12
    max_prompt_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))

    @property
    def steps(self) -> int:
        """Optimiser steps that the budget pays without replay and reference questions."""
        return self.rollouts // int(self.settings["batch"] * self.settings["group"])


QUICK: dict[str, Any] = {"rollouts": 2048, "every": 512, "settings": {**SETTINGS, "steps": 1}}
TUNING: dict[str, Any] = {"question_seed": 1}
Job = tuple[str, int]  # variant, seed
Run = dict[str, Any]


def run(plan: Plan, name: str, seed: int, snapshot: Path, threads: int) -> Run:
    """Train once, to the plan's rollouts and to its steps, whichever comes last."""
    import torch

    from dsenv.rlvr.arithmetic import arithmetic_questions
    from dsenv.rlvr.controllers import make_controller
    from dsenv.rlvr.env import load_questions, make_training
    from dsenv.rlvr.grpo import GRPO
    from dsenv.rlvr.runs import train
    from dsenv.rlvr.training import Settings

    torch.set_num_threads(threads)
    variant = VARIANTS[name]
    own = plan.questions == "arithmetic"
    training = make_training(
        arithmetic_questions(plan.question_seed) if own else load_questions(plan.questions),
        plan.policy,
        Settings(**{**plan.settings, **variant.settings}),
        max_new_tokens=plan.max_new_tokens,
        max_prompt_tokens=plan.max_prompt_tokens,
        seed=seed,
    )
    if not isinstance(training, GRPO):
        raise InputError("a simulated policy says nothing about training: policy must be a causal checkpoint")
    controller = make_controller(variant.controller, training, **variant.options)
    points = train(training, controller, rollouts=plan.rollouts, steps=plan.steps, every=plan.every, snapshot=snapshot)
    found = {**identity(plan, name, seed), "costs": asdict(training.costs), "points": [asdict(point) for point in points]}
    return {**found, "policy_sha256": training.begun_digest, "questions_sha256": training.questions.digest}


def identity(plan: Plan, name: str, seed: int) -> Run:
    """Return what a stored run must agree with to be taken for this one."""
    from dsenv.rlvr.controllers import options_of
    from dsenv.rlvr.controllers.agent import WEIGHTS

    variant = VARIANTS[name]
    options = options_of(variant.controller, variant.options)
    found = {"controller": name, "seed": seed, "plan": asdict(plan), "variant": {**asdict(variant), "options": options}}
    if variant.controller == "ppo":
        found["agent_sha256"] = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    return found


def digest_of(plan: Plan) -> str:
    """Return a short name of a plan."""
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:8]


def stored(folder: Path, name: str) -> list[Run]:
    """Return the stored runs of a variant."""
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def perform(plan: Plan, jobs: Sequence[Job], processes: int, folder: Path) -> list[Job]:
    """Do the runs that are not stored, seeds outermost, store each when it is done, and return those that failed."""
    done = {(found["controller"], found["seed"]) for name, _ in jobs for found in stored(folder, name) if same(found, plan)}
    left = [job for job in jobs if job not in done]
    print(f"{len(left)} runs to do, {len(jobs) - len(left)} stored in {folder}", flush=True)
    started, failed = time.perf_counter(), []
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // processes)
    snapshots = {job: folder / f".{job[0]}-{job[1]}-{digest_of(plan)}.safetensors" for job in left}
    with worker_processes(processes) as pool:
        waiting = {pool.submit(run, plan, *job, snapshots[job], threads): job for job in left}
        for number, future in enumerate(as_completed(waiting), 1):
            name, seed = job = waiting[future]
            try:
                found = future.result()
            except Exception as error:  # noqa: BLE001 - a failed run is told and must not cost the others
                print(f"{number}/{len(left)} {name} seed {seed} failed: {type(error).__name__}: {error}", flush=True)
                failed.append(job)
                continue
            with locked(folder / f"{name}.jsonl"), atomic_write(folder / f"{name}.jsonl") as temporary:
                others = [old for old in stored(folder, name) if not (old["seed"] == seed and same(old, plan))]
                rows = sorted([*others, found], key=lambda row: int(row["seed"]))
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            snapshots[job].unlink(missing_ok=True)
            last, rest = found["points"][-1], (time.perf_counter() - started) / number * (len(left) - number)
            print(
                f"{number}/{len(left)} {name} seed {seed}: pass rate {last['test']:.3f} after {last['rollouts']:,} rollouts, "
                f"{last['steps']} steps, {last['seconds']:.0f} s; about {rest / 60:.0f} min left",
                flush=True,
            )
    return failed


def same(found: Run, plan: Plan) -> bool:
    """Return whether a stored run is of this plan and of the variant as it is now, all options and the agent included."""
    expected = json.loads(json.dumps(identity(plan, found["controller"], found["seed"])))
    return all(found[key] == value for key, value in expected.items())


def summarise(runs: dict[str, list[Run]], plan: Plan) -> dict[str, Any]:
    """Return the pass rates at the plan's rollouts and steps, and what it took to reach uniform's mean final pass rate.

    A run that never reaches it is censored: it counts with all that it spent, a lower bound; ``reached`` tells how many did.
    """
    level = float(np.mean([at(found, "rollouts", plan.rollouts)["test"] for found in runs["uniform"]]))
    record: dict[str, Any] = {"level": level, "controllers": {}, "curves": {}}
    for name, found in runs.items():
        crossings = [crossing(one, level) for one in found]
        reached = sum(hit for _, hit in crossings)
        row: dict[str, Any] = {"pass_rate": cell([at(one, "rollouts", plan.rollouts)["test"] for one in found], reached)}
        for unit in UNITS:
            row[unit] = cell([point[unit] for point, _ in crossings], reached)
        row["pass_rate_at_equal_steps"] = cell([at(one, "steps", plan.steps)["test"] for one in found], reached)
        row["choosing"] = float(np.mean([choosing(one, plan) for one in found]))
        row["signal"] = cell([float(np.mean([point["signal"] for point in one["points"][1:]])) for one in found], reached)
        found_r = [point["correlation"] for one in found for point in one["points"] if point["correlation"] is not None]
        row["correlation"] = float(np.mean(found_r)) if found_r else None
        row["runs"] = len(found)
        record["controllers"][name] = row
        record["curves"][name] = curve(found, plan)
    record["savings"] = savings(runs, level)
    record["by_difficulty"] = by_difficulty(runs, plan)
    return record


def at(found: Run, unit: str, limit: int) -> dict[str, Any]:
    """Return a run's last point within a limit of rollouts or steps."""
    within = [point for point in found["points"] if point[unit] <= limit]
    last: dict[str, Any] = within[-1]
    return last


def choosing(found: Run, plan: Plan) -> float:
    """Return the share of what a run was charged within its budget that went into choosing, not into training."""
    from dsenv.rlvr.training import Settings

    last = at(found, "rollouts", plan.rollouts)
    settings = Settings(**{**plan.settings, **VARIANTS[found["controller"]].settings})
    return 1 - float(last["rounds"] * settings.round_rollouts / last["rollouts"])


def crossing(found: Run, level: float) -> tuple[dict[str, float], bool]:
    """Return what a run had spent when its test pass rate came to the level, or all that it spent and False.

    Between the point before and the first one at the level, it is taken to have risen evenly.
    """
    before = None
    for point in found["points"]:
        if point["test"] >= level:
            if before is None:
                return {unit: point[unit] for unit in UNITS}, True
            share = (level - before["test"]) / (point["test"] - before["test"])
            return {unit: before[unit] + share * (point[unit] - before[unit]) for unit in UNITS}, True
        before = point
    return {unit: found["points"][-1][unit] for unit in UNITS}, False


def cell(values: Sequence[float], reached: int) -> dict[str, Any]:
    """Return a mean with its 95% Student interval, none for one run."""
    if len(values) < 2:
        return {"value": float(values[0]), "low": None, "high": None, "reached": reached}
    found = mean_interval(values)
    return {"value": found.value, "low": found.low, "high": found.high, "reached": reached}


def curve(found: Sequence[Run], plan: Plan) -> dict[str, Any]:
    """Return the mean test pass rate with its interval at even marks of rollouts; between two points a run rises evenly."""
    marks = np.arange(0, plan.rollouts + 1, plan.every)

    def even(one: Run, what: str) -> Any:
        return np.interp(marks, [point["rollouts"] for point in one["points"]], [point[what] for point in one["points"]])

    rates = [cell(column.tolist(), 0) for column in np.stack([even(one, "test") for one in found], 1)]
    return {
        **{unit: np.mean([even(one, unit) for one in found], 0).tolist() for unit in UNITS},
        **{end: [rate[end] for rate in rates] for end in ("value", "low", "high")},
    }


def savings(runs: dict[str, list[Run]], level: float) -> dict[str, Any]:
    """Return how much less than uniform each variant took to the level: 1 - ratio of means, with bootstrap intervals.

    Seeds are resampled on both sides; the level stays.
    """
    found = {name: [crossing(one, level)[0] for one in ones] for name, ones in runs.items()}
    rng = np.random.default_rng(0)
    record: dict[str, Any] = {}
    for name, points in found.items():
        record[name] = {}
        for unit in UNITS:
            ours, theirs = (np.array([point[unit] for point in side], float) for side in (points, found["uniform"]))
            draws = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1) for values in (ours, theirs)]
            interval = percentile_interval(1 - ours.mean() / theirs.mean(), 1 - draws[0] / draws[1])
            record[name][unit] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return record


def by_difficulty(runs: dict[str, list[Run]], plan: Plan) -> dict[str, Any]:
    """Return mean test pass rates of clusters that were hard, between and easy for the policy at the start."""
    start = np.array([np.nan if rate is None else rate for rate in runs["uniform"][0]["points"][0]["by_cluster"]])
    groups = {"below .2": start < 0.2, ".2 to .8": (start >= 0.2) & (start <= 0.8), "above .8": start > 0.8}
    record: dict[str, Any] = {"clusters": {name: int(inside.sum()) for name, inside in groups.items()}}
    rows = {"start": [runs["uniform"][0]["points"][0]]}
    rows |= {name: [at(one, "rollouts", plan.rollouts) for one in found] for name, found in runs.items()}
    for name, points in rows.items():
        rates = np.array([[np.nan if rate is None else rate for rate in point["by_cluster"]] for point in points]).mean(0)
        record[name] = {group: float(rates[inside].mean()) if inside.any() else None for group, inside in groups.items()}
    return record


def table(record: dict[str, Any]) -> str:
    """Return the results as a table.

    A mean with censored runs in it is a lower bound of what the level takes (≥); what a controller saves against uniform is
    then an upper bound (≤) where its own runs are censored, a lower one (≥) where uniform's are, neither (?) where both are.
    """
    lines = [
        "| controller | pass rate at equal rollouts | at equal steps | rollouts to uniform's level | steps | seconds "
        "| gradient passes | reached | rollouts saved | seconds saved | for choosing | groups with signal | correlation |",
        "|---" * 13 + "|",
    ]
    for name, row in record["controllers"].items():
        cells = [
            name,
            shown(row["pass_rate"], 3),
            shown(row["pass_rate_at_equal_steps"], 3),
            *("≥ " * censored(row) + shown(row[unit], 0) for unit in UNITS),
            f"{row['rollouts']['reached']} of {row['runs']}",
            *saved_cells(record, name),
            f"{row['choosing']:.2f}",
            f"{row['signal']['value']:.2f}",
            "" if row["correlation"] is None else f"{row['correlation']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short_table(record: dict[str, Any]) -> str:
    """Return some of the results in a few columns: the best of every family, with and without replay where that matters."""
    lines = [
        "| | pass rate at equal rollouts | rollouts to uniform's level | reached | rollouts saved | seconds saved |",
        "|---" * 6 + "|",
    ]
    for name, row in record["controllers"].items():
        if name in SHORT:
            reached = f"{row['rollouts']['reached']} of {row['runs']}"
            cells = [name, shown(row["pass_rate"], 3), "≥ " * censored(row) + shown(row["rollouts"], 0), reached]
            lines.append(f"| {' | '.join([*cells, *saved_cells(record, name)])} |")
    return "\n".join(lines)


def censored(row: dict[str, Any]) -> bool:
    """Return whether some runs of a controller never reached the level."""
    return bool(row["rollouts"]["reached"] < row["runs"])


def saved_cells(record: dict[str, Any], name: str) -> list[str]:
    """Return what a controller saved of rollouts and of seconds against uniform, each with the bound that it is."""
    if name == "uniform":
        return ["", ""]
    sides = censored(record["controllers"][name]), censored(record["controllers"]["uniform"])
    mark = {(False, False): "", (True, False): "≤ ", (False, True): "≥ ", (True, True): "? "}[sides]
    return [mark + shown(record["savings"][name][unit], 2) for unit in ("rollouts", "seconds")]


def difficulty_table(record: dict[str, Any]) -> str:
    """Return the pass rates by difficulty as a table."""
    groups = record["by_difficulty"]["clusters"]
    lines = [f"| | {' | '.join(f'{name} at the start ({count} clusters)' for name, count in groups.items())} |"]
    lines.append("|---" * (len(groups) + 1) + "|")
    for name, row in record["by_difficulty"].items():
        if name != "clusters":
            lines.append(f"| {name} | {' | '.join('' if row[g] is None else f'{row[g]:.3f}' for g in groups)} |")
    return "\n".join(lines)


def shown(found: dict[str, Any], digits: int) -> str:
    """Return a value with its interval."""
    text = f"{found['value']:,.{digits}f}"
    return text if found["low"] is None else f"{text} [{found['low']:,.{digits}f}, {found['high']:,.{digits}f}]"


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the mean test pass rate against rollouts, steps and seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    families = list(dict.fromkeys(name.removesuffix("_replay") for name in record["curves"]))
    for axes, unit in zip(figure.subplots(1, 3, sharey=True), UNITS[:3], strict=True):
        for name, curve in record["curves"].items():
            number, replaying = families.index(name.removesuffix("_replay")), name.endswith("_replay")
            style: dict[str, Any] = {
                "color": f"C{number % 10}" if number else "black",
                "linestyle": "--" if replaying else "-",
            }
            style |= {"marker": "." if number > 10 else "", "linewidth": 2.4 if name in ("uniform", NAMED) else 1}
            axes.plot(curve[unit], curve["value"], label=name, **style)
            if curve["low"][0] is not None and name in ("uniform", NAMED):
                axes.fill_between(curve[unit], curve["low"], curve["high"], color=style["color"], alpha=0.12, linewidth=0)
        axes.axhline(record["level"], color="0.6", linewidth=0.8)
        axes.set_xlabel({"rollouts": "rollouts charged", "steps": "optimiser steps", "seconds": "training seconds"}[unit])
    figure.axes[0].set_ylabel("test pass rate (greedy)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize="small", frameon=False, loc="outside right center")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    """Run what is missing, summarise, write the record and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--controllers", nargs="+", default=list(VARIANTS), metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short runs, two seeds at most")
    parser.add_argument("--tuning", action="store_true", help="other questions and other seeds: to choose settings on")
    parser.add_argument("--questions", default="arithmetic", help="or gsm8k, a folder, a hub name (default: %(default)s)")
    parser.add_argument("--question-seed", type=int, default=None, help="of arithmetic questions (default: 0, for tuning 1)")
    parser.add_argument("--policy", default="arithmetic", help="or the folder or hub name of a causal checkpoint")
    parser.add_argument("--rollouts", type=int, default=None, help=f"a run's budget (default: {Plan.rollouts:,})")
    parser.add_argument("--max-new-tokens", type=int, default=Plan.max_new_tokens)
    parser.add_argument("--max-prompt-tokens", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--group", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=None, help="published for 1.5B to 7B models: 1e-6")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time; 1 on a GPU")
    parser.add_argument("--json", type=Path, default=None, help="the record; runs are stored in a folder of its name")
    options = parser.parse_args()
    check_whole("seeds", options.seeds, 1)
    check_whole("jobs", options.jobs, 1)
    names = list(dict.fromkeys(["uniform", *(one_of("controller", name, VARIANTS) for name in options.controllers)]))
    plan = plan_of(options)
    first = FIRST_TUNING_SEED if options.tuning else 0
    seeds = range(first, first + (min(options.seeds, 2) if options.quick else options.seeds))
    default = RESULTS / "rlvr.json" if plan == Plan() else Path("runs") / f"rlvr-{digest_of(plan)}.json"
    target = options.json or default
    folder = target.with_suffix("")
    failed = perform(plan, [(name, seed) for seed in seeds for name in names], options.jobs, folder)
    runs = {name: [found for found in stored(folder, name) if same(found, plan)] for name in VARIANTS}
    runs = {name: found for name, found in runs.items() if found}
    if "uniform" not in runs:
        sys.exit("no run of uniform is done: there is nothing to compare with")
    told = {name: value for name, value in vars(options).items() if name not in ("json", "jobs") and value is not None}
    told["controllers"] = " ".join(options.controllers)
    record = {**provenance("benchmarks.rlvr", told), **summarise(runs, plan)}
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(record, PLOT if target == RESULTS / "rlvr.json" else target.with_suffix(".png"))
    print(table(record), difficulty_table(record), f"written to {target}", sep="\n\n")
    if not record["level"]:
        print("\nThe policy answers no test question: nothing was learned, and every run is at that level from the start.")
    if failed:
        sys.exit(f"{len(failed)} runs failed; the same command tries them again")


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the command line asks for."""
    plan = replace(Plan(), **{**(QUICK if options.quick else {}), **(TUNING if options.tuning else {})})
    asked = {name: getattr(options, name) for name in ("batch", "group", "learning_rate")}
    return replace(
        plan,
        questions=options.questions,
        policy=options.policy,
        question_seed=plan.question_seed if options.question_seed is None else options.question_seed,
        rollouts=options.rollouts or plan.rollouts,
        max_new_tokens=options.max_new_tokens,
        max_prompt_tokens=options.max_prompt_tokens,
        settings={**plan.settings, **{name: value for name, value in asked.items() if value is not None}},
    )


if __name__ == "__main__":
    with ending_cleanly():
        main()
