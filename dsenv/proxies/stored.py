"""A proxy that remembers: what a store holds is not computed again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.proxies import Memory, Proxy, RowSample, check_samples, in_order, recipe_digest
from dsenv.proxies.entries import Description, Entry, Key, name_selection, pack_counts, unpack_counts
from dsenv.proxies.store import ScoreStore


class StoredProxy:
    """A proxy that computes only what a store does not hold.

    A score counts for its own task, recipe, sample and counts alone, so one store serves any number of proxies. A proxy
    with ``score_each`` (trained proxies, the pool) has each score written as soon as it is known: a killed sweep that is
    started again computes the rest. The seconds of an entry are those from the score before it.

    Args:
        proxy: what computes.
        store: a store, or its path.
        compute: False replays: nothing is computed, and the store is not changed.

    Attributes:
        hits: selections answered without a computation.
        misses: scores computed.
    """

    def __init__(self, proxy: Proxy, store: ScoreStore | str | Path, *, compute: bool = True) -> None:
        self.proxy, self.compute = proxy, compute
        self.task, self.plan, self.metric = proxy.task, proxy.plan, proxy.metric
        self.store = store if isinstance(store, ScoreStore) else ScoreStore(store, write=compute)
        self.hits = self.misses = 0
        of_task = {"task": self.task.name, "variant": self.task.variant, "instance": self.task.instance}
        facts = {**of_task, "metric": self.metric, "rows_per_pick": self.plan.rows_per_pick, "recipe": proxy.recipe}
        self._description = Description(self.task.digest, recipe_digest(proxy), facts)
        self._described = False

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings: remembering changes no score."""
        return self.proxy.recipe

    @property
    def seconds_per_score(self) -> float:
        """The mean of the seconds that this proxy's scores took, of all that the store holds; NaN where it holds none."""
        held = [held for held in self.store.info().recipes if (held.task, held.recipe) == self._description[:2]]
        return held[0].seconds / held[0].scores if held else math.nan

    def score(
        self, counts: npt.NDArray[np.integer], *, memory: Memory | None = None, samples: Sequence[RowSample] | None = None
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``.

        Raises:
            InputError: with ``compute=False``, for a selection that the store does not hold.
            StoreError: where the store cannot be read or written.
        """
        return in_order(self.score_each(counts, samples), len(counts))

    def score_each(
        self, counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (number, Φ) of every selection of a batch (B, K): first what is held, then the rest as it is known."""
        batch = self.plan.check_batch(counts)
        samples = check_samples(batch, samples)
        drawn = [f"{float(sample.share)!r}/{sample.seed}" for sample in samples] if samples else [""] * len(batch)
        keys = [Key(*self._description[:2], sample, pack_counts(row)) for sample, row in zip(drawn, batch, strict=True)]
        held = self.store.get(keys)
        missing: dict[Key, list[int]] = {}
        for number, key in enumerate(keys):
            if key not in held:
                missing.setdefault(key, []).append(number)
        if missing and not self.compute:
            raise InputError(self._name_missing(next(iter(missing))))
        for number, key in enumerate(keys):
            if key in held:
                self.hits += 1
                yield number, held[key]
        if not missing:
            return
        firsts = [numbers[0] for numbers in missing.values()]
        theirs = [samples[number] for number in firsts] if samples else None
        with closing(self._computed(list(missing), batch[firsts], theirs)) as computed:
            for entries in computed:
                if not self._described:
                    self.store.describe(self._description)
                    self._described = True
                self.store.put(entries)
                for entry in entries:
                    self.misses += 1
                    self.hits += len(missing[entry.key]) - 1
                    for number in missing[entry.key]:
                        yield number, entry.score

    def _computed(self, keys: list[Key], batch: Ints, samples: Sequence[RowSample] | None) -> Generator[list[Entry]]:
        started = time.perf_counter()
        each = getattr(self.proxy, "score_each", None)
        if each is None:
            scores = self.proxy.score(batch, samples=samples)
            seconds = (time.perf_counter() - started) / len(batch)
            yield [Entry(key, float(value), seconds) for key, value in zip(keys, scores, strict=True)]
            return
        for number, value in each(batch, samples):
            yield [Entry(keys[number], float(value), time.perf_counter() - started)]
            started = time.perf_counter()

    def _name_missing(self, key: Key) -> str:
        kept = [held for held in self.store.info().recipes if held.task == key.task]
        other = "; ".join(f"{held.scores} scores of {json.dumps(held.facts)}" for held in kept) or "no score of this task"
        on = f" on the sample {key.sample} of the reward rows" if key.sample else ""
        return (
            f"{str(self.store.path)!r} holds no score of {name_selection(unpack_counts(key.counts))}{on} for "
            f"{json.dumps(self._description.facts)}, and compute=False computes none. It holds: {other}"
        )
