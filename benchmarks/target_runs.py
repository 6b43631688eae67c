"""One run of the target benchmark: choose rows of a pool by a method, train the target on them, score it on test rows."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from dsenv.baselines import clean_rows, nearest_rows, source_rows
from dsenv.building import DIMENSIONS, build_task
from dsenv.dataset import Ints, Rows, TextDataset, load_dataset
from dsenv.encoders import Vectors, encode
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.files import cache_folder
from dsenv.finalists import SHORT, Finalist, propose, select_finalist, target_score
from dsenv.metrics import score
from dsenv.picks import plan_picks
from dsenv.search import SEARCHES, search
from dsenv.seeding import generator
from dsenv.selectors import Pool, choose_rows
from dsenv.synthetic import synthetic_texts
from dsenv.task import SelectionTask
from dsenv.training import Recipe, fit, load_target, predict

EVALUATIONS = 4096
FINALISTS, FINALIST_EVALUATIONS = 18, 1024  # of two-stage search: fewer than its default, for the time it takes
PICKS = (25, 50)  # at least and at most; as many as spend the budget best (64 picks would leave a tenth of 500 rows)
# Of the logistic head: the best on the selection rows, for every selection anew.
HEAD_C = (0.1, 1.0, 10.0, 100.0, 1000.0)
# Published scores kept at the other end: at 5% and with wrong labels the hardest rows are mostly wrong ones.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "facility_location": ("facility_location", {"represented": 2_000}),
    "el2n_lowest": ("el2n", {"keep": "lowest"}),
    "forgetting_lowest": ("forgetting", {"keep": "lowest"}),
    "pvi_highest": ("pvi", {"keep": "highest"}),
    "gradmatch_reward": ("gradmatch", {"target": "reward"}),
    "herding_reward": ("herding", {"target": "reward"}),
}
DRAWS_NOTHING = (
    "k_center", "herding", "herding_reward", "d2_pruning", "influence", "knn_shapley", "knn_agreement", "gradmatch",
    "gradmatch_reward", "glister",
)  # fmt: skip
# What a claim has to be held against: the full pool, and what the function yardstick draws.
YARDSTICKS = ("full", "full_equal_steps", "reward_rows", "clean_rows", "source_rows", "nearest_rows")
METHODS = (*YARDSTICKS, "finalist_by_head", "two_stage", *VARIANTS)
METRICS = ("accuracy", "macro_f1")
# Seconds of one core: workers of one thread each, and other work on the machine, do not change them.
clock = time.perf_counter if torch.cuda.is_available() else time.process_time


@dataclass(frozen=True)
class Setting:
    """A pool and what it is chosen for: training rows cut to ``pool``, labels of a share ``noise`` of them wrong."""

    dataset: str
    noise: float = 0.0
    target_source: str | None = None
    pool: int = 10_000
    encoder: str = "minilm-fast"

    @property
    def name(self) -> str:
        """What the setting's file of runs is called."""
        parts = [self.dataset, f"noise{self.noise:g}" if self.noise else "", self.target_source or "", f"pool{self.pool}"]
        encoder = "" if self.encoder == Setting.encoder else self.encoder.replace("/", "-")
        return "_".join(part for part in (*parts, encoder) if part)

    @property
    def metric(self) -> str:
        """The reported metric: accuracy under label noise and where classes are about as large, else macro-F1."""
        plain = self.dataset in ("banking77", "infotabs", "synthetic-texts")
        return "accuracy" if plain or (self.noise and self.dataset == "googleplay") else "macro_f1"


