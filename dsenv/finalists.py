"""Two-stage search: the proxy proposes finalists from parts of the pool, and one of them is chosen on the selection rows.

What decides is a logistic head on the task's vectors, which costs seconds, or a short fine-tune of the target itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from dsenv.dataset import Ints, TextDataset, stratified_sample
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, check_whole
from dsenv.files import atomic_write, locked
from dsenv.metrics import Doubles, score
from dsenv.picks import plan_picks
from dsenv.progress import progress
from dsenv.reading import read_json
from dsenv.search import search
from dsenv.seeding import generator
from dsenv.selection import Selection
from dsenv.selectors import Pool, choose_rows
from dsenv.selectors.head import fit_head, out_of_fold, probabilities
from dsenv.selectors.pool import Vectors
from dsenv.task import REPORTED, SelectionTask
from dsenv.training import Recipe, fit, load_target, make_recipe, predict

log = logging.getLogger(__name__)

FINALISTS = 30
WHOLE = "all rows"
EVALUATIONS = 4096
SURE = 0.1  # by how much a label's probability is above every other's
SAMPLE = 1_000
SHORT = {"epochs": 1, "learning_rate": 2e-4}


@dataclass(frozen=True, eq=False)
class Finalist:
    """Rows that may become the selection.

    Attributes:
        how: what the pool was cut to, and what chose among its rows.
        rows: row numbers of the pool.
    """

    how: str
    rows: Ints

    @property
    def digest(self) -> str:
        """Of the rows, in any order: scores of other rows are never taken for this one's."""
        return hashlib.sha256(np.sort(self.rows).astype("<i8").tobytes()).hexdigest()[:16]


def propose(
    task: SelectionTask,
    *,
    budget: float = 0.05,
    picks: int | None = None,
    count: int = FINALISTS,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
) -> list[Finalist]:
    """Propose selections that differ in what is hard to know from the proxy: how clean, how near, how balanced, how random.

    The pool is cut in several ways (``filters``), and from each part rows are chosen at random, by the best class mix, and
    by searches for either Brier skill. Random rows and class-mix rows of the whole pool always stand among them.

    Args:
        task: the pool.
        budget: share of its rows.
        picks: as in ``DataSelectEnv``.
        count: finalists, at most; from 2.
        evaluations: proxy evaluations of each search.
        seed: of draws and searches.

    Returns:
        Finalists of equally many rows, no two the same. Where a search's last picks of clusters are short of rows, random
        ones of the same part make up for them.
    """
    check_whole("count", count, 2)
    rows = plan_picks(task.clustering("stratified"), budget=budget, picks=picks).budget_rows
    parts = filters(task, seed)
    parts = {name: kept for name, kept in parts.items() if name == WHOLE or len(kept) >= 2 * rows}
    # The two baselines first; a searched one is worth less than one of another part, so parts change fastest.
    order = [("random", WHOLE), ("class_mix", WHOLE), *((what, name) for what, name in product(_PROPOSALS, parts))]
    found: dict[str, Finalist] = {}
    for what, name in dict.fromkeys(order):
        kept = parts[name]
        part = task if name == WHOLE else task.with_pool(kept)
        # Half a row more, so that the share of the smaller pool is not rounded below the budget.
        share = min(1.0, (rows + 0.5) / len(kept))
        chosen = kept[_PROPOSALS[what](part, share, rows, picks, evaluations, seed)]
        finalist = Finalist(f"{what} of {name}", _filled(chosen, kept, rows, seed))
        found.setdefault(finalist.digest, finalist)
        if len(found) == count:
            break
    return list(found.values())


def _filled(chosen: Ints, kept: Ints, rows: int, seed: int) -> Ints:
    spare = np.setdiff1d(kept, chosen)
    return np.concatenate([chosen, generator(seed, "short picks").permutation(spare)[: rows - len(chosen)]])


