"""What is a selection worth on the target itself? Fine-tune it on many selections of a pool and store every score.

``python -m benchmarks.target_scores --tasks googleplay-noisy hateunion-hatexplain --pool 10000``

Every run is stored when it is done, and a second call goes on where the first was stopped. A run is scored on seeded
stratified samples of the ``selection`` and the ``test`` rows. Whatever is fitted, tuned or chosen by these scores reads
the ``selection`` column alone: ``read_scores`` gives that one unless it is asked for the other.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import RESULTS, provenance, read_record, store_block
from dsenv.building import build_task
from dsenv.dataset import Ints, TextDataset, largest_remainder, load_dataset, stratified_sample
from dsenv.errors import InputError, ending_cleanly, one_of
from dsenv.metrics import score
from dsenv.picks import PickPlan, plan_picks
from dsenv.proxies import make_proxy
from dsenv.search import random_counts, search
from dsenv.seeding import generator
from dsenv.synthetic import synthetic_texts
from dsenv.task import REPORTED, SelectionTask
from dsenv.training import Recipe, Target, fit, load_target, predict

TASKS = ("googleplay-noisy", "hateunion-hatexplain", "googleplay", "hateunion", "banking77", "infotabs", "goemotions")
ACCURACY = ("googleplay-noisy", "banking77", "infotabs", "synthetic-texts")
RECIPE = Recipe(epochs=1, learning_rate=2e-4)
SPLITS = ("selection", "test")
METRICS = ("accuracy", "macro_f1", "neg_log_loss")
SAMPLE = 1_000
TRAINED_A_SECOND, READ_A_SECOND = 25, 100  # MiniLM on two cores, for the estimate before the first run

log = logging.getLogger(__name__)


def load_pool(name: str, pool: int, data_dir: str | None = None) -> tuple[TextDataset, SelectionTask]:
    """Return a named dataset and its task, cut to ``pool`` training rows."""
    if name == "synthetic-texts":
        dataset = synthetic_texts(pool, 200)
        return dataset, build_task(dataset, encoder="tfidf")
    one_of("task", name, TASKS)
    base, _, derived = name.partition("-")
    dataset = load_dataset(base, data_dir)
    if derived == "noisy":
        dataset = dataset.with_label_noise(0.4)
    elif derived:
        dataset = dataset.with_target_source("hatexplain2020")
    return dataset, build_task(dataset, max_rows=pool, reported="accuracy" if name in ACCURACY else "macro_f1")


def spread_selections(task: SelectionTask, plan: PickPlan, count: int) -> list[tuple[str, Ints]]:
    """Return complete selections from poor to good: (how, counts (K,)), every kind about as often as it is told here.

    A quarter uniform picks, a fifth picks by cluster size, a fifth class mixes, greedy and swap at several metrics and
    evaluations, a fifth poor ones: the worst that a search finds, and all picks in few clusters.
    """
    rng = generator(0, "spread selections")
    metric = REPORTED[task.reported]
    proxies = {name: make_proxy("ridge", task, plan, name) for name in (metric, task.reported, "neg_log_loss")}
    found: list[tuple[str, Ints]] = []

    def add(how: str, counts: Ints | None) -> None:
        if counts is not None:
            found.append((how, counts))

    for share in np.linspace(0, 1, max(1, count // 8)):
        add(f"class mix {share:.2f}", _class_mix(task, plan, float(share)))
    for name, proxy in proxies.items():
        add(f"greedy {name}", search(proxy, "greedy", evaluations=plan.picks * plan.clusters + 1).counts)
    for seed, evaluations in enumerate(np.geomspace(16, 4096, max(2, count // 5)).astype(int)):
        add(f"swap {evaluations}", search(proxies[metric], "swap", evaluations=int(evaluations), seed=seed).counts)
    for _ in range(max(1, count // 20)):
        drawn = np.stack([random_counts(plan, rng) for _ in range(256)])
        add("worst of 256", drawn[int(np.argmin(proxies[metric].score(drawn)))])
    for _ in range(count // 6):
        few = rng.permutation(plan.clusters)[: max(2, plan.clusters // 5)]
        add("few clusters", _weighted(plan, np.isin(np.arange(plan.clusters), few).astype(float), rng))
    for _ in range(count // 5):
        add("by size", _weighted(plan, plan.sizes.astype(float), rng))
    while len(found) < count:
        add("uniform", random_counts(plan, rng))
    return found[:count]


def _class_mix(task: SelectionTask, plan: PickPlan, balance: float) -> Ints:
    """Picks for class shares (1 - a) * pool + a * balanced, by size inside a class."""
    labels = np.stack(
        [np.bincount(task.train.labels[rows], minlength=task.classes) for rows in np.split(plan.order, plan.starts[1:])]
    )
    pool = labels.sum(0)
    share = (1 - balance) * pool / pool.sum() + balance * (pool > 0) / (pool > 0).sum()
    weights = (labels / np.maximum(pool, 1)) @ share
    return plan.complete(np.minimum(largest_remainder(weights, plan.picks), plan.capacity))


def _weighted(plan: PickPlan, weights: np.ndarray, rng: np.random.Generator) -> Ints:
    counts = np.zeros(plan.clusters, np.int64)
    while counts.sum() < plan.picks:
        open_ = weights * (counts < plan.capacity)
        if not open_.any():
            return plan.complete(counts)
        counts[rng.choice(plan.clusters, p=open_ / open_.sum())] += 1
    return counts


def samples(task: SelectionTask, size: int) -> dict[str, Ints]:
    """Return the sampled row numbers inside the ``selection`` and ``test`` splits of the task."""
    splits = {"selection": task.selection, "test": task.test}
    return {
        name: stratified_sample(split.labels, min(size, len(split)), generator(0, f"{name} sample"))
        for name, split in splits.items()
    }


def _fresh(classes: int, seed: int) -> Target:
    """The target before training, read from disk once."""
    target = _loaded(classes, seed)
    return replace(target, model=copy.deepcopy(target.model))


@lru_cache(maxsize=3)
def _loaded(classes: int, seed: int) -> Target:
    return load_target(RECIPE, classes, seed)


def target_scores(
    dataset: TextDataset, task: SelectionTask, plan: PickPlan, counts: Ints, seed: int, size: int
) -> dict[str, dict[str, float]]:
    """Fine-tune the target on one selection; return the metrics on both samples and the seconds."""
    started = time.perf_counter()
    target = _fresh(task.classes, seed)
    fit(target, dataset.train.take(task.train_rows[plan.rows(counts)]), seed)
    fitted = time.perf_counter()
    found: dict[str, dict[str, float]] = {}
    for name, inside in samples(task, size).items():
        rows = (dataset.test if name == "test" else dataset.validation).take(task.dataset_rows(name)[inside])
        probabilities = predict(target, rows)
        found[name] = {m: float(score(m, probabilities, rows.labels, task.class_shares)) for m in METRICS}
    found["seconds"] = {"train": fitted - started, "read": time.perf_counter() - fitted}
    return found


def run(
    name: str, *, pool: int, count: int, repeated: int, size: int, path: Path, data_dir: str | None = None
) -> dict[str, Any]:
    """Score every selection of one task that is not stored yet, and return the task's block of the record.

    Raises:
        InputError: where the stored runs are of another task or of other selections.
    """
    dataset, task = load_pool(name, pool, data_dir)
    plan = plan_picks(task.clustering("stratified"))
    chosen = spread_selections(task, plan, count)
    listed = [{"how": how, "counts": counts.tolist()} for how, counts in chosen]
    again = np.linspace(0, count - 1, repeated).astype(int).tolist()
    key = f"{name} pool={pool}"
    options = {"tasks": name, "pool": pool, "selections": count, "repeated": repeated, "sample": size}
    block = read_record(path).get(key)
    if block is None:
        block = {
            **provenance("benchmarks.target_scores", options),
            "task_digest": task.digest,
            "recipe": vars(RECIPE),
            "reported": task.reported,
            "selections": listed,
            "repeated": again,
            "sample": size,
            "runs": {},
        }
    held = [block[name] for name in ("task_digest", "recipe", "reported", "selections", "repeated", "sample")]
    if held != [task.digest, vars(RECIPE), task.reported, listed, again, size]:
        raise InputError(f"{path.name} holds runs of another build or recipe of {name!r}: give another --json")
    work = [(number, 0) for number in range(count)] + [(number, seed) for number in again for seed in (1, 2)]
    left = [(number, seed) for number, seed in work if f"{number} seed={seed}" not in block["runs"]]
    rows = plan.budget_rows
    each = rows / TRAINED_A_SECOND + 2 * size / READ_A_SECOND
    log.info("%s: %d runs of %d rows to go, about %.0f minutes on two cores", name, len(left), rows, len(left) * each / 60)
    for done, (number, seed) in enumerate(left, 1):
        found = target_scores(dataset, task, plan, chosen[number][1], seed, size)
        block["runs"][f"{number} seed={seed}"] = found
        store_block(path, key, block)
        log.info(
            "%s: %d of %d, %s, seed %d: %.3f",
            name,
            done,
            len(left),
            chosen[number][0],
            seed,
            found["selection"][task.reported],
        )
    return dict(block)


def read_scores(block: dict[str, Any], split: str = "selection", seed: int = 0) -> np.ndarray:
    """Return the target's reported metric of every selection, (n,): for fitting or choosing, ``selection`` alone."""
    one_of("split", split, SPLITS)
    runs = [block["runs"][f"{number} seed={seed}"] for number in range(len(block["selections"]))]
    return np.array([found[split][block["reported"]] for found in runs])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS[:2]), choices=[*TASKS, "synthetic-texts"])
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--pool", type=int, default=10_000, help="training rows to choose from (a stratified sample)")
    parser.add_argument("--selections", type=int, default=40)
    parser.add_argument("--repeated", type=int, default=8, help="selections trained with three seeds")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="rows of selection and of test that a run is scored on")
    parser.add_argument("--json", type=Path, default=RESULTS / "target_scores.json")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("sentence_transformers", "faiss", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for name in given.tasks:
        run(
            name,
            pool=given.pool,
            count=given.selections,
            repeated=given.repeated,
            size=given.sample,
            path=given.json,
            data_dir=given.data_dir,
        )


if __name__ == "__main__":
    with ending_cleanly():
        main()