@dataclass(frozen=True)
class Job:
    """A run: what is trained (``head``, ``minilm`` or a checkpoint), on the rows that a method chooses."""

    setting: Setting
    target: str
    method: str
    seed: int
    instance: int
    budget: float = 0.05
    epochs: int = 3
    finalist: str | None = None  # of two-stage search: digest of the rows that are scored on selection rows, or have won
    contest: str | None = None  # digest of all finalists, and of how they are trained to decide
    device: str = "auto"

    @property
    def key(self) -> dict[str, Any]:
        """What tells the run from all others of its setting: everything that changes its result."""
        return {**{k: v for k, v in asdict(self).items() if k not in ("setting", "device")}, "options": self.options}

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the benchmark that this run depends on."""
        found: dict[str, Any] = {"picks": list(PICKS)}
        if self.method in SEARCHES:
            found["evaluations"] = EVALUATIONS
        if self.method in ("finalist", "finalist_by_head", "two_stage"):
            found |= {"finalists": FINALISTS, "evaluations": FINALIST_EVALUATIONS}
        found |= VARIANTS.get(self.method, ("", {}))[1]
        if self.target == "head":
            return {**found, "c": list(HEAD_C)}
        recipe = asdict(self.recipe)
        return {**found, **{k: recipe[k] for k in ("learning_rate", "batch_size", "max_length", "weight_decay")}}

    @property
    def recipe(self) -> Recipe:
        """How the target is fine-tuned; the fine-tunes that decide between finalists may be shorter."""
        short = SHORT if self.method == "finalist" and self.epochs == SHORT["epochs"] else {"epochs": self.epochs}
        return Recipe(target=self.target, device=self.device, **short)

    @property
    def draw(self) -> int:
        """The seed of drawing and searching; on the head no two instances share their draws."""
        return self.seed + (1000 * self.instance if self.target == "head" else 0)


@dataclass(frozen=True, eq=False)
class Material:
    """A setting's dataset, the task built from its pool, and full vectors for the logistic head."""

    dataset: TextDataset
    task: SelectionTask
    vectors: dict[str, Vectors]
    right: np.ndarray | None  # (n,) whether a pool row's label was not flipped, under label noise

    @property
    def pool_digest(self) -> str:
        """Of dataset and pool: the same on all machines, where vectors, and with them the task, differ in last digits."""
        rows = self.task.train_rows.astype("<i8").tobytes()
        return hashlib.sha256(self.dataset.fingerprint.encode() + rows).hexdigest()[:16]


def load_setting(setting: Setting) -> TextDataset:
    """Return the dataset with its labels flipped, or its held-out rows cut to the target source."""
    synthetic = setting.dataset == "synthetic-texts"
    dataset = synthetic_texts(setting.pool, 400) if synthetic else load_dataset(setting.dataset)
    if setting.noise:
        dataset = dataset.with_label_noise(setting.noise)
    return dataset.with_target_source(setting.target_source) if setting.target_source else dataset


@lru_cache(maxsize=2)
def load_material(setting: Setting) -> Material:
    """Build a setting's task from cached vectors."""
    dataset = load_setting(setting)
    task = build_task(dataset, encoder=setting.encoder, dimensions=DIMENSIONS, max_rows=setting.pool, reported=setting.metric)
    right = None
    if setting.noise:
        right = load_setting(replace(setting, noise=0.0)).train.labels[task.train_rows] == task.train.labels
    return Material(dataset, task, encode(dataset, setting.encoder, train_rows=task.train_rows), right)


def build_seconds(setting: Setting) -> dict[str, float]:
    """Encode training and validation rows and build the task, and return the seconds of both.

    Test rows are encoded afterwards and not counted: choosing does not read them.
    """
    dataset = load_setting(setting)
    without_test = replace(dataset, test=dataset.test.take([0]))
    with tempfile.TemporaryDirectory() as cold:  # or other settings' vectors would be found and not be counted
        keywords: dict[str, Any] = {"max_rows": setting.pool, "reported": setting.metric, "cache_dir": cold}
        started = clock()
        build_task(without_test, encoder=setting.encoder, **keywords)
        total = clock() - started
        started = clock()
        task = build_task(without_test, encoder=setting.encoder, **keywords)
        cluster = clock() - started
        shutil.copytree(cold, cache_folder(), dirs_exist_ok=True)
    encode(dataset, setting.encoder, train_rows=task.train_rows)
    return {"encode": total - cluster, "cluster": cluster, "texts": len(task.train) + len(dataset.validation)}


class Choice(NamedTuple):
    """Row numbers of the pool (of the reward rows for ``reward_rows``), what is to be known of them, seconds of choosing."""

    rows: Ints
    note: str = ""
    seconds: float = 0.0