def filters(task: SelectionTask, seed: int = 0) -> dict[str, Ints]:
    """Return parts of the pool by name, row numbers ascending.

    ``all rows``, and, where the reward rows are of some of the pool's sources alone, the rows of these ``target sources``;
    of both, the rows whose label the head agrees with, and those where it is sure of it: logistic regression, fitted on
    the other folds, gives the label a probability above every other's, and by ``SURE`` above. Wrong labels seldom pass.

    Args:
        task: the pool.
        seed: of the folds.

    Source: the out-of-sample test of labels is that of confident learning, Northcutt et al., arXiv 1911.00068.
    """
    parts = {WHOLE: np.arange(len(task.train))}
    sources = np.unique(task.reward.sources)
    inside = np.isin(task.train.sources, sources)
    if (sources >= 0).all() and inside.any() and not inside.all():
        parts["target sources"] = np.flatnonzero(inside)
    found: dict[str, Ints] = {}
    for name, rows in parts.items():
        margins = label_margins(task.train.features[rows, :-1], task.train.labels[rows], task.classes, seed)
        found |= {name: rows, f"{name}, head agrees": rows[margins > 0], f"{name}, head sure": rows[margins >= SURE]}
    return found


def label_margins(vectors: Vectors, labels: Ints, classes: int, seed: int = 0) -> Doubles:
    """Return (n,) out-of-fold probability of each row's label less the highest of any other class.

    Args:
        vectors: (n, d).
        labels: (n,) class ids.
        classes: C.
        seed: of the folds.
    """
    found = out_of_fold(vectors, labels, classes, generator(seed, "label margins"))
    own = np.arange(len(labels)), labels
    mine = found[own]
    found[own] = -1
    return np.asarray(mine - found.max(1))


def _selector(method: str) -> Callable[..., Ints]:
    def propose(task: SelectionTask, budget: float, rows: int, picks: int | None, evaluations: int, seed: int) -> Ints:
        return choose_rows(Pool.from_task(task), method, rows, seed)

    return propose


def _search(method: str, other_metric: bool = False, shift: int = 0) -> Callable[..., Ints]:
    def propose(task: SelectionTask, budget: float, rows: int, picks: int | None, evaluations: int, seed: int) -> Ints:
        metric = next(skill for name, skill in REPORTED.items() if (name != task.reported) == other_metric)
        env = DataSelectEnv(task, metric=metric, budget=budget, picks=picks)
        found = search(env.proxy, method, evaluations=evaluations, seed=seed + shift)
        return env.plan.rows(found.counts)

    return propose


_PROPOSALS: dict[str, Callable[..., Ints]] = {
    "random": _selector("random"),
    "class_mix": _selector("class_mix"),
    "guided": _search("guided"),
    "guided, other metric": _search("guided", other_metric=True),
    "class_balanced": _selector("class_balanced"),
    "swap": _search("swap"),
    "swap, other metric": _search("swap", other_metric=True),
    "guided again": _search("guided", shift=1),
    "guided again, other metric": _search("guided", other_metric=True, shift=1),
    "swap again": _search("swap", shift=1),
}


def head_score(finalist: Finalist, task: SelectionTask) -> float:
    """Fit a logistic head on a finalist's vectors and return its reported metric on the selection rows.

    Args:
        finalist: what to fit on.
        task: the pool; its reduced vectors are read.
    """
    train, held_out = task.train, task.selection
    weights = fit_head(train.features[finalist.rows, :-1], train.labels[finalist.rows], task.classes)
    return float(score(task.reported, probabilities(held_out.features[:, :-1], weights), held_out.labels, task.class_shares))


def target_score(
    finalist: Finalist, task: SelectionTask, dataset: TextDataset, recipe: Recipe, seed: int, sample: int = SAMPLE
) -> float:
    """Fine-tune a target on a finalist and return its reported metric on a stratified sample of the selection rows.

    Args:
        finalist: what to train on.
        task: the pool.
        dataset: what the task was built from.
        recipe: of training.
        seed: of training; the sample is the same for all.
        sample: selection rows that are read, at most.
    """
    target = load_target(recipe, task.classes, seed)
    fit(target, dataset.train.take(task.train_rows[finalist.rows]), seed, f"{finalist.how}, seed {seed}")
    inside = stratified_sample(task.selection.labels, min(sample, len(task.selection)), generator(0, "selection sample"))
    rows = dataset.validation.take(task.dataset_rows("selection")[inside])
    return float(score(task.reported, predict(target, rows), rows.labels, task.class_shares))


