"""Train the policy that needs no search, by evolution strategies over a family of tasks: ``python -m agents.pretraining``.

Evolution strategies (arXiv 1703.03864): the policy's weights are shaken in pairs of opposite directions, each shaken policy
chooses one selection of every task, the exact proxy scores them, and the weights move towards what scored better. A
task's score is normalised between proportional picks and a short swap search. The family: the bundled datasets and
synthetic ones, with other labels (wrong ones, in all or part of the space), targets (one source, other class frequencies),
classes, clusterings, metrics and budgets. For every dataset there are weights whose training never saw it: these are what
a leaderboard may use. Only training and reward rows are read.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dsenv.building import build_task_from_vectors
from dsenv.env import load_task
from dsenv.errors import ending_cleanly
from dsenv.files import atomic_write
from dsenv.metrics import Doubles
from dsenv.picks import plan_picks
from dsenv.policy import EVERY, FIRST_WEIGHTS, WEIGHTS, policy_inputs, rounded_counts, shares_of
from dsenv.proxies.pool import end_with_parent
from dsenv.proxies.ridge import RidgeProxy
from dsenv.registration import MAIN
from dsenv.search import search
from dsenv.search.moves import proportional_counts
from dsenv.seeding import generator
from dsenv.synthetic import synthetic_task
from dsenv.task import REPORTED, SelectionTask

VARIATIONS, SYNTHETIC = 16, 16
SEARCHED = 300  # evaluations of the swap search that a task is normalised by
PAIRS, TASKS = 8, 10  # shaken policies and, of each dataset, tasks of a step
SHAKE, RATE = 0.15, 0.05  # in standard deviations of the inputs' effect
DECAY = 0.02


@dataclass(frozen=True)
class Problem:
    """One member of the family.

    Attributes:
        proxy: Φ.
        inputs: (K, F) what the policy sees.
        zero, one: Φ of proportional picks, and of a short swap search.
    """

    proxy: RidgeProxy
    inputs: Doubles
    zero: float
    one: float

    def value(self, weights: Doubles) -> float:
        """Return the normalised score of the selection that a policy with these weights (F,) chooses."""
        shares = shares_of(self.proxy.plan, {"weights": weights}, self.inputs)
        score = float(self.proxy.score(rounded_counts(self.proxy.plan, shares)[None])[0])
        return float(np.clip((score - self.zero) / (self.one - self.zero), -2, 1))


def family(dataset: str) -> list[Problem]:
    """Return a dataset's members of the family."""
    if dataset == "synthetic":
        return [_problem(synthetic_task(100 + number), generator(number, "family")) for number in range(SYNTHETIC)]
    return [
        _problem(varied(load_task(dataset), number), generator(number, f"family {dataset}")) for number in range(VARIATIONS)
    ]


