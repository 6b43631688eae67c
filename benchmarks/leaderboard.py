"""The leaderboard: agents and searches on every problem at equal budgets of evaluations.

``python -m benchmarks.leaderboard --agents swap maskable_ppo@selection my_module:solve --seeds 10 --jobs 2``

One run to the largest budget gives the rows of all smaller ones. Every run's rows are stored when it is done
(``results/leaderboard/<problem>.jsonl``), and a second call goes on where the first was stopped; a run that failed is
stored as failed and tried again by the next call. Behind an @ stands a variant of the run: ``selection`` (of the run's
finalists the best on the selection rows), ``lower_confidence`` (the agent is shown a lower confidence bound of Φ),
``reward_rows`` (each episode is paid on half of the reward rows, drawn anew). Φ of a row is always the problem's own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import agents
from benchmarks.records import RESULTS, provenance, read_record
from benchmarks.workers import worker_processes
from dsenv.errors import InputError, check_whole, ending_cleanly, one_of
from dsenv.evaluation import Failure, Result, Row, find_agent, load_rows, run_agent, save_results
from dsenv.files import atomic_write, locked
from dsenv.leaderboard import (
    PROBLEMS,
    SMALL,
    SUMMARY,
    Constants,
    environment_of,
    load_constants,
    summarise,
)
from dsenv.search import SEARCHES, Agent

EVALUATIONS = (256, 1024, 4096, 16384)
SEEDS = 10
QUICK: dict[str, Any] = {
    "ids": [*SMALL, "DataSelect-Synthetic-v0"],
    "agents": ["best_of", "greedy", "swap"],
    "evaluations": [256],
    "seeds": 2,
}
PLOT = Path(__file__).parent.parent / "docs" / "leaderboard.png"

Job = tuple[str, str, int]  # problem, agent, seed


def known_agents() -> dict[str, Callable[[], Agent]]:
    """Return the loaders of the reference agents; none is imported here."""
    return {name: partial(agents.load, name) for name in agents.AGENTS}


def run_job(job: Job, evaluations: Sequence[int]) -> list[Row]:
    """Return the rows of one run, or its failures, one a budget."""
    problem, name, seed = job
    id, keywords = environment_of(problem, seed)
    try:
        agent, variant = find_agent(name, known_agents())
        found = run_agent(agent, id, name=name, seed=seed, evaluations=evaluations, variant=variant, **keywords)
        return list(found)
    except Exception as error:  # noqa: BLE001 - whatever ends an agent's run is shown as this run's failure
        text = f"{type(error).__name__}: {error}"
        return [Failure(id, keywords, name, seed, budget, text) for budget in sorted(evaluations)]


def planned(problems: Sequence[str], names: Sequence[str], seeds: int, evaluations: Sequence[int], folder: Path) -> list[Job]:
    """Return the runs that are not stored yet, seeds outermost."""
    done = {problem: _budgets(rows_file(folder, problem)) for problem in problems}
    return [
        (problem, name, seed)
        for seed in range(seeds)
        for problem in problems
        for name in names
        if not set(evaluations) <= done[problem].get((name, seed), set())
    ]


def perform(jobs: Sequence[Job], evaluations: Sequence[int], processes: int, folder: Path) -> None:
    """Do the runs and store the rows of each when it is done."""
    started = time.perf_counter()
    for number, (job, rows) in enumerate(_results(jobs, evaluations, processes), 1):
        store_run(folder, job, rows)
        elapsed = time.perf_counter() - started
        left = elapsed / number * (len(jobs) - number)
        last = rows[-1]
        shown = f"failed: {last.failed}" if isinstance(last, Failure) else f"{last.score:.4f} in {last.seconds:.0f} s"
        print(f"{number}/{len(jobs)} {' '.join(map(str, job))}: {shown}; about {_duration(left)} left", flush=True)


def store_run(folder: Path, job: Job, rows: Sequence[Row]) -> None:
    """Put the rows of a run in the place of what is stored of it, atomically; several programs may store at once."""
    path = rows_file(folder, job[0])
    with locked(path):
        stored = load_rows(path) if path.is_file() else []
        before = {row.budget: row for row in stored if (row.agent, row.seed) == job[1:] and isinstance(row, Result)}
        if any(isinstance(row, Failure) for row in rows):  # what a run to a smaller budget has found stays true
            rows = [*before.values(), *(row for row in rows if row.budget not in before)]
        else:
            rows = [*rows, *(row for budget, row in before.items() if budget not in {row.budget for row in rows})]
        others = [row for row in stored if (row.agent, row.seed) != job[1:]]
        save_results(sorted([*others, *rows], key=lambda row: (row.agent, row.seed, row.budget)), path)


def rows_file(folder: Path, problem: str) -> Path:
    """Return where the rows of a problem are."""
    return folder / f"{problem.replace(' ', '_')}.jsonl"


def stored_rows(folder: Path) -> list[Row]:
    """Return all rows of a folder."""
    return [row for path in sorted(folder.glob("*.jsonl")) for row in load_rows(path)]


def write_summary(path: Path, folder: Path, constants: Constants, options: dict[str, Any]) -> dict[str, Any]:
    """Summarise the stored rows; what the record holds of transfer stays."""
    origin = provenance("benchmarks.leaderboard", options)
    with locked(path):
        record = {**read_record(path), **origin, **summarise(stored_rows(folder), constants)}
        store_record(path, record)
    return record


def store_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record; the committed one is also what ``dsenv leaderboard`` shows, and so has a copy in the package."""
    for place in (path, SUMMARY) if path == RESULTS / "leaderboard.json" else (path,):
        with atomic_write(place) as temporary:
            temporary.write_text(compact(record), encoding="utf-8")


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the normalised score over the problems with headroom against evaluations, one line an agent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in record["summary"] if row["id"] == "headroom" and row["iqm"] is not None]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: int(row["evaluations"])):
        lines.setdefault(row["agent"], []).append(row)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    order = sorted(lines, key=lambda agent: -lines[agent][-1]["iqm"])
    for number, agent in enumerate(order):
        x = [row["evaluations"] for row in lines[agent]]
        style: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        axes.plot(x, [row["iqm"] for row in lines[agent]], marker="o", markersize=3, label=agent, **style)
        low, high = ([row[end] for row in lines[agent]] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    marks = sorted({row["evaluations"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.set_xlabel("proxy evaluations")
    axes.set_ylabel("normalised score (0 = proportional, 1 = best known), IQM")
    if order:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main(given: Sequence[str] | None = None) -> None:
    """Run what is not stored yet, then summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", nargs="+", help="problems; default: all")
    parser.add_argument("--agents", nargs="+", help="searches, reference agents, module:function; default: all of ours")
    parser.add_argument("--evaluations", nargs="+", type=int, help="budgets")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="cheap problems, three searches, two seeds")
    parser.add_argument("--summary", action="store_true", help="run nothing, summarise what is stored")
    parser.add_argument("--plot", type=Path, nargs="?", const=PLOT, help="draw the picture too")
    parser.add_argument("--json", type=Path, help="the summary; rows go to the folder leaderboard beside it")
    arguments = parser.parse_args(given)
    defaults = QUICK if arguments.quick else {}
    problems = [one_of("id", id, PROBLEMS) for id in arguments.ids or defaults.get("ids", PROBLEMS)]
    names = arguments.agents or defaults.get("agents", [*SEARCHES, *agents.AGENTS])
    evaluations = sorted(arguments.evaluations or defaults.get("evaluations", EVALUATIONS))
    seeds = defaults.get("seeds", SEEDS) if arguments.seeds is None else arguments.seeds
    for what, value in (("seeds", seeds), ("jobs", arguments.jobs), *(("evaluations", mark) for mark in evaluations)):
        check_whole(what, value, 1)
    path = arguments.json or (Path(tempfile.mkdtemp()) if arguments.quick else RESULTS) / "leaderboard.json"
    folder = path.parent / "leaderboard"
    if not arguments.summary:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes that run agents, and by their torch
        for name in names:
            find_agent(name, {known: _nothing for known in agents.AGENTS})  # a wrong name fails here, not hours later
        jobs = planned(problems, names, seeds, evaluations, folder)
        perform(jobs, evaluations, arguments.jobs, folder)
    try:
        constants: Constants = load_constants()
    except InputError as error:
        constants = {}
        print(f"no normalised scores: {error}")
    options = {
        name: " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("json", "plot", "jobs")
    }
    record = write_summary(path, folder, constants, options)
    groups = [id for id in ("headroom", "small") if any(row["id"] == id for row in record["summary"])]
    print(table(record, groups or list(dict.fromkeys(row["id"] for row in record["summary"]))))
    print(path)
    if arguments.plot:
        draw(record, arguments.plot)
        print(arguments.plot)


def table(record: dict[str, Any], ids: Sequence[str] = ("headroom", "small")) -> str:
    """Return the normalised scores of groups of problems, or of problems, as a Markdown table of agents by evaluations."""
    rows = [row for row in record["summary"] if row["id"] in ids]
    marks = sorted({row["evaluations"] for row in rows})
    head = ["problems", "agent", "seeds", *(f"{mark:,}" for mark in marks), "seconds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["id"], row["agent"]), {})[row["evaluations"]] = row
    order = sorted(cells, key=lambda key: (key[0], -max(cells[key]), -(cells[key][max(cells[key])]["iqm"] or -np.inf)))
    for id, agent in order:
        by_mark = cells[id, agent]
        last = by_mark[max(by_mark)]
        seeds = "-".join(str(count) for count in sorted({row["seeds"] for row in by_mark.values()}))
        failed = max(row.get("failed", 0) for row in by_mark.values())
        seconds = "" if last["seconds"] is None else f"{last['seconds']:.1f}"
        shown = [id, agent, f"{seeds}{f' ({failed} failed)' if failed else ''}", *(_cell(by_mark.get(mark)) for mark in marks)]
        lines.append(f"| {' | '.join([*shown, seconds])} |")
    return "\n".join(lines)


def difference_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return differences of agents, on reward and on test rows, as a Markdown table."""
    lines = ["| evaluations | agent | minus | reward | test |", "|---|---|---|---|---|"]
    found: dict[tuple[int, str, str], dict[str, str]] = {}
    for row in rows:
        shown = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        found.setdefault((row["evaluations"], row["agent"], row["against"]), {})[row["split"]] = shown
    for (mark, agent, against), splits in sorted(found.items()):
        lines.append(f"| {mark:,} | {agent} | {against} | {splits.get('reward', '')} | {splits.get('test', '')} |")
    return "\n".join(lines)


def transfer_table(record: dict[str, Any]) -> str:
    """Return what the policy is worth on datasets it never saw, as a Markdown table."""
    lines = ["| dataset left out | agent | evaluations | against | difference |", "|---|---|---|---|---|"]
    for row in record["transfer"]:
        shown = f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        lines.append(f"| {row['held_out']} | {row['agent']} | {row['evaluations']} | {row['against']} | {shown} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["iqm"] is None:
        return "" if row is None or row["score"] is None else f"Φ {row['score']:.4f}"
    return f"{row['iqm']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _results(jobs: Sequence[Job], evaluations: Sequence[int], processes: int) -> Iterator[tuple[Job, list[Row]]]:
    if processes == 1 or not jobs:
        yield from ((job, run_job(job, evaluations)) for job in jobs)
        return
    with worker_processes(processes) as pool:
        futures = {pool.submit(run_job, job, evaluations): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _budgets(path: Path) -> dict[tuple[str, int], set[int]]:
    """Return the budgets stored of each agent and seed that did not fail."""
    budgets: dict[tuple[str, int], set[int]] = {}
    for row in load_rows(path) if path.is_file() else []:
        if not isinstance(row, Failure):
            budgets.setdefault((row.agent, row.seed), set()).add(row.budget)
    return budgets


def compact(record: dict[str, Any]) -> str:
    """Return JSON with one line for each row of the tables."""
    parts = []
    for key, value in sorted(record.items()):
        rows = ",\n".join(f"  {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        parts.append(f" {json.dumps(key)}: " + (f"[\n{rows}\n ]" if rows else json.dumps(value, sort_keys=True)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _nothing() -> Agent:
    return SEARCHES["uniform"]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


if __name__ == "__main__":
    with ending_cleanly():
        main()