def contenders(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return who is scored next, best first: the better half, by their mean, of those that were scored most often.

    Args:
        scores: of each finalist, one a training seed so far.

    Source: successive halving, Jamieson and Talwalkar, arXiv 1502.07943.
    """
    most = max(len(found) for found in scores)
    left = [number for number, found in enumerate(scores) if len(found) == most]
    if most:
        left.sort(key=lambda number: -float(np.mean(scores[number])))
        left = left[: -(-len(left) // 2)]
    return left


def select_finalist(
    task: SelectionTask,
    dataset: TextDataset | None = None,
    target: str = "minilm",
    *,
    budget: float = 0.05,
    picks: int | None = None,
    count: int = FINALISTS,
    evaluations: int = EVALUATIONS,
    seeds: Sequence[int] = (0, 1),
    sample: int = SAMPLE,
    seed: int = 0,
    path: str | Path | None = None,
    **recipe: Any,
) -> Selection:
    """Choose rows in two stages: searches and draws propose finalists, the selection rows decide between them.

    Without a dataset a logistic head on the task's vectors decides. With one, the target is fine-tuned on every finalist
    with the first training seed, and with each further seed on the better half of those left.

    Args:
        task: the pool.
        dataset: what the task was built from; None: the head decides.
        target: ``minilm``, a hub name or a folder.
        budget: share of the pool's rows.
        picks: as in ``DataSelectEnv``.
        count: finalists, at most.
        evaluations: proxy evaluations of each search.
        seeds: of the short fine-tunes.
        sample: selection rows that a fine-tune is scored on, at most.
        seed: of draws and searches.
        path: a JSON file for the scores of fine-tunes; what it holds already is not computed again.
        recipe: of the short fine-tunes, as in ``Recipe``; default: one epoch, learning rate 2e-4.

    Returns:
        The winner; ``method`` says what it is. Its score on the selection rows is not kept: it chose, so it flatters.

    Raises:
        InputError: for no seeds, a dataset that the task was not built from, a file of other finalists, or one that another
            process is writing.
    """
    if not seeds:
        raise InputError("the target needs at least one seed to decide between finalists")
    if task.is_instructions:
        raise InputError(f"task {task.name!r} is of instruction data: finalists are decided between by classes; use select")
    if dataset is not None:
        task.check_dataset(dataset)
    if dataset is None and recipe:
        raise InputError(f"{', '.join(recipe)}: without dataset= no target is trained, so it has no recipe")
    chosen = make_recipe(target, **{**SHORT, **recipe})
    started = time.perf_counter()
    proposed = propose(task, budget=budget, picks=picks, count=count, evaluations=evaluations, seed=seed)
    if dataset is None:
        best = max(proposed, key=lambda finalist: head_score(finalist, task))
    else:
        facts = {"task": task.digest, "instance": task.instance, "recipe": asdict(chosen), "sample": sample, "seed": seed}
        with locked(path, wait=0):
            record = _Record(path, {**facts, "finalists": [finalist.digest for finalist in proposed]})
            scores: list[list[float]] = [[] for _ in proposed]
            runs = sum(-(-len(proposed) // 2**round) for round in range(len(seeds)))
            with progress("finalists, fine-tunes", runs) as advance:
                for training in seeds:
                    for number in contenders(scores):
                        key = f"{number} seed={training}"
                        if key not in record.scores:
                            record.add(key, target_score(proposed[number], task, dataset, chosen, training, sample))
                        scores[number].append(record.scores[key])
                        advance(1)
        best = proposed[contenders(scores)[0]]
    seconds = time.perf_counter() - started
    return Selection.from_rows(task, best.rows, f"finalist: {best.how}", seed=seed, seconds=seconds)


class _Kept(TypedDict):
    facts: dict[str, Any]
    scores: dict[str, float]


class _Record:
    """Scores of fine-tunes by their key, kept in a file where there is a path."""

    def __init__(self, path: str | Path | None, facts: dict[str, Any]) -> None:
        self.path, self.facts = None if path is None else Path(path), facts
        self.scores: dict[str, float] = {}
        if self.path is not None and self.path.is_file():
            held = read_json(self.path, _Kept, "file of finalists' scores")
            if held["facts"] != facts:
                raise InputError(f"{str(path)!r} holds scores of other finalists: give another path")
            self.scores = held["scores"]

    def add(self, key: str, value: float) -> None:
        """Keep a score."""
        self.scores[key] = value
        log.info("finalist %s: %.4f", key, value)
        if self.path is not None:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps({"facts": self.facts, "scores": self.scores}, indent=1), encoding="utf-8")
