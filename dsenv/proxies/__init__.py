"""Proxies: set functions from picks of each cluster to a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints, TextDataset, stratified_sample
from dsenv.errors import InputError, one_of
from dsenv.metrics import Doubles, score
from dsenv.picks import PickPlan
from dsenv.seeding import generator
from dsenv.task import RESPONSE_SKILL, SelectionTask

PROXIES = ("ridge", "table", "probe", "finetune")


@dataclass(frozen=True)
class RowSample:
    """A share of the reward rows, drawn by a seed: what an episode with ``reward_rows=`` is paid on.

    Attributes:
        share: of the reward rows, above 0 and at most 1; classes keep their shares.
        seed: of the draw.
    """

    share: float
    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float, np.number)) or not 0 < self.share <= 1:
            raise InputError(f"reward_rows {self.share!r} is not a share of the reward rows: allowed are above 0 up to 1")


@lru_cache(maxsize=256)
def sampled_rows(task: SelectionTask, sample: RowSample) -> Ints:
    """Return the row numbers of a sample inside the reward split, ascending.

    Raises:
        InputError: where the share has fewer rows than the reward rows have classes.
    """
    size = round(sample.share * len(task.reward))
    return stratified_sample(task.reward.labels, size, generator(sample.seed, "reward rows"))


@dataclass
class Memory:
    """What a caller lets a proxy keep from one call to the next, so that a selection close to an earlier one costs less.

    It changes no score (in float32: beyond rounding). A caller keeps one for each stream of selections: its environments,
    its search.

    Attributes:
        places: (B,) where in this memory the predecessors of the next batch stand, each place at most once; default:
            0 to B - 1.
        counts, sums, weights: the proxy's own, by place.
    """

    places: Ints | None = None
    counts: Ints | None = None
    sums: npt.NDArray[np.floating] | None = None
    weights: npt.NDArray[np.floating] | None = None

    def at(self, places: Ints) -> Memory:
        """Return this memory, for selections whose predecessors stand at these places."""
        self.places = places
        return self


class Proxy(Protocol):
    """Φ: how many picks of each cluster -> a score on the reward rows, the same for the same counts.

    Attributes:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
        recipe: JSON-able: what, beside the rows, the counts and the metric, decides a score.
    """

    task: SelectionTask
    plan: PickPlan
    metric: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings."""

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections.

        Args:
            counts: (B, K) picks of each cluster.
            memory: of this caller's last call.
            samples: one for each selection: the reward rows it is scored on, instead of all of them.

        Returns:
            (B,) scores.
        """


def check_samples(counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None) -> Sequence[RowSample] | None:
    """Return ``samples``.

    Raises:
        InputError: where they are not one for each selection (B, K).
    """
    if samples is not None and len(samples) != len(counts):
        raise InputError(f"{len(samples)} samples for {len(counts)} selections: allowed is one for each")
    return samples


def in_order(scored: Iterable[tuple[int, float]], size: int) -> Doubles:
    """Return (size,) scores from (number, score) in any order."""
    found = np.empty(size)
    for number, value in scored:
        found[number] = value
    return found


def empty_score(task: SelectionTask, metric: str, sample: RowSample | None = None) -> float:
    """Return Φ(∅): the score of the model that predicts the training class shares, or the mean response."""
    if metric == RESPONSE_SKILL:
        return 0.0
    labels = task.reward.labels if sample is None else task.reward.labels[sampled_rows(task, sample)]
    scores = np.broadcast_to(task.class_shares, (len(labels), task.classes))
    return float(score(metric, scores, labels, task.class_shares))


def rows_digest(task: SelectionTask, plan: PickPlan) -> str:
    """Return the SHA-256 of what counts stand for: the task, its variant and instance, and the rows behind every pick."""
    named = [task.digest, task.variant, task.instance, plan.picks, plan.rows_per_pick]
    digest = hashlib.sha256(json.dumps(named).encode())
    for array in (plan.sizes, plan.order):
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def recipe_digest(proxy: Proxy) -> str:
    """Return the SHA-256 of everything that, beside the counts, decides a proxy's score: rows, metric and recipe."""
    named = [rows_digest(proxy.task, proxy.plan), proxy.metric, proxy.recipe]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def make_proxy(name: str, task: SelectionTask, plan: PickPlan, metric: str, dataset: TextDataset | None = None) -> Proxy:
    """Return a proxy by name with its default settings; without a dataset, the same object for the same arguments.

    Args:
        name: ``ridge``, ``table``, ``probe`` or ``finetune``. A surrogate is trained first, so it is given as an object.
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics; of instruction data others too.
        dataset: the texts, for ``finetune``.

    Raises:
        InputError: for an unknown proxy, a metric that it does not have, a table asked of a task that has none, or
            ``finetune`` without texts.
    """
    if name == "surrogate":
        raise InputError("a surrogate is trained before it serves: give proxy= a trained SurrogateProxy, not its name")
    one_of("proxy", name, PROXIES)
    if name != "finetune":
        return _shared(name, task, plan, metric)
    from dsenv.proxies.finetune import FinetuneProxy

    if dataset is None:
        raise InputError("proxy 'finetune' trains on texts: give dataset= a TextDataset or its name")
    return FinetuneProxy(task, plan, metric, dataset)


@lru_cache(maxsize=8)
def _shared(name: str, task: SelectionTask, plan: PickPlan, metric: str) -> Proxy:
    if name == "table":
        from dsenv.proxies.table import TableProxy

        return TableProxy(task, plan, metric)
    if name == "probe":
        from dsenv.proxies.probe import ProbeProxy

        return ProbeProxy(task, plan, metric)
    from dsenv.proxies.ridge import RidgeProxy

    return RidgeProxy(task, plan, metric)