def varied(task: SelectionTask, number: int) -> SelectionTask:
    """Return a variation of a bundled task: other rows, labels, target, classes and clusters."""
    rng = generator(number, f"variation of {task.name}")
    train, reward = task.train, task.reward
    kept = np.arange(task.classes)
    if task.classes > 8 and rng.random() < 0.6:
        kept = np.sort(rng.choice(task.classes, int(rng.integers(5, min(40, task.classes))), replace=False))
    rows = np.flatnonzero(np.isin(train.labels, kept))
    rows = rng.permutation(rows)[: int(rng.integers(10_000, 30_000))]
    held = np.flatnonzero(np.isin(reward.labels, kept))
    sources = np.unique(reward.sources)
    if len(sources) > 1 and rng.random() < 0.6:
        one = held[reward.sources[held] == rng.choice(sources)]
        held = one if len(one) >= 200 and len(np.unique(reward.labels[one])) > 1 else held
    elif rng.random() < 0.4:  # other class frequencies than the pool's
        wanted = rng.dirichlet(np.full(task.classes, 2.0))[reward.labels[held]]
        wanted /= np.bincount(reward.labels[held], minlength=task.classes)[reward.labels[held]]
        held = rng.choice(held, max(200, len(held) // 2), p=wanted / wanted.sum())
    held = rng.permutation(held)[:4_000]
    code = np.searchsorted(kept, train.labels[rows])
    noise = float(rng.choice([0.0, 0.0, 0.0, 0.2, 0.4]))
    flipped = rng.random(len(rows)) < noise
    if rng.random() < 0.5:  # wrong labels in one half of the space only
        flipped &= train.features[rows, :-1] @ rng.normal(size=train.features.shape[1] - 1) > 0
    code = np.where(flipped, (code + rng.integers(1, len(kept), len(rows))) % len(kept), code)
    present = np.unique(code)
    held = held[np.isin(np.searchsorted(kept, reward.labels[held]), present)]
    held_code = np.searchsorted(present, np.searchsorted(kept, reward.labels[held]))
    own, other = np.searchsorted(present, code), np.repeat(held_code, 2)
    x, y = train.features[rows, :-1], np.repeat(reward.features[held, :-1], 2, 0)  # both halves of validation: reward rows
    return build_task_from_vectors(
        {"train": x, "validation": y, "test": y},
        {"train": own, "validation": other, "test": other},
        name=task.name,
        clusters=int(rng.choice([20, 32, 48, 64])),
        reported=str(rng.choice(["accuracy", "macro_f1"])),
        seed=number,
    )


def train(problems: Mapping[str, Sequence[Problem]], seed: int, steps: int) -> dict[str, np.ndarray]:
    """Return the weights of a policy trained on these problems by dataset; datasets count alike."""
    rng = generator(seed, "pretraining")
    everything = np.concatenate([problem.inputs for family in problems.values() for problem in family])
    unit = 1 / (everything.std(0) + 0.02)
    weights = np.array(FIRST_WEIGHTS)
    mean, velocity = np.zeros_like(weights), np.zeros_like(weights)
    average = np.zeros_like(weights)
    for step in range(1, steps + 1):
        shaken = rng.normal(size=(PAIRS, len(weights)))
        chosen = [family[int(place)] for family in problems.values() for place in rng.permutation(len(family))[:TASKS]]
        ways = SHAKE * unit * shaken
        better = np.array(
            [np.mean([task.value(weights + way) - task.value(weights - way) for task in chosen]) for way in ways]
        )
        gradient = better @ shaken / (2 * SHAKE * PAIRS) - DECAY * (weights - FIRST_WEIGHTS) / unit
        mean, velocity = 0.9 * mean + 0.1 * gradient, 0.99 * velocity + 0.01 * gradient**2
        rate = RATE * (1 - (step - 1) / steps)
        weights = weights + unit * rate * (mean / (1 - 0.9**step)) / (np.sqrt(velocity / (1 - 0.99**step)) + 1e-8)
        if step > steps // 2:
            average += weights / (steps - steps // 2)
    return {"weights": average}


def train_without(held_out: str, seed: int, steps: int) -> dict[str, np.ndarray]:
    """Return the weights of a policy that never saw a dataset (``all``: that saw every one)."""
    names = [name for name in (*MAIN.values(), "synthetic") if name != held_out]
    return train({name: family(name) for name in names}, seed, steps)


def save_weights(trained: Mapping[str, Mapping[str, np.ndarray]], facts: Mapping[str, Any], path: Path) -> None:
    """Write the weights of all policies as one safetensors file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{held_out}/{name}": array for held_out, weights in trained.items() for name, array in weights.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(arrays, metadata={"facts": json.dumps(facts, sort_keys=True)}))


def main() -> None:
    """Train one policy for each dataset left out, and one on everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="datasets to leave out; default: each, and none")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    if arguments.only and arguments.out == WEIGHTS:
        parser.error("--only trains a part of the shipped weights: give --out another file")
    names = arguments.only or [*MAIN.values(), "synthetic", EVERY]
    trained: dict[str, Any] = {}
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context, initializer=end_with_parent) as pool:
        jobs = {name: pool.submit(train_without, name, arguments.seed, arguments.steps) for name in names}
        for name, job in jobs.items():
            trained[name] = job.result()
            print(f"without {name}: trained after {time.perf_counter() - started:.0f} s", flush=True)
    facts = {
        "command": f"python -m agents.pretraining --steps {arguments.steps} --seed {arguments.seed}",
        "steps": arguments.steps,
    }
    save_weights(trained, facts, arguments.out)
    print(arguments.out)


def _problem(task: SelectionTask, rng: np.random.Generator) -> Problem:
    whole = rng.random() < 0.2
    clustering = task.clustering("kmeans" if whole or rng.random() < 0.2 else "stratified")
    if whole:
        plan = plan_picks(clustering, unit="cluster", budget=0.2)
    else:
        plan = plan_picks(clustering, picks=int(rng.choice([32, 64])))
    metric = REPORTED[task.reported]
    proxy = RidgeProxy(task, plan, metric, memo=0)
    zero = float(proxy.score(proportional_counts(plan)[None])[0])
    return Problem(proxy, policy_inputs(task, plan, metric), zero, search(proxy, "swap", evaluations=SEARCHED).score)


if __name__ == "__main__":
    with ending_cleanly():
        main()
