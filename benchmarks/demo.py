"""The whole way in a few minutes: ``python -m benchmarks.demo`` (``make demo``).

(a) Masked PPO and DQN learn to select on a bundled task, beside baselines and searches. (b) Synthetic texts are encoded,
clustered and selected from, and the real all-MiniLM-L6-v2 is fine-tuned on the selection, on random rows and on everything.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import time

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents.training import train
from benchmarks.records import mean_cell
from dsenv.baselines import class_mix_rows, model_of_rows, random_rows
from dsenv.building import build_task
from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.evaluation import evaluate, score_model
from dsenv.finetuning import TargetResult, fine_tune
from dsenv.proxies.ridge import score_weights
from dsenv.search import random_counts, search
from dsenv.seeding import generator
from dsenv.selection import Selection
from dsenv.synthetic import synthetic_texts

ID = "DataSelect-GooglePlay-v0"
SEEDS = (0, 1, 2)
EVALUATIONS = 512
SEARCH_EVALUATIONS = 4096
AGENTS = ("maskable_ppo", "dqn")

console = Console()


def select_on_reviews() -> None:
    """Train agents on the bundled Google Play task and print them beside what needs no learning."""
    console.rule(f"(a) agents on {ID}: real app reviews, as vectors; seeds {SEEDS}")
    env = gym.make(ID).unwrapped
    assert isinstance(env, DataSelectEnv)
    task, plan = env.task, env.plan
    count = plan.budget_rows
    rows: dict[str, tuple[list[Ints], str]] = {}

    def rng(seed: int) -> np.random.Generator:
        return generator(seed, "baseline rows")

    rows["uniform picks"] = ([plan.rows(random_counts(plan, rng(s))) for s in SEEDS], "1")
    rows["random rows"] = ([random_rows(task, count, rng(s)) for s in SEEDS], "0")
    rows["class-mix rows"] = ([class_mix_rows(task, count, env.metric, rng(s)) for s in SEEDS], "11")
    for method in ("best_of", "greedy", "swap"):
        found = [search(env.proxy, method, evaluations=SEARCH_EVALUATIONS, seed=s) for s in SEEDS]
        rows[method] = ([plan.rows(f.counts) for f in found], str(found[0].used))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for agent in AGENTS:
        make_model = importlib.import_module(f"agents.{agent}").make_model
        chosen = []
        for seed in SEEDS:
            console.print(f"{agent}, seed {seed}: {EVALUATIONS} episodes of {plan.picks} picks")
            trained = train(make_model, ID, seed=seed, evaluations=EVALUATIONS, progress=console.is_terminal)
            result = evaluate(trained.model, ID, seeds=[seed], **trained.keywords)[0]
            chosen.append(plan.rows(np.array(result.counts)))
        rows[f"{agent} (greedy rollout)"] = (chosen, str(EVALUATIONS))
    torch.set_num_threads(threads)
    rows["full data"] = ([np.arange(len(task.train))], "0")
    table = Table("rows chosen by", "rows", "evaluations", f"reward: {env.metric}", "test accuracy", "test macro-F1")
    for name, (draws, evaluations) in rows.items():
        models = [model_of_rows(task, numbers) for numbers in draws]
        scores = [score_model(task, model) for model in models]
        reward = [float(score_weights(task, model, task.reward, env.metric)) for model in models]
        test = [mean_cell([s["test"][m] for s in scores]) for m in ("accuracy", "macro_f1")]
        table.add_row(name, str(len(draws[0])), evaluations, mean_cell(reward), *test)
    console.print(table)


def fine_tune_on_texts() -> None:
    """Build a task of synthetic texts, select 5%, fine-tune MiniLM on it, on random rows and on everything."""
    console.rule("(b) synthetic texts: build, select 5%, fine-tune all-MiniLM-L6-v2")
    dataset = synthetic_texts(rows=2_000, held_out=400)
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        task = build_task(dataset, cache_dir=cache)
        built = time.perf_counter() - started
    started = time.perf_counter()
    env = DataSelectEnv(task, picks=50)  # two rows a pick: 5% is 100 rows
    found = search(env.proxy, "swap", evaluations=SEARCH_EVALUATIONS, seed=0)
    searched = time.perf_counter() - started
    swap = Selection.from_counts(task, env.plan, found.counts, "swap")
    random = Selection.from_rows(task, random_rows(task, len(swap.rows), generator(0, "baseline rows")), "random rows")
    console.print(f"built in {built:.0f} s, searched in {searched:.0f} s; fine-tuning takes about two minutes")
    table = Table("fine-tuned on", "rows", "epochs", "target seeds", "test accuracy", "test macro-F1", "train s (mean)")
    for selection, seeds, epochs in ((swap, (0, 1), 6), (random, (0, 1), 6), (None, (0,), 1)):
        result: TargetResult = fine_tune(selection, dataset, seeds=seeds, epochs=epochs)
        seconds = np.mean([run.fit.seconds for run in result.runs])
        scores = [" ".join(f"{getattr(run, m):.3f}" for run in result.runs) for m in ("accuracy", "macro_f1")]
        table.add_row(result.method, str(result.rows), str(epochs), str(seeds), *scores, f"{seconds:.0f}")
    console.print(table)


def main() -> None:
    """Run both parts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("sentence_transformers", "faiss", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    started = time.perf_counter()
    select_on_reviews()
    fine_tune_on_texts()
    console.print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    with ending_cleanly():
        main()
