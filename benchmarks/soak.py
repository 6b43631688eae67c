"""Does anything grow while it is used for long? Memory, open files, threads and objects over a million steps.

``python -m benchmarks.soak [--steps 1000000] [--parts env vector rlvr store making opening] [--json F]``

Each surface runs in a process of its own and is stored when it is done; a second call measures what the file does not hold
(``--anew``: everything). A step is:

``env``: ``step`` of ``DataSelect-InfoTabs-v0``: four environments in turn, an episode each, dense and final rewards, flat and
dict observations, every other reset with a seed, random picks among the clusters that have rows left.
``vector``: ``step`` of 8 such episodes made by ``gym.make_vec``, with both kinds of autoreset.
``rlvr``: ``step`` of ``DataSelectRLVR-Simulator-v0``.
``store``: one selection asked of a ``StoredProxy``: half of them are new, half are held. Every 100 batches the file is opened
anew. The file grows, as it should; memory must not.
``making`` (a hundredth of the steps): ``make`` and ``close`` of an environment, mostly of another instance than all that are
cached; every tenth is a vector environment or the simulator.
``opening`` (a tenth of the steps): open a store, read one score, close it.

What is bounded is filled before the first step: the memo of scores and the sums that every pick adds. The first tenth of the
steps is warm-up. Growth of resident memory and of the number of Python's objects is the median of the last tenth beside the
median of the tenth after the warm-up, as a share of the latter; both must stay below 2%. Open files and threads: the most of
the last tenth may not be above the most of the tenth after the warm-up.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from benchmarks.records import RESULTS, provenance, read_record, store_block
from dsenv.dataset import Ints
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly, require
from dsenv.picks import PickPlan
from dsenv.progress import progress
from dsenv.proxies import Proxy
from dsenv.proxies.ridge import MEMO, RidgeProxy
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.seeding import generator

ID = "DataSelect-InfoTabs-v0"
RLVR_ID = "DataSelectRLVR-Simulator-v0"
EPISODES = 8
BATCH = 64
INSTANCES = 40  # more than any cache of tasks, plans or proxies holds
SAMPLES = 200
LIMIT = 0.02  # of growth

Work = Iterator[int]


@dataclass(frozen=True)
class Surface:
    """One thing that is used for long.

    Attributes:
        work: yields the number of steps done since the last time, for ever; first 0, when all that is bounded is full.
        share: of ``--steps`` that it does.
        rate: steps a second on one core, for the estimate alone.
    """

    work: Callable[[], Work]
    share: float
    rate: float


def fill(proxy: Proxy, plan: PickPlan, rng: np.random.Generator) -> None:
    """Ask for every pick of every cluster, and for so many selections that the memo's table is as large as it gets."""
    proxy.score(np.diag(np.minimum(plan.capacity, plan.picks)))
    for _ in range(4 * MEMO // BATCH):
        proxy.score(draw(plan, BATCH, rng))


def draw(plan: PickPlan, size: int, rng: np.random.Generator) -> Ints:
    """Return (size, K) counts of random picks; a pick of an exhausted cluster adds nothing."""
    drawn = rng.multinomial(plan.picks, np.full(plan.clusters, 1 / plan.clusters), size=size)
    return np.asarray(np.minimum(drawn, plan.capacity))


def use_env() -> Work:
    """Play episodes in four environments of the same problem."""
    rng = generator(0, "soak")
    made = [gym.make(ID, reward=reward, observation=seen) for reward in ("dense", "final") for seen in ("flat", "dict")]
    first = made[0].unwrapped
    assert isinstance(first, DataSelectEnv)
    fill(first.proxy, first.plan, rng)
    yield 0
    episode = 0
    while True:
        env = made[episode % len(made)]
        _, info = env.reset(seed=int(rng.integers(2**31)) if episode % 2 else None)
        steps, over = 0, False
        while not over:
            _, _, over, _, info = env.step(rng.choice(np.flatnonzero(info["action_mask"])))
            steps += 1
        episode += 1
        yield steps


def use_vector() -> Work:
    """Step many episodes together, by turns in two environments."""
    rng = generator(0, "soak")
    modes = ((AutoresetMode.NEXT_STEP, "flat"), (AutoresetMode.SAME_STEP, "dict"))
    made: list[Any] = [gym.make_vec(ID, EPISODES, observation=seen, autoreset_mode=mode) for mode, seen in modes]
    fill(made[0].proxy, made[0].plan, rng)
    yield 0
    turn = 0
    while True:
        env = made[turn % len(made)]
        env.reset(seed=turn if turn % 3 else None)
        for _ in range(256):
            masks = env.action_masks()
            env.step((rng.random(masks.shape) * masks).argmax(1))
        turn += 1
        yield 256


def use_rlvr() -> Work:
    """Play episodes of the simulator."""
    rng = generator(0, "soak")
    env = gym.make(RLVR_ID)
    clusters = len(env.unwrapped.questions.clusters)  # type: ignore[attr-defined]
    yield 0
    episode = 0
    while True:
        env.reset(seed=episode if episode % 2 else None)
        steps, over = 0, False
        while not over:
            _, _, over, _, _ = env.step(rng.integers(clusters))
            steps += 1
        episode += 1
        yield steps


def use_store() -> Work:
    """Ask a stored proxy, half of the time for what its file holds."""
    env = DataSelectEnv("synthetic")
    proxy = RidgeProxy(env.task, env.plan, env.metric, memo=0)
    fill(proxy, env.plan, generator(0, "soak"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.sqlite"
        stored = StoredProxy(proxy, path)
        yield 0
        batch = 0
        while True:
            fresh = draw(env.plan, BATCH // 2, generator(batch, "soak"))
            held = draw(env.plan, BATCH // 2, generator(batch // 2, "soak"))
            stored.score(np.concatenate([fresh, held]))
            batch += 1
            if batch % 100 == 0:
                stored.store.close()
                stored = StoredProxy(proxy, path)
            yield BATCH


def use_making() -> Work:
    """Make environments and close them."""
    for number in itertools.count():
        if number == 3 * INSTANCES:
            yield 0
        if number % 10 == 5:
            vector = gym.make_vec(ID, 4, instance=number % INSTANCES)
            vector.reset(seed=number)
            vector.step(np.zeros(4, np.int64))
            vector.close()
        else:
            env = gym.make(RLVR_ID) if number % 10 == 9 else gym.make(ID, instance=number % INSTANCES)
            env.reset(seed=number)
            env.step(0)
            env.close()
        if number >= 3 * INSTANCES:
            yield 1


def use_opening() -> Work:
    """Open a store and close it."""
    env = DataSelectEnv("synthetic")
    proxy = RidgeProxy(env.task, env.plan, env.metric)
    counts = draw(env.plan, 1, generator(0, "soak"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.sqlite"
        StoredProxy(proxy, path).score(counts)
        yield 0
        number = 0
        while True:
            with ScoreStore(path, write=number % 2 == 0) as store:
                StoredProxy(proxy, store).score(counts)
            number += 1
            yield 1


SURFACES = {
    "env": Surface(use_env, 1, 3_500),
    "vector": Surface(use_vector, 1, 1_300),
    "rlvr": Surface(use_rlvr, 1, 1_500),
    "store": Surface(use_store, 1, 6_000),
    "making": Surface(use_making, 0.01, 70),
    "opening": Surface(use_opening, 0.1, 2_000),
}


def look() -> dict[str, int]:
    """Return what this process holds now: resident memory in bytes, Python's objects, open files, threads."""
    gc.collect()
    process = require("psutil", "finetune").Process()
    handles = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return {
        "memory": process.memory_info().rss,
        "objects": len(gc.get_objects()),
        "files": handles,
        "threads": process.num_threads(),
    }


def measure(work: Work, steps: int, what: str = "steps", samples: int = SAMPLES) -> dict[str, Any]:
    """Do so many steps and return what was held on the way, and whether it grew.

    Args:
        work: as ``Surface.work`` returns it.
        steps: at least; the last portion may go beyond.
        what: words for the progress.
        samples: how often it is looked at.
    """
    next(work)
    started = time.perf_counter()
    held = {kind: array("q") for kind in look()}  # of numbers: what is measured must not grow by measuring
    places = array("q")
    done = 0
    with progress(what, steps) as advance:
        while done < steps:
            portion = next(work)
            done += portion
            advance(portion)
            if done >= len(places) * steps / samples:
                places.append(done)
                for kind, value in look().items():
                    held[kind].append(value)
    seconds = time.perf_counter() - started
    parts = {kind: tenths(values) for kind, values in held.items()}
    grown = {kind: growth(*parts[kind]) for kind in ("memory", "objects")}
    most = {kind: [max(part) for part in parts[kind]] for kind in ("files", "threads")}
    faults = [f"{kind} grew by {value:.1%}, allowed are {LIMIT:.0%}" for kind, value in grown.items() if value >= LIMIT]
    faults += [f"{kind} grew from {before} to {after}" for kind, (before, after) in most.items() if after > before]
    return {
        "steps": done,
        "seconds": round(seconds, 1),
        "memory_mib": [round(statistics.median(part) / 2**20, 1) for part in parts["memory"]],
        "memory_growth": round(grown["memory"], 4),
        "objects": [int(statistics.median(part)) for part in parts["objects"]],
        "objects_growth": round(grown["objects"], 4),
        **most,
        "curve_mib": [
            [at, round(memory / 2**20, 1)]
            for at, memory in zip(places[:: samples // 20], held["memory"][:: samples // 20], strict=True)
        ],
        "faults": faults,
    }


def tenths(values: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the values of the second tenth, which comes after the warm-up, and of the last."""
    size = max(1, len(values) // 10)
    return values[size : 2 * size], values[-size:]


def growth(before: Sequence[int], after: Sequence[int]) -> float:
    """Return by how much the median grew, as a share."""
    return statistics.median(after) / statistics.median(before) - 1


def in_child(name: str, steps: int) -> dict[str, Any]:
    """Measure one surface in a process of its own.

    Raises:
        RuntimeError: where it fails; what it wrote stands above.
    """
    command = [sys.executable, "-m", "benchmarks.soak", "--child", name, "--steps", str(steps)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=RESULTS.parent.parent)
    if ended.returncode:
        raise RuntimeError(f"{name} ended with the status {ended.returncode}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not stored yet, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--parts", nargs="+", default=[*SURFACES], choices=[*SURFACES])
    parser.add_argument("--anew", action="store_true", help="measure what is stored already, too")
    parser.add_argument("--json", type=Path, default=RESULTS / "soak.json")
    parser.add_argument("--child", choices=[*SURFACES], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.child:
        print(json.dumps(measure(SURFACES[given.child].work(), given.steps, given.child)))
        return
    wanted = {name: max(SAMPLES, round(given.steps * SURFACES[name].share)) for name in given.parts}
    stored = {} if given.anew else read_record(given.json)
    left = {name: steps for name, steps in wanted.items() if stored.get(name, {}).get("steps", 0) < steps}
    minutes = sum(steps / SURFACES[name].rate for name, steps in left.items()) / 60
    print(f"{len(left)} of {len(wanted)} surfaces to go: about {minutes:.0f} minutes on one core", flush=True)
    for name, steps in left.items():
        origin = provenance("benchmarks.soak", {"steps": given.steps, "parts": name})
        store_block(given.json, name, {**origin, **in_child(name, steps)})
        print(line(name, read_record(given.json)[name]), flush=True)
    record = read_record(given.json)
    faults = [f"{name}: {fault}" for name in wanted for fault in record[name]["faults"]]
    print("\n".join(faults) or "nothing grew")
    sys.exit(1 if faults else 0)


def table(record: dict[str, Any]) -> str:
    """Return one row a surface, as Markdown."""
    lines = ["| what | steps | memory, MiB | growth | objects | open files | threads |", "|---|---|---|---|---|---|---|"]
    for name, block in record.items():
        before, after = block["memory_mib"]
        flat = [f"{block[kind][0]} → {block[kind][1]}" for kind in ("files", "threads")]
        growth = [f"{block[kind]:+.2%}" for kind in ("memory_growth", "objects_growth")]
        lines.append(f"| {name} | {block['steps']:,} | {before:.1f} → {after:.1f} | {' | '.join([*growth, *flat])} |")
    return "\n".join(lines)


def line(name: str, block: dict[str, Any]) -> str:
    """Return a surface's measurement in a line."""
    before, after = block["memory_mib"]
    held = ", ".join(f"{block[kind][1]} {kind}" for kind in ("files", "threads"))
    return (
        f"{name}: {block['steps']:,} steps in {block['seconds']:.0f} s, {before:.1f} -> {after:.1f} MiB "
        f"({block['memory_growth']:+.2%}), objects {block['objects_growth']:+.2%}, {held}"
    )


if __name__ == "__main__":
    with ending_cleanly():
        main()