def choose(job: Job, material: Material) -> Choice:
    """Choose rows by the job's method."""
    started = clock()
    task = material.task.at_instance(job.instance)
    if job.method == "full":
        return Choice(np.arange(len(task.train)))
    picks = picks_of(task, job.budget)
    if job.finalist is not None:
        proposed, seconds = finalists_of(job.setting, job.budget)
        finalist = next((one for one in proposed if one.digest == job.finalist), None)
        if finalist is None:
            raise InputError(f"finalist {job.finalist} is not among those proposed here: {[one.digest for one in proposed]}")
        return Choice(finalist.rows, finalist.how, seconds)
    if job.method == "finalist_by_head":
        keywords: dict[str, Any] = {"count": FINALISTS, "evaluations": FINALIST_EVALUATIONS, "seed": job.draw}
        selection = select_finalist(task, budget=job.budget, picks=picks, **keywords)
        return Choice(np.searchsorted(task.train_rows, selection.rows), selection.method, clock() - started)
    if job.method in YARDSTICKS:
        return Choice(yardstick(job.method, task, rows_of(task, job.budget), job.draw, material.right))
    if job.method in SEARCHES:
        env = DataSelectEnv(task, budget=job.budget, picks=picks)
        found = search(env.proxy, job.method, evaluations=EVALUATIONS, seed=job.draw)
        return Choice(env.plan.rows(found.counts), f"{found.used} evaluations", clock() - started)
    seed = 0 if job.method in DRAWS_NOTHING else job.draw
    return selected(job.setting, job.method, job.budget, job.instance, seed)


def yardstick(method: str, task: SelectionTask, rows: int, seed: int, right: np.ndarray | None) -> Ints:
    """Draw rows that choosing is to be held against.

    ``full_equal_steps``: each row seen once, for as many optimiser steps as three epochs of a selection take.
    ``reward_rows``: what choosing reads, trained on instead. ``clean_rows``: known to be labelled right, an oracle.
    ``source_rows``: of the sources that the reward rows come from. ``nearest_rows``: nearest to any reward row.

    Raises:
        InputError: for ``clean_rows`` where no label was flipped.
    """
    rng = generator(seed, method.replace("_", " "))
    if method == "full_equal_steps":
        return rng.permutation(len(task.train))[: 3 * rows]
    if method == "reward_rows":
        return rng.permutation(len(task.reward))[:rows]
    if method == "source_rows":
        return source_rows(task, rows, rng)
    if method == "nearest_rows":
        return nearest_rows(task, rows)
    if right is None:
        raise InputError("clean_rows: no label of this setting was flipped, so random rows are the same; give --label-noise")
    return clean_rows(task, rows, right, rng)


@lru_cache(maxsize=256)
def selected(setting: Setting, method: str, budget: float, instance: int, seed: int) -> Choice:
    """Choose rows by a selector; the choice of one that draws nothing is kept for the next seed."""
    material = load_material(setting)
    task = material.task.at_instance(instance)
    selector, options = VARIANTS.get(method, (method, {}))
    pool = Pool.from_task(task, material.dataset)
    started = clock()
    return Choice(choose_rows(pool, selector, rows_of(task, budget), seed, **options), "", clock() - started)


@lru_cache(maxsize=4)
def finalists_of(setting: Setting, budget: float) -> tuple[list[Finalist], float]:
    """Return what two-stage search decides between, one search a setting, of seed and instance 0; and its seconds."""
    task = load_material(setting).task
    started = clock()
    keywords: dict[str, Any] = {"count": FINALISTS, "evaluations": FINALIST_EVALUATIONS}
    return propose(task, budget=budget, picks=picks_of(task, budget), **keywords), clock() - started


def rows_of(task: SelectionTask, budget: float) -> int:
    """Return how many rows every selection has."""
    return plan_picks(task.clustering("stratified"), budget=budget, picks=picks_of(task, budget)).budget_rows


