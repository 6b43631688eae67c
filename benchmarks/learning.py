"""Do the reference agents learn? The greedy rollout of the trained policy against uniform rollouts and the searches.

``python -m benchmarks.learning --evaluations 4096 --seeds 5 --jobs 2``

Every run is stored when it is done, and a second call goes on where the first was stopped. What counts is the policy's
own greedy rollout, not the best selection met in training; the greedy rollout of the untrained policy stands beside it.
"""

from __future__ import annotations

import argparse
import importlib
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.training import train
from benchmarks.records import RESULTS, mean_cell, provenance, read_record, store_block
from benchmarks.workers import worker_processes
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.evaluation import Result, evaluate
from dsenv.search import random_counts, search
from dsenv.seeding import generator

IDS = ("DataSelect-GooglePlayNoisy-v0", "DataSelect-Banking77-v0")
SEARCHED = ("uniform", "proportional", "best_of", "greedy", "swap")
AGENTS = ("dqn", "ppo", "maskable_ppo")
UNIFORM_EPISODES = 200


def learn(id: str, agent: str, seed: int, evaluations: int) -> dict[str, Any]:
    """Train one agent and play its greedy rollout, after and before training."""
    torch.set_num_threads(1)
    make_model = importlib.import_module(f"agents.{agent}").make_model
    keywords: dict[str, Any] = {"reward": "final"}
    played: dict[str, Result] = {}

    def remember_untrained(*arguments: Any) -> Any:
        model = make_model(*arguments)
        played["untrained"] = evaluate(model, id, agent=agent, seeds=[seed], **keywords)[0]
        return model

    trained = train(remember_untrained, id, seed=seed, evaluations=evaluations, **keywords)
    result = evaluate(trained.model, id, agent=agent, seeds=[seed], **keywords)[0]
    return {
        "score": result.score,
        "untrained": played["untrained"].score,
        "scores": result.scores,
        "counts": list(result.counts),
        "evaluations": trained.evaluations,
        "seconds": trained.seconds,
    }


def look_up(id: str, method: str, seed: int, evaluations: int) -> dict[str, Any]:
    """Run one search; ``uniform`` is the mean of many random episodes."""
    env = gym.make(id).unwrapped
    assert isinstance(env, DataSelectEnv)
    started = time.perf_counter()
    if method == "uniform":
        rng = generator(seed, "uniform episodes")
        scores = env.proxy.score(np.stack([random_counts(env.plan, rng) for _ in range(UNIFORM_EPISODES)]))
        return {"score": float(scores.mean()), "seconds": time.perf_counter() - started}
    found = search(env.proxy, method, evaluations=evaluations, seed=seed)
    return {"score": found.score, "seconds": time.perf_counter() - started}


def main() -> None:
    """Run what is not stored yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", nargs="+", default=list(IDS))
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--evaluations", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "learning.json")
    arguments = parser.parse_args()
    work = [
        (id, name, seed) for seed in range(arguments.seeds) for id in arguments.ids for name in (*SEARCHED, *arguments.agents)
    ]
    with worker_processes(arguments.jobs) as pool:
        futures = {}
        for id, name, seed in work:
            block = read_record(arguments.json).get(_key(id, arguments.evaluations), {"runs": {}})
            if str(seed) not in block["runs"].get(name, {}):
                run = learn if name in AGENTS else look_up
                futures[pool.submit(run, id, name, seed, arguments.evaluations)] = (id, name, seed)
        for number, future in enumerate(as_completed(futures), 1):
            id, name, seed = futures[future]
            options = {"ids": id, "evaluations": arguments.evaluations, "seeds": arguments.seeds}
            key = _key(id, arguments.evaluations)
            block = read_record(arguments.json).get(key) or {**provenance("benchmarks.learning", options), "runs": {}}
            block["runs"].setdefault(name, {})[str(seed)] = future.result()
            store_block(arguments.json, key, block)
            print(
                f"{number}/{len(futures)} {id} {name} seed {seed}: {block['runs'][name][str(seed)]['score']:.4f}", flush=True
            )
    for id in arguments.ids:
        block = read_record(arguments.json)[_key(id, arguments.evaluations)]
        print(f"\n{id}, {arguments.evaluations} evaluations\n\n{table(block)}")


def table(block: dict[str, Any]) -> str:
    """Return one id's runs as a Markdown table: mean and half of the 95% interval over seeds."""
    runs = block["runs"]
    uniform = {seed: run["score"] for seed, run in runs["uniform"].items()}
    lines = ["| method | score Φ | minus uniform | untrained policy | seconds |", "|---|---|---|---|---|"]
    for name, by_seed in runs.items():
        scores = [run["score"] for run in by_seed.values()]
        cells = [mean_cell(scores)]
        cells.append("" if name == "uniform" else mean_cell([run["score"] - uniform[seed] for seed, run in by_seed.items()]))
        before = [run["untrained"] for run in by_seed.values() if "untrained" in run]
        cells.append(mean_cell(before) if before else "")
        cells.append(f"{np.mean([run['seconds'] for run in by_seed.values()]):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _key(id: str, evaluations: int) -> str:
    return f"{id} evaluations={evaluations}"


if __name__ == "__main__":
    with ending_cleanly():
        main()
