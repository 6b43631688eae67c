"""The Markov decision process, for one or many episodes at once: picks, rewards, observations (arXiv 2509.25850)."""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dsenv.clustering import Clustering
from dsenv.dataset import Ints
from dsenv.features import FEATURES, cluster_features
from dsenv.metrics import NEG_RESPONSE_LOSS, Doubles
from dsenv.proxies import Memory, Proxy, RowSample

LARGEST_LOG_LOSS = float(np.log(1000))
WASTED = 0.5  # share of an episode's picks: who spends more on exhausted clusters has lost the masks, most likely

log = logging.getLogger(__name__)


class Episodes:
    """N episodes of the same problem, stepped together; ``DataSelectEnv`` plays one, ``DataSelectVectorEnv`` many.

    Args:
        proxy: Φ, with the task and the plan of picks.
        clustering: the clusters that actions name.
        dense: pay Φ(after) - Φ(before) for every pick, instead of Φ(final) - Φ(∅) for the last one.
        flat: observe one vector, instead of a dictionary.
        size: N.

    Attributes:
        counts: (N, K) picks of each cluster that added rows.
        spent: (N,) picks spent.
        score: (N,) Φ on all reward rows; what is shown.
        paid: (N,) Φ on the rows that the episode is paid on: all of them, or its sample.
    """

    def __init__(self, proxy: Proxy, clustering: Clustering, *, dense: bool, flat: bool, size: int) -> None:
        self.proxy, self.plan = proxy, proxy.plan
        self._dense, self._flat = dense, flat
        self._features = None if flat else cluster_features(proxy.task, clustering)
        self._empty = float(proxy.score(np.zeros((1, self.plan.clusters), np.int64))[0])
        self.observation_space = self._space()
        self._begin(size)

    def resized(self, size: int) -> Episodes:
        """Return ``size`` new episodes of the same problem."""
        other = copy(self)
        other._begin(size)
        return other

    def _begin(self, size: int) -> None:
        clusters = self.plan.clusters
        self._warned = False
        self._memory = Memory()
        self._samples: list[RowSample | None] = [None] * size
        self.counts: Ints = np.zeros((size, clusters), np.int64)
        self.spent: Ints = np.full(size, self.plan.picks)
        self.score: Doubles = np.full(size, self._empty)
        self.paid: Doubles = self.score.copy()
        self._taken: Ints = np.zeros((size, clusters), np.int64)

    @property
    def over(self) -> npt.NDArray[np.bool_]:
        """(N,) True where every pick is spent."""
        return np.asarray(self.spent == self.plan.picks)

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(N, K) True where a pick would add rows."""
        return np.asarray(self.counts < self.plan.capacity)

    def start(self, places: Ints, counts: Ints, samples: list[RowSample | None]) -> None:
        """Begin episodes at ``places`` (M,) with ``counts`` (M, K) picks spent, each paid on its sample (None: all rows)."""
        self.counts[places] = counts
        self.spent[places] = counts.sum(1)
        self._taken[places] = self.plan.taken(counts)
        for place, sample in zip(places.tolist(), samples, strict=True):
            self._samples[place] = sample
            self.score[place] = self._empty
            nothing = np.zeros((1, self.plan.clusters), np.int64)
            self.paid[place] = self.proxy.score(nothing, samples=[sample])[0] if sample else self._empty
        if self._dense:
            self._evaluate(places[counts.any(1)])

    def pick(self, places: Ints, actions: Ints) -> Doubles:
        """Pick cluster ``actions`` (M,) in the episodes at ``places`` (M,); return the rewards (M,)."""
        before = self.paid[places]
        added = self.counts[places, actions] < self.plan.capacity[actions]
        self.counts[places, actions] += added
        self._taken[places, actions] = np.minimum(
            self.counts[places, actions] * self.plan.rows_per_pick, self.plan.sizes[actions]
        )
        self.spent[places] += 1
        self._warn(places)
        self._evaluate(places[added] if self._dense else places[self.over[places]])
        return np.asarray(self.paid[places] - before)

    def observe(self) -> Any:
        """Return the observations of all episodes, batched: (N, K + 2), or a dictionary of batches."""
        taken = (self._taken / self.plan.sizes).astype(np.float32)
        left = 1 - self.spent / self.plan.picks
        shown = self.paid / LARGEST_LOG_LOSS if self.proxy.metric in ("neg_log_loss", NEG_RESPONSE_LOSS) else self.paid
        rest = np.stack([left, np.clip(shown, -1, 1)], 1).astype(np.float32)
        if self._flat:
            return np.concatenate([taken, rest], 1)
        assert self._features is not None
        return {
            "clusters": np.repeat(self._features[None], len(taken), 0),
            "taken": taken,
            "picks_left": rest[:, :1],
            "score": rest[:, 1:],
            "action_mask": self.masks.astype(np.int8),
        }

    def info(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``action_mask`` (N, K), ``score`` (N,) and ``rows`` (N,) of all episodes."""
        return {"action_mask": self.masks.astype(np.int8), "score": self.score.copy(), "rows": self._taken.sum(1)}

    def _warn(self, places: Ints) -> None:
        """Say once that masks seem to be lost: what loses them (SB3's own ``evaluate_policy``, say) does so silently."""
        ended = places[self.over[places]]
        if self._warned or not len(ended):
            return
        wasted, picks = int((self.spent[ended] - self.counts[ended].sum(1)).max()), self.plan.picks
        if wasted > WASTED * picks:
            self._warned = True
            log.warning(
                "%d of an episode's %d picks were of exhausted clusters and added nothing: is the action mask lost? "
                "docs/libraries.md says where libraries lose it",
                wasted,
                picks,
            )

    def _evaluate(self, places: Ints) -> None:
        if not len(places):
            return
        counts = self.counts[places]
        # With one evaluation an episode there is no predecessor to go on from.
        memory = self._memory.at(places) if self._dense else None
        self.score[places] = self.proxy.score(counts, memory=memory)
        samples = [sample for place in places.tolist() if (sample := self._samples[place]) is not None]
        if samples:
            memory = self._memory.at(places) if self._dense else None
            self.paid[places] = self.proxy.score(counts, memory=memory, samples=samples)
        else:
            self.paid[places] = self.score[places]

    def _space(self) -> spaces.Space[Any]:
        clusters = self.plan.clusters
        if self._flat:
            low = np.zeros(clusters + 2, np.float32)
            low[-1] = -1
            return spaces.Box(low, np.ones(clusters + 2, np.float32), dtype=np.float32)
        return spaces.Dict(
            {
                "clusters": spaces.Box(0, 1, (clusters, len(FEATURES)), np.float32),
                "taken": spaces.Box(0, 1, (clusters,), np.float32),
                "picks_left": spaces.Box(0, 1, (1,), np.float32),
                "score": spaces.Box(-1, 1, (1,), np.float32),
                "action_mask": spaces.MultiBinary(clusters),
            }
        )