def picks_of(task: SelectionTask, budget: float) -> int:
    """Return how many picks spend the budget best; every class can be picked once where the budget has a row for it."""
    rows = int(budget * len(task.train) + 1e-9)
    least, most = PICKS if task.classes <= PICKS[1] else (task.classes, 2 * task.classes)
    allowed = range(max(1, min(least, rows)), max(1, min(most, rows)) + 1)
    return max(allowed, key=lambda picks: (rows // picks * picks, picks))


def score_job(job: Job) -> dict[str, Any]:
    """Fine-tune the target on a finalist, shortly, and score it on selection rows."""
    material = load_material(job.setting)
    rows, note, _ = choose(job, material)
    started = clock()
    value = target_score(Finalist(note, rows), material.task, material.dataset, job.recipe, job.seed)
    seconds = {"search": 0.0, "train": round(clock() - started, 2)}
    return {
        **job.key,
        "rows": len(rows),
        "note": note,
        "pool_digest": material.pool_digest,
        "task_digest": material.task.digest,
        "selection": value,
        "seconds": seconds,
    }


def run_job(job: Job) -> dict[str, Any]:
    """Choose rows, train, score the test rows (and the selection rows for the head, which is cheap)."""
    if job.method == "finalist":
        return score_job(job)
    material = load_material(job.setting)
    task, dataset = material.task.at_instance(job.instance), material.dataset
    rows, note, seconds = choose(job, material)
    started = clock()
    held_out = {"test": dataset.test, "selection": dataset.validation.take(task.dataset_rows("selection"))}
    shares = task.class_shares
    digests = {"pool_digest": material.pool_digest, "task_digest": task.digest}
    found: dict[str, Any] = {**job.key, "rows": len(rows), "note": note, **digests}
    source, ids = ("validation", task.dataset_rows("reward")) if job.method == "reward_rows" else ("train", task.train_rows)
    chosen: Rows = getattr(dataset, source).take(ids[rows])
    if job.target == "head":
        validation = material.vectors["validation"]
        vectors = {"test": material.vectors["test"], "selection": validation[task.dataset_rows("selection")]}
        inputs = validation[ids[rows]] if source == "validation" else material.vectors["train"][rows]
        rate, labels = job.setting.metric, held_out["selection"].labels
        heads = {c: fit_head(inputs, chosen.labels, task.classes, vectors, c) for c in HEAD_C}
        found["c"] = max(heads, key=lambda c: float(score(rate, heads[c]["selection"], labels, shares)))
        probabilities = heads[found["c"]]
        trained = clock() - started
    else:
        target = load_target(job.recipe, task.classes, job.seed)
        started = clock()
        fitted = fit(target, chosen, job.seed)
        trained = clock() - started
        probabilities = {"test": predict(target, dataset.test)}
        found["fit"] = asdict(fitted)
        found["predictions"] = pack(probabilities["test"].argmax(1))
    for split, p in probabilities.items():
        found[split] = {m: round(float(score(m, p, held_out[split].labels, shares)), 6) for m in METRICS}
    found["class_shares"] = [round(float(s), 4) for s in np.bincount(chosen.labels, minlength=task.classes) / len(rows)]
    found["right_labels"] = (
        None if material.right is None or source == "validation" else round(float(material.right[rows].mean()), 4)
    )
    found["seconds"] = {"search": round(seconds, 2), "train": round(trained, 2)}
    return found


def fit_head(vectors: Vectors, labels: Ints, classes: int, held_out: dict[str, Vectors], c: float) -> dict[str, np.ndarray]:
    """Fit logistic regression; return probabilities (n, C) of each held-out split, 0 for classes that were not seen."""
    if len(np.unique(labels)) == 1:
        return {split: np.eye(classes)[np.full(len(x), labels[0])] for split, x in held_out.items()}
    head = LogisticRegression(C=c, max_iter=2000).fit(vectors, labels)
    found = {}
    for split, x in held_out.items():
        found[split] = np.zeros((len(x), classes))
        found[split][:, head.classes_] = head.predict_proba(x)
    return found


def pack(predicted: Ints) -> str:
    """Return class ids below 256 as a short text.

    Raises:
        InputError: for a class id that does not fit.
    """
    if predicted.max() > 255:
        raise InputError(f"class id {predicted.max()}: predictions of at most 256 classes can be stored")
    return base64.b85encode(zlib.compress(predicted.astype(np.uint8).tobytes(), 9)).decode()


def unpack(text: str) -> Ints:
    """Return the class ids of ``pack``."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).astype(np.int64)


def one_thread() -> None:
    """Keep a worker to one thread: as many workers as cores are faster than one with all of them."""
    torch.set_num_threads(1)
