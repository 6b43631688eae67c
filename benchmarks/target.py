"""Is a selection worth it on the target? Choose rows by many methods, train the target on them, score the test rows.

``python -m benchmarks.target --dataset googleplay --label-noise 0.4 --target minilm --jobs 2``

Two targets: ``head`` (logistic regression on frozen full vectors of the very rows) and ``minilm`` (all-MiniLM-L6-v2
itself; or any checkpoint). Selections are trained for three epochs, the full pool for one. Every run is stored when it is
done, one file a setting in ``benchmarks/results/target``, and a second call goes on where the first was stopped;
``--summary`` makes ``benchmarks/results/target.json`` and its tables of all of them. A seed draws the rows and the
target's head, row order and dropout; an instance the task's row order and reward / selection cut.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, provenance
from benchmarks.target_report import summarise, tables
from benchmarks.target_runs import (
    METHODS,
    VARIANTS,
    Job,
    Setting,
    build_seconds,
    finalists_of,
    load_setting,
    one_thread,
    pack,
    run_job,
)
from benchmarks.workers import worker_processes
from dsenv.errors import InputError, ending_cleanly, one_of
from dsenv.files import atomic_write
from dsenv.finalists import SAMPLE, contenders
from dsenv.search import SEARCHES
from dsenv.selectors import SELECTORS

RUNS = RESULTS / "target"
SEEDS = 5
INSTANCES = 3
FINE_TUNED = ("random", "class_mix", "full", "guided")
NEEDS_TARGET = ("less", "trak")  # gradients of the target: minutes a selection
NEEDS_LANGUAGE_MODEL = ("ask_llm", "ufo", "data_whisperer")
FINALIST_SEEDS = (1000, 1001)  # not those whose runs are reported
TRAINED_A_SECOND = {"head": 5_000, "other": 22}  # rows, one core, for the estimate before the first run

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not stored yet, then print the setting's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="googleplay", help="a folder below DSENV_DATA_DIR, or synthetic-texts")
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--target-source", help="a source that reward, selection and test rows come from")
    parser.add_argument("--budget", type=float, nargs="+", default=[0.05])
    parser.add_argument("--pool", type=int, default=10_000, help="training rows to choose from (a stratified sample)")
    parser.add_argument("--encoder", default="minilm-fast", help="of the vectors that choosing reads")
    parser.add_argument("--target", default="head", help="head, minilm, or a checkpoint by name or folder")
    parser.add_argument("--methods", nargs="+", help="default: all for the head, the main ones for a fine-tuned target")
    parser.add_argument("--epochs", type=int, help="default: 3 on selections, 1 on the full pool")
    parser.add_argument("--short-epochs", type=int, default=1, help="of the fine-tunes that decide between finalists")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--instances", type=int, help=f"default: {INSTANCES} for the head; else a seed is an instance too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes, one thread each")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--json", type=Path, default=RESULTS / "target.json", help="what --summary writes")
    parser.add_argument("--summary", action="store_true", help="summarise all stored runs and run nothing")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("sentence_transformers", "faiss", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not given.summary:
        setting = Setting(given.dataset, given.label_noise, given.target_source, given.pool, given.encoder)
        run(setting, list(jobs_of(setting, given)), given.runs, given.jobs)
        for budget in given.budget if "two_stage" in (given.methods or ()) else ():
            run(setting, two_stage(setting, given, budget), given.runs, given.jobs)
    summary = summarise([read_runs(path) for path in sorted(given.runs.glob("*.jsonl"))])
    if given.summary:
        with atomic_write(given.json) as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(tables(summary))


def jobs_of(setting: Setting, given: argparse.Namespace) -> Iterator[Job]:
    """Yield the runs that were asked for, seed after seed, so that an interrupted call leaves whole seeds."""
    head = given.target == "head"
    cheap = [name for name in dict.fromkeys((*SELECTORS, *VARIANTS)) if name not in (*NEEDS_TARGET, *NEEDS_LANGUAGE_MODEL)]
    beside = ["reward_rows", *["clean_rows"] * bool(setting.noise)]
    beside += ["source_rows", "nearest_rows"] * bool(setting.target_source)
    methods = given.methods or ([*cheap, "swap", "guided", "finalist_by_head", "full", *beside] if head else FINE_TUNED)
    for method in methods:
        one_of("method", method, [*SELECTORS, *SEARCHES, *METHODS])
    for seed in range(given.seeds):
        for instance in range(given.instances or INSTANCES) if head else [seed]:
            for budget in given.budget:
                for method in (name for name in methods if name != "two_stage"):
                    whole = method == "full"
                    if whole and (budget != given.budget[0] or (head and seed)):
                        continue  # nothing is drawn, and the head's optimum is unique
                    epochs = given.epochs or (1 if method in ("full", "full_equal_steps") else 3)
                    yield Job(
                        setting, given.target, method, seed, instance, 1.0 if whole else budget, epochs, device=given.device
                    )


def two_stage(setting: Setting, given: argparse.Namespace, budget: float) -> list[Job]:
    """Let the target decide between finalists, round by round, and return the jobs that train it on the winner's rows."""
    finalists = [finalist.digest for finalist in finalists_of(setting, budget)[0]]
    common: dict[str, Any] = {"budget": budget, "instance": 0, "device": given.device}
    short = Job(setting, given.target, "finalist", 0, epochs=given.short_epochs, **common)
    rules = [finalists, short.options, given.short_epochs, SAMPLE]
    common["contest"] = contest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]

    def left(seeds: Sequence[int]) -> list[str]:
        scores: dict[str, list[float]] = {finalist: [] for finalist in finalists}
        for line in read_runs(given.runs / f"{setting.name}.jsonl")[1:]:
            asked = (line["target"], line["method"], line.get("contest")) == (given.target, "finalist", contest)
            if asked and line["seed"] in seeds:
                scores[line["finalist"]].append(line["selection"])
        return [finalists[number] for number in contenders([scores[finalist] for finalist in finalists])]

    for place, seed in enumerate(FINALIST_SEEDS):
        jobs = [
            Job(setting, given.target, "finalist", seed, epochs=given.short_epochs, finalist=finalist, **common)
            for finalist in left(FINALIST_SEEDS[:place])
        ]
        run(setting, jobs, given.runs, given.jobs)
    winner = left(FINALIST_SEEDS)[0]
    epochs = given.epochs or 3
    return [
        Job(setting, given.target, "two_stage", seed, epochs=epochs, finalist=winner, **common) for seed in range(given.seeds)
    ]


