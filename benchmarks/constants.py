"""The constants of the normalised score: 0 = proportional picks, 1 = best known, for each problem and instance.

``python -m benchmarks.constants --jobs 2``

Best known is the better of swap search and annealing after 8,192 evaluations each, the exact optimum where a task is
tabulated. A problem has headroom where best known minus proportional, on the mean over instances, exceeds three standard
deviations of random rows over 20 seeds. Computed once, before any agent is compared, and kept from then on: scores above 1
are possible. What is stored already is not computed again.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import as_completed
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.records import provenance
from benchmarks.workers import worker_processes
from dsenv.baselines import model_of_rows, random_rows
from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.files import atomic_write
from dsenv.leaderboard import CONSTANTS, PROBLEMS, environment_of, instances_of
from dsenv.proxies.ridge import score_weights
from dsenv.proxies.table import TableProxy
from dsenv.search import search
from dsenv.search.moves import proportional_counts
from dsenv.seeding import generator

SEARCHED = ("swap", "annealing")
EVALUATIONS = 8192
INSTANCES = 10
RANDOM_SEEDS = 20


def constants(problem: str, instance: int) -> dict[str, Any]:
    """Return Φ of proportional picks and of the best known selection, on reward and on test rows."""
    env = _make(problem, instance)
    if isinstance(env.proxy, TableProxy):
        best = env.proxy.best()[0]
    else:
        found = [search(env.proxy, method, evaluations=EVALUATIONS, seed=instance) for method in SEARCHED]
        best = max(found, key=lambda stage: stage.score).counts
    return {"zero": _scores(env, env.plan.rows(proportional_counts(env.plan))), "one": _scores(env, env.plan.rows(best))}


def random_deviation(problem: str) -> float:
    """Return the standard deviation of Φ of random rows over seeds."""
    env = _make(problem, 0)
    drawn = [random_rows(env.task, env.plan.budget_rows, generator(seed, "baseline rows")) for seed in range(RANDOM_SEEDS)]
    return float(np.std([_scores(env, rows)["reward"] for rows in drawn], ddof=1))


def main() -> None:
    """Compute what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"problems": {}}
    if CONSTANTS.is_file():
        record = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    known = record["problems"]
    work = [
        (problem, instance)
        for problem in PROBLEMS
        for instance in instances_of(problem, INSTANCES)
        if str(instance) not in known.get(problem, {}).get("instances", {})
    ]
    with worker_processes(arguments.jobs) as pool:
        deviations = {problem: pool.submit(random_deviation, problem) for problem in dict.fromkeys(one for one, _ in work)}
        futures = {pool.submit(constants, *job): job for job in work}
        for number, future in enumerate(as_completed(futures), 1):
            problem, instance = futures[future]
            block = known.setdefault(problem, {"instances": {}})
            block["instances"][str(instance)] = future.result()
            block["random_std"] = deviations[problem].result()
            gains = [one["one"]["reward"] - one["zero"]["reward"] for one in block["instances"].values()]
            block["headroom"] = bool(np.mean(gains) > 3 * block["random_std"])
            record["made_with"] = provenance("benchmarks.constants", {})
            with atomic_write(CONSTANTS) as temporary:
                temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{number}/{len(futures)} {problem} instance {instance}: {np.mean(gains):.4f}", flush=True)
    for problem, block in sorted(known.items()):
        print(f"{problem}: {'headroom' if block['headroom'] else 'no headroom'}")


def _make(problem: str, instance: int) -> DataSelectEnv:
    id, keywords = environment_of(problem, instance)
    env = gym.make(id, **keywords).unwrapped
    assert isinstance(env, DataSelectEnv)
    return env


def _scores(env: DataSelectEnv, rows: Ints) -> dict[str, float]:
    model = model_of_rows(env.task, rows)
    return {split: float(score_weights(env.task, model, getattr(env.task, split), env.metric)) for split in ("reward", "test")}


if __name__ == "__main__":
    with ending_cleanly():
        main()
