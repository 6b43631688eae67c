"""Build every bundled task file from the real datasets: ``python -m benchmarks.build_tasks --data-dir FOLDER``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

from dsenv.archives import Arrays
from dsenv.building import build_task
from dsenv.clustering import cluster_kmeans
from dsenv.dataset import TextDataset, load_dataset
from dsenv.encoders import Encoder, SentenceEncoder
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.evaluation import reference_scores
from dsenv.metrics import METRICS
from dsenv.picks import plan_picks
from dsenv.proxies.table import tabulate
from dsenv.registration import SMALL
from dsenv.task import BUNDLED, SelectionTask, add_clustering
from dsenv.task_file import TEST, TRAIN, UNUSED

REPORTED = {
    "googleplay": "macro_f1",
    "hateunion": "macro_f1",
    "goemotions": "macro_f1",
    "banking77": "accuracy",
    "infotabs": "accuracy",
}
NOISE = 0.4
TARGET_SOURCE = "hatexplain2020"
SMALL_CLUSTERS = 20

log = logging.getLogger(__name__)


def build(dataset: TextDataset, encoder: Encoder, cache_dir: Path | None = None) -> SelectionTask:
    """Build one dataset's task with all its variants and frozen reference scores."""
    reported = REPORTED[dataset.name]
    task = build_task(dataset, encoder=encoder, reported=reported, cache_dir=cache_dir)
    task = with_small(task)
    if dataset.name == "googleplay":
        noisy = build_task(dataset.with_label_noise(NOISE), encoder=encoder, reported="accuracy", cache_dir=cache_dir)
        task = with_other(task, "noisy", noisy)
    if dataset.name == "hateunion":
        task = with_target(task, dataset, TARGET_SOURCE)
    for variant in ("", *task.metadata["variants"]):
        here = task.at_variant(variant)
        env = DataSelectEnv(here, **SMALL) if variant == "small" else DataSelectEnv(here)
        task = here.with_reference(reference_scores(here, env.plan, env.metric)).at_variant("")
    return task


def with_small(task: SelectionTask) -> SelectionTask:
    """Add the variant whose every selection of at most four of twenty clusters is tabulated."""
    arrays: Arrays = {}
    seed = int(task.metadata["seed"])
    add_clustering(arrays, "kmeans", cluster_kmeans(task.train.features[:, :-1], SMALL_CLUSTERS, seed))
    facts = {"clusterings": ["kmeans"], "clusters": SMALL_CLUSTERS}
    small = task.with_variant("small", arrays, facts).at_variant("small")
    plan = plan_picks(small.clustering("kmeans"), unit="cluster", budget=float(SMALL["budget"]))
    arrays["tables"] = tabulate(small, plan)
    assert len(arrays["tables"]) == len(METRICS)
    return task.with_variant("small", arrays, {**facts, "tabulated_picks": plan.picks})


def with_other(task: SelectionTask, name: str, other: SelectionTask) -> SelectionTask:
    """Add a task built of the same rows as a variant: only the arrays that differ are stored."""
    arrays = {key: array for key, array in other.arrays.items() if not np.array_equal(array, task.arrays[key])}
    facts = {key: other.metadata[key] for key in ("fingerprint", "derivation", "reported")}
    return task.with_variant(name, arrays, facts)


def with_target(task: SelectionTask, dataset: TextDataset, source: str) -> SelectionTask:
    """Add the variant whose reward, selection and test rows all come from one source."""
    wanted = task.source_names.index(source)
    split = task.arrays["split"].copy()
    split[(split != TRAIN) & (task.arrays["sources"] != wanted)] = UNUSED
    assert (split == TEST).any()
    derived = dataset.with_target_source(source)
    facts = {"fingerprint": derived.fingerprint, "derivation": derived.derivation, "target_source": source}
    return task.with_variant("target", {"split": split}, facts)


def main() -> None:
    """Build, and replace the bundled files of the datasets that were built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--dataset", nargs="+", default=list(REPORTED), choices=list(REPORTED))
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--cache-dir", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    encoder = SentenceEncoder("minilm")
    for name in arguments.dataset:
        task = build(load_dataset(name, arguments.data_dir), encoder, arguments.cache_dir)
        path = task.save(arguments.out / f"{name}-{task.digest[:12]}.npz")
        for old in arguments.out.glob(f"{name}-*.npz"):
            if old != path:
                old.unlink()
        print(f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  digest {task.digest}")


if __name__ == "__main__":
    with ending_cleanly():
        main()
