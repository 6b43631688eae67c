"""How fast is the reward? Exact scores and environment steps a second, beside what bounds them and what they replace.

``python -m benchmarks.throughput [--quick] [--json F]``

Everything is measured in one run, in turns: every round measures each thing once, and a rate is the median over rounds, so
that a noisy machine slows all alike. Scores are counted along episodes of the vector environment (each selection one
pick from its predecessor), with the memo of known selections off.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from benchmarks.records import RESULTS, provenance
from benchmarks.target_scores import load_pool
from dsenv.dataset import Ints, load_dataset
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.files import atomic_write
from dsenv.metrics import METRICS
from dsenv.picks import PickPlan, plan_picks
from dsenv.progress import track
from dsenv.proxies import Memory, Proxy
from dsenv.proxies.finetune import FinetuneProxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.ridge_torch import TorchRidgeProxy
from dsenv.search import random_counts
from dsenv.seeding import generator
from dsenv.vector_env import DataSelectVectorEnv

TASK = "googleplay"
EPISODES = 64
BATCHES = (1, 16, 64, 256)
CUDA_BATCHES = (256, 1024, 4096)


def walk(plan: PickPlan, episodes: int, rng: np.random.Generator) -> Ints:
    """Return (picks, episodes, K) counts along episodes of uniform picks among the clusters that have rows left."""
    counts = np.zeros((episodes, plan.clusters), np.int64)
    steps: list[Ints] = []
    for _ in range(plan.picks):
        chances = rng.random(counts.shape) * (counts < plan.capacity)
        counts[np.arange(episodes), chances.argmax(1)] += 1
        steps.append(counts.copy())
    return np.stack(steps)


def along(proxy: Proxy, steps: Ints) -> int:
    """Score every selection of the episodes as they grow; return how many."""
    memory = Memory()
    for counts in steps:
        proxy.score(counts, memory=memory)
    return int(steps.shape[0] * steps.shape[1])


def unrelated(proxy: Proxy, batch: Ints) -> int:
    """Score selections that have nothing to do with each other."""
    proxy.score(batch)
    return len(batch)


def cholesky(matrices: np.ndarray) -> int:
    """The bound: a batched Cholesky factorisation of matrices of the same size, and nothing else."""
    for _ in range(EPISODES):
        np.linalg.cholesky(matrices)
    return EPISODES * len(matrices)


def play(env: Any, actions: Ints) -> int:
    """Step an environment, single or vector, through whole episodes; return the steps of all episodes."""
    env.reset(seed=0)
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if np.ndim(terminated) == 0 and (terminated or truncated):
            env.reset()
    return int(actions.size)


def refit(kind: str, env: DataSelectEnv, selections: Ints) -> int:
    """Train scikit-learn's ``Ridge`` or ``LogisticRegression`` on the selected rows and score the reward rows."""
    task = env.task
    for counts in selections:
        rows = env.plan.rows(counts)
        labels = task.train.labels[rows]
        if kind == "ridge":
            model = Ridge(alpha=task.regularisation * len(rows), fit_intercept=False)
            model.fit(task.train.features[rows], np.eye(task.classes)[labels])
        else:
            model = LogisticRegression(max_iter=1000).fit(task.train.features[rows], labels)
        predicted = model.predict(task.reward.features)
        assert len(predicted) == len(task.reward)
    return len(selections)


def things(quick: bool) -> dict[str, Callable[[], int]]:
    """Return what is measured, by name: calls that do a piece of work and return how many units it was."""
    rng = generator(0, "throughput")
    env = DataSelectEnv(TASK)
    task, plan = env.task, env.plan
    by_size = {size: walk(plan, size, rng) for size in BATCHES}
    steps = by_size[EPISODES]
    drawn = np.stack([random_counts(plan, rng) for _ in range(256)])
    width = task.train.features.shape[1]
    half = rng.normal(size=(EPISODES, width, 2 * width))
    squares = (half @ half.transpose(0, 2, 1) + np.eye(width)).astype(np.float32)
    found: dict[str, Callable[[], int]] = {"cholesky": partial(cholesky, squares)}
    for precision in ("float32", "float64"):
        for metric in METRICS:
            proxy = RidgeProxy(task, plan, metric, precision=precision, memo=0)
            found[f"scores {precision} {metric}"] = partial(along, proxy, steps)
            if metric in ("brier_skill", "accuracy"):
                found[f"unrelated {precision} {metric}"] = partial(unrelated, proxy, drawn)
                for size in BATCHES:
                    found[f"batch {precision} {metric} {size}"] = partial(along, proxy, by_size[size])
        proxy = RidgeProxy(task, plan, "brier_skill", precision=precision, memo=0)
        keywords: dict[str, Any] = {"task": task, "metric": "brier_skill", "proxy": proxy}
        actions = np.diff(steps, axis=0, prepend=0).argmax(2)
        found[f"steps {precision} single"] = partial(play, gym.make("DataSelect-v0", **keywords), actions[:, 0])
        vector = DataSelectVectorEnv(EPISODES, autoreset_mode="SameStep", **keywords)
        found[f"steps {precision} vector"] = partial(play, vector, actions)
    cartpole = gym.make("CartPole-v1")
    found["steps cartpole"] = partial(play, cartpole, rng.integers(0, 2, 5_000))
    for kind in ("ridge", "logreg"):
        found[f"refit {kind}"] = partial(refit, kind, env, drawn[: 4 if quick else 20])
    if torch.cuda.is_available():
        for metric in METRICS:
            proxy = TorchRidgeProxy(task, plan, metric, device="cuda", memo=0)
            for size in CUDA_BATCHES:
                batch = np.stack([random_counts(plan, rng) for _ in range(size)])
                found[f"cuda float32 {metric} {size}"] = partial(unrelated, proxy, batch)
    return found