def run(setting: Setting, jobs: list[Job], folder: Path, workers: int) -> None:
    """Do the jobs whose results are not stored; one call at a time for a setting.

    Raises:
        InputError: where the stored runs are of another setting or pool.
    """
    path = folder / f"{setting.name}.jsonl"
    lines = read_runs(path)
    if not lines:
        log.info("%s: encoding the texts", setting.name)
        with worker_processes(1, one_thread) as pool:
            seconds = pool.submit(build_seconds, setting).result()
        given = {"label_noise" if name == "noise" else name: value for name, value in vars(setting).items() if value}
        facts = provenance("benchmarks.target", given)
        labels = pack(load_setting(setting).test.labels)
        lines = [{"setting": vars(setting), "metric": setting.metric, "test_labels": labels, "seconds": seconds, **facts}]
        store_runs(path, lines)
    if lines[0]["setting"] != vars(setting):
        raise InputError(f"{path.name} holds runs of {lines[0]['setting']}, not of {vars(setting)}: give another --runs")
    stored = [{k: line.get(k) for k in jobs[0].key} for line in lines[1:]] if jobs else []
    left = [job for job in jobs if job.key not in stored]
    if not left:
        return
    rows = sum(job.epochs * job.budget * setting.pool for job in left)
    speed = TRAINED_A_SECOND["head" if all(job.target == "head" for job in left) else "other"] * workers
    log.info("%s: %d runs to go, about %.0f minutes of training", setting.name, len(left), rows / speed / 60)
    started = time.monotonic()
    for done, found in enumerate(work(left, workers), 1):
        lines = [*read_runs(path), found]
        pools = sorted({line["pool_digest"] for line in lines[1:]})
        if len(pools) > 1:
            raise InputError(f"{path.name} holds runs of another pool: {', '.join(pools)}; give another --runs")
        store_runs(path, lines)
        value = found["test"][setting.metric] if "test" in found else found["selection"]
        log.info("%d of %d, %.0f s: %s seed %d instance %d: %.4f", done, len(left), time.monotonic() - started,
                 found["method"], found["seed"], found["instance"], value)  # fmt: skip


def work(jobs: list[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the results as they come."""
    if workers == 1:
        one_thread()
        yield from map(run_job, jobs)
        return
    with worker_processes(workers, one_thread) as pool:
        for future in as_completed([pool.submit(run_job, job) for job in jobs]):
            yield future.result()


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return what is stored: first the setting with its build, then one line a run."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def store_runs(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write all lines, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    with ending_cleanly():
        main()
