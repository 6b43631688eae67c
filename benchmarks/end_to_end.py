"""From raw rows to a table: build a task, choose 5% by several methods, fine-tune the target on each, score on test.

``python -m benchmarks.end_to_end --dataset googleplay --data-dir FOLDER --pool 10000 --agent maskable_ppo --target minilm``

Every finished step is stored, and a second call goes on where the first was stopped. A seed draws the rows (or the search,
or the agent) and the target's head, row order and dropout. The full pool is trained with one seed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.training import train
from benchmarks.records import RESULTS, mean_cell, provenance, read_record, store_block
from dsenv.baselines import class_mix_rows, model_of_rows, random_rows
from dsenv.building import build_task
from dsenv.dataset import Ints, TextDataset, load_dataset
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, ending_cleanly
from dsenv.evaluation import rollout, score_model
from dsenv.files import cache_folder
from dsenv.finetuning import fine_tune
from dsenv.search import search
from dsenv.seeding import generator
from dsenv.task import SelectionTask

SEEDS = (0, 1, 2)
FULL = "full pool"
SEARCH_EVALUATIONS = 4096
AGENT_EVALUATIONS = 2048
EPOCHS = 3
FULL_EPOCHS = 1

log = logging.getLogger(__name__)


def main() -> None:
    """Run what is not stored yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="googleplay")
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--pool", type=int, default=10_000, help="training rows to choose from (a stratified sample)")
    parser.add_argument("--label-noise", type=float, default=0.0)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--agent", default="maskable_ppo", choices=["dqn", "ppo", "maskable_ppo"])
    parser.add_argument("--target", default="minilm")
    parser.add_argument("--json", type=Path, default=RESULTS / "end_to_end.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("sentence_transformers", "faiss", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options = {k: v for k, v in vars(arguments).items() if k not in ("data_dir", "json")}
    key = " ".join(f"{name}={value}" for name, value in options.items())
    block = read_record(arguments.json).get(key)
    if block is None:
        block = {"options": options, **provenance("benchmarks.end_to_end", options), "runs": {}}
    dataset = load_dataset(arguments.dataset, arguments.data_dir)
    if arguments.label_noise:
        dataset = dataset.with_label_noise(arguments.label_noise)
    task = _build(dataset, arguments, block)
    env = DataSelectEnv(task, budget=arguments.budget)
    methods = [(name, seed) for name in ("random rows", "class-mix rows", "swap", arguments.agent) for seed in SEEDS]
    for name, seed in [*methods, (FULL, 0)]:
        runs = block["runs"].setdefault(name, {})
        if str(seed) not in runs:
            runs[str(seed)] = _run(name, seed, dataset, env, arguments)
            store_block(arguments.json, key, block)
    print(table(block))


def _build(dataset: TextDataset, arguments: argparse.Namespace, block: dict[str, Any]) -> SelectionTask:
    """Build the task with a cache of its own, so that the seconds of the first build are true."""
    reported = "accuracy" if arguments.label_noise else "macro_f1"
    cache = cache_folder() / "end_to_end" / hashlib.sha256(repr(block["options"]).encode()).hexdigest()[:16]
    if "seconds" in block:
        task = build_task(dataset, max_rows=arguments.pool, reported=reported, cache_dir=cache)
        if task.digest != block["task_digest"]:
            raise InputError(
                f"the stored runs are of task {block['task_digest']}, this build is {task.digest}: use another --json"
            )
        return task
    rows = arguments.pool + len(dataset.validation) + len(dataset.test)
    log.info("encoding %d texts: about %d to %d minutes on two cores", rows, rows // 7200, rows // 3600 + 1)
    resumed = cache.exists()
    started = time.perf_counter()
    build_task(dataset, max_rows=arguments.pool, reported=reported, cache_dir=cache)
    total = time.perf_counter() - started
    started = time.perf_counter()
    task = build_task(dataset, max_rows=arguments.pool, reported=reported, cache_dir=cache)
    cluster = time.perf_counter() - started
    block["seconds"] = {"encode": total - cluster, "cluster": cluster, "encode_was_resumed": resumed}
    block["task_digest"] = task.digest
    return task


def _run(name: str, seed: int, dataset: TextDataset, env: DataSelectEnv, arguments: argparse.Namespace) -> dict[str, Any]:
    task, plan = env.task, env.plan
    log.info("%s, seed %d: choosing rows", name, seed)
    started = time.perf_counter()
    count = plan.budget_rows
    score: float | None = None
    evaluations = 0
    if name == FULL:
        numbers: Ints = np.arange(len(task.train))
    elif name == "random rows":
        numbers = random_rows(task, count, generator(seed, "baseline rows"))
    elif name == "class-mix rows":
        numbers, evaluations = class_mix_rows(task, count, env.metric, generator(seed, "baseline rows")), 11
    elif name == "swap":
        found = search(env.proxy, "swap", evaluations=SEARCH_EVALUATIONS, seed=seed)
        numbers, score, evaluations = plan.rows(found.counts), found.score, found.used
    else:
        counts, score = _train_agent(arguments.agent, seed, env, arguments.budget)
        numbers, evaluations = plan.rows(counts), AGENT_EVALUATIONS
    seconds = time.perf_counter() - started
    ridge = score_model(task, model_of_rows(task, numbers))
    epochs = FULL_EPOCHS if name == FULL else EPOCHS
    target = fine_tune(task.train_rows[numbers], dataset, arguments.target, seeds=[seed], epochs=epochs)
    run = target.runs[0]
    labels = task.train.labels[numbers]
    return {
        "rows": len(numbers),
        "class_shares": (np.bincount(labels, minlength=task.classes) / len(labels)).tolist(),
        "reward_score": score,
        "evaluations": evaluations,
        "ridge": {split: {m: ridge[split][m] for m in ("accuracy", "macro_f1")} for split in ridge},
        "target": {"accuracy": run.accuracy, "macro_f1": run.macro_f1},
        "recipe": target.recipe,
        "fit": asdict(run.fit),
        "seconds": {"search": seconds, "train": run.fit.seconds, "test": run.seconds_test},
    }


def _train_agent(agent: str, seed: int, env: DataSelectEnv, budget: float) -> tuple[Ints, float]:
    """Train on the task and return the greedy rollout's counts: the policy's, not the best met on the way.

    It is played with the default dense reward, whose observation shows a score that stood still in training.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_model = importlib.import_module(f"agents.{agent}").make_model
    keywords: dict[str, Any] = {"task": env.task, "budget": budget}
    trained = train(make_model, "DataSelect-v0", seed=seed, evaluations=AGENT_EVALUATIONS, **keywords)
    torch.set_num_threads(threads)
    played = gym.make("DataSelect-v0", **keywords)
    rollout(trained.model, played, seed=seed)
    assert isinstance(played.unwrapped, DataSelectEnv)
    counts = played.unwrapped.counts
    return counts, float(env.proxy.score(counts[None])[0])


def table(block: dict[str, Any]) -> str:
    """Return one block as a Markdown table: mean and half of the 95% interval over seeds, on test rows."""
    columns = ["rows chosen by", "seeds", "rows", "ridge accuracy", "ridge macro-F1", "target accuracy", "target macro-F1"]
    lines = [f"| {' | '.join([*columns, 'search s', 'train s'])} |", "|---" * 9 + "|"]
    for name, by_seed in block["runs"].items():
        runs = list(by_seed.values())
        rows = "-".join(str(count) for count in sorted({run["rows"] for run in runs}))
        ridge = [mean_cell([run["ridge"]["test"][m] for run in runs]) for m in ("accuracy", "macro_f1")]
        target = [mean_cell([run["target"][m] for run in runs]) for m in ("accuracy", "macro_f1")]
        spent = [f"{np.mean([run['seconds'][stage] for run in runs]):.0f}" for stage in ("search", "train")]
        lines.append(f"| {' | '.join([name, ', '.join(by_seed), rows, *ridge, *target, *spent])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with ending_cleanly():
        main()