def finetune_rate(quick: bool, data_dir: str | None) -> float:
    """Return the scores a second of the fine-tuned proxy on the same pool (synthetic texts with ``--quick``).

    It takes seconds, so it stands outside the rounds: the median of three selections.
    """
    if quick:
        dataset, task = load_pool("synthetic-texts", 1_000)
    else:
        dataset, task = load_dataset(TASK, data_dir), DataSelectEnv(TASK).task
    plan = plan_picks(task.clustering("stratified"))
    proxy = FinetuneProxy(task, plan, "brier_skill", dataset)
    rng = generator(0, "throughput finetune")
    proxy.score(random_counts(plan, rng)[None])  # the checkpoint is read
    taken = []
    for _ in range(1 if quick else 3):
        counts = random_counts(plan, rng)[None]
        started = time.perf_counter()
        proxy.score(counts)
        taken.append(time.perf_counter() - started)
    return float(1 / np.median(taken))


def summary(rates: dict[str, float]) -> dict[str, Any]:
    """Return the record's fields from the rates; the headline is float32, the precision of the bound."""
    fields: dict[str, Any] = {}
    for precision in ("float32", "float64"):
        scores = {metric: rates[f"scores {precision} {metric}"] for metric in METRICS}
        steps = {
            "single": rates[f"steps {precision} single"],
            "vector": rates[f"steps {precision} vector"],
            "cartpole": rates["steps cartpole"],
            "cholesky": rates["cholesky"],
        }
        ratio = {
            "brier_vs_cholesky": scores["brier_skill"] / rates["cholesky"],
            "accuracy_vs_cholesky": scores["accuracy"] / rates["cholesky"],
            "vector_vs_scores": steps["vector"] / scores["brier_skill"],
            "vector_vs_cartpole": steps["vector"] / rates["steps cartpole"],
            "score_vs_ridge": scores["brier_skill"] / rates["refit ridge"],
            "score_vs_logreg": scores["brier_skill"] / rates["refit logreg"],
            "score_vs_finetune": scores["brier_skill"] / rates["finetune"],
            "unrelated_brier_vs_cholesky": rates[f"unrelated {precision} brier_skill"] / rates["cholesky"],
            "unrelated_accuracy_vs_cholesky": rates[f"unrelated {precision} accuracy"] / rates["cholesky"],
        }
        by_batch = {
            metric: {str(size): rates[f"batch {precision} {metric} {size}"] for size in BATCHES}
            for metric in ("brier_skill", "accuracy")
        }
        fields[precision] = {"scores_per_second": scores, "steps_per_second": steps, "ratio": ratio, "by_batch": by_batch}
    cuda = {name: rate for name, rate in rates.items() if name.startswith("cuda")}
    refitted = {name: rates[name] for name in ("refit ridge", "refit logreg", "finetune")}
    return {**fields.pop("float32"), "precision": "float32", **fields, "others_per_second": refitted, "cuda": cuda or None}


def main() -> None:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller fine-tuned proxy: under a minute")
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/throughput.json, nowhere with --quick")
    given = parser.parse_args()
    rounds = 2 if given.quick else 15
    measured: dict[str, list[float]] = {}
    work = things(given.quick)
    for call in work.values():
        call()  # first calls fill tables and load libraries
    for _ in track(range(rounds), "rounds"):
        for name, call in work.items():
            started = time.perf_counter()
            units = call()
            measured.setdefault(name, []).append(units / (time.perf_counter() - started))
    rates = {name: float(np.median(values)) for name, values in measured.items()}
    rates["finetune"] = finetune_rate(given.quick, given.data_dir)
    options = {"quick": True} if given.quick else {}
    record = {**provenance("benchmarks.throughput", options), "task": TASK, "rounds": rounds, **summary(rates)}
    path = given.json or (None if given.quick else RESULTS / "throughput.json")
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Return the headline as a Markdown table."""
    lines = ["| | float32 | float64 |", "|---|---|---|"]
    double = record["float64"]
    for group in ("scores_per_second", "steps_per_second"):
        lines += [f"| {name} /s | {value:,.0f} | {double[group][name]:,.0f} |" for name, value in record[group].items()]
    lines += [f"| {name} | {value:,.3g} | {double['ratio'][name]:,.3g} |" for name, value in record["ratio"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    with ending_cleanly():
        main()
