"""Published ways to choose rows without a search, one protocol: (pool, count, rng, **options) -> row numbers.

``select`` chooses rows of a task with any of them, or with a search.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dsenv.dataset import Ints, TextDataset
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, check_whole, one_of
from dsenv.search import SEARCHES, search
from dsenv.seeding import generator
from dsenv.selection import Selection
from dsenv.selectors.agreement import knn_agreement
from dsenv.selectors.ask_llm import ask_llm
from dsenv.selectors.craig import craig
from dsenv.selectors.d2_pruning import d2_pruning
from dsenv.selectors.data_whisperer import data_whisperer
from dsenv.selectors.density import density
from dsenv.selectors.dsir import dsir
from dsenv.selectors.el2n import el2n, grand
from dsenv.selectors.facility_location import facility_location
from dsenv.selectors.forgetting import forgetting
from dsenv.selectors.glister import glister
from dsenv.selectors.gradmatch import gradmatch
from dsenv.selectors.herding import herding
from dsenv.selectors.influence import influence
from dsenv.selectors.k_center import k_center
from dsenv.selectors.knn_shapley import knn_shapley
from dsenv.selectors.less import less
from dsenv.selectors.pool import Pool, Selector
from dsenv.selectors.pvi import pvi
from dsenv.selectors.s2l import s2l
from dsenv.selectors.semdedup import semdedup
from dsenv.selectors.simple import class_balanced, class_mix, random
from dsenv.selectors.trak import trak
from dsenv.selectors.ufo import ufo
from dsenv.task import SelectionTask

__all__ = ["SELECTORS", "Pool", "Selector", "choose_rows", "select"]

SELECTORS: dict[str, Selector] = {
    selector.__name__: selector
    for selector in (
        random, class_balanced, class_mix,
        k_center, facility_location, herding, density, semdedup, d2_pruning, dsir,
        el2n, grand, forgetting, s2l, pvi, influence, knn_shapley, knn_agreement, craig, gradmatch, glister,
        less, trak, ask_llm, ufo, data_whisperer,
    )
}  # fmt: skip


def choose_rows(pool: Pool, method: str, count: int, seed: int = 0, **options: object) -> Ints:
    """Choose rows with a selector.

    Args:
        pool: what it may read.
        method: a name of ``SELECTORS``.
        count: rows to choose, at least one a class that the pool has.
        seed: of what it draws.
        options: the selector's own.

    Returns:
        (count,) row numbers of the pool, none twice; best first where the selector scores rows one by one.

    Raises:
        InputError: for an unknown method or option, a count that the pool does not have, or below its classes.
    """
    selector = SELECTORS[one_of("selector", method, SELECTORS)]
    check_whole("seed", seed, 0)
    check_whole("count", count, 1)
    classes = len(np.unique(pool.labels))
    if not classes <= count <= len(pool):
        raise InputError(
            f"{count} rows of a pool of {len(pool)} rows and {classes} classes: allowed are {classes}, a row a class, to "
            f"{len(pool)}"
        )
    signature = inspect.signature(selector)
    allowed = [name for name, option in signature.parameters.items() if option.kind is option.KEYWORD_ONLY]
    for name in options:
        one_of(f"option of selector {method!r}", name, allowed)
    missing = [
        name for name in allowed if signature.parameters[name].default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise InputError(f"selector {method!r} needs the option {missing[0]!r}")
    return selector(pool, count, generator(seed, f"selector {method}"), **options)


def select(
    task: SelectionTask | str | Path,
    *,
    method: str = "swap",
    budget: float = 0.05,
    evaluations: int = 4096,
    seed: int = 0,
    metric: str | None = None,
    instance: int | None = None,
    dataset: TextDataset | None = None,
    options: Mapping[str, object] | None = None,
    **plan: object,
) -> Selection:
    """Choose rows of a task with a search or a selector.

    Args:
        task: a ``SelectionTask``, a task file, ``synthetic`` or a bundled name.
        method: a name of ``dsenv.search.SEARCHES``, which picks clusters, or of ``SELECTORS``, which choose as many rows as
            a proportional selection has and leave ``score`` unset.
        budget: share of the training rows.
        evaluations: proxy evaluations that a search may spend.
        seed: of the method.
        metric: what Φ measures; default: the task's own.
        instance: as in ``DataSelectEnv``.
        dataset: what the task was built from, for selectors that read texts and for the proxy ``finetune``.
        options: the selector's own; a search has none.
        plan: ``unit=``, ``clustering=``, ``picks=``, ``proxy=`` as in ``DataSelectEnv``.

    Raises:
        InputError: for values outside what is allowed.
        MissingExtraError: where the selector needs an extra.
    """
    one_of("method", method, [*SEARCHES, *SELECTORS])
    for name in plan:
        one_of("argument", name, ("unit", "clustering", "picks", "proxy"))
    own = dict(options or {})
    if own and method in SEARCHES:
        raise InputError(f"options {own!r}: search {method!r} has none")
    env = DataSelectEnv(
        task,
        metric=metric,
        budget=budget,
        instance=instance,
        dataset=dataset,
        **plan,  # type: ignore[arg-type]
    )
    if dataset is not None and env.proxy.recipe["proxy"] != "finetune":  # which derives it itself
        env.task.check_dataset(dataset)
    started = time.perf_counter()
    if method in SELECTORS:
        pool = Pool.from_task(env.task, dataset, env.metric)
        rows = choose_rows(pool, method, env.plan.budget_rows, seed, **own)
        return Selection.from_rows(env.task, rows, method, seed=seed, seconds=time.perf_counter() - started)
    found = search(env.proxy, method, evaluations=evaluations, seed=seed)
    return Selection.from_counts(
        env.task,
        env.plan,
        found.counts,
        method,
        seed=seed,
        score=found.score,
        evaluations=found.used,
        history=found.history,
        seconds=time.perf_counter() - started,
    )
