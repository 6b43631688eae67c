"""The default proxy: ridge regression trained exactly on any selection, at a cost that no row adds to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.blocks import row_blocks
from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole, one_of
from dsenv.metrics import Doubles, one_hot, score
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, RowSample, check_samples, empty_score, sampled_rows
from dsenv.proxies.outputs import Outputs, response_skill, ridge_metrics
from dsenv.proxies.scoring import Floats, LinearScorer
from dsenv.task import RESPONSE_SKILL, SelectionTask, Split

PRECISIONS = ("float64", "float32")
BATCH = 64  # selections whose sums are held at a time, where the caller keeps no memory
MEMO = 65_536


def fit_ridge(
    features: npt.NDArray[np.floating], labels: Ints, classes: int, regularisation: float, weights: Doubles | None = None
) -> Doubles:
    """Return W = (Xᵀ D X + λ Σw I)⁻¹ Xᵀ D Y, shape (d, C), for one-hot Y and D = diag(weights), default ones."""
    return fit_linear(features, one_hot(labels, classes), regularisation, weights)


def fit_linear(
    features: npt.NDArray[np.floating], targets: Doubles, regularisation: float, weights: Doubles | None = None
) -> Doubles:
    """Return the same W for any targets Y (n, C)."""
    x = features.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights
    weighted = x * w[:, None]
    gram = weighted.T @ x + regularisation * w.sum() * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, weighted.T @ targets))


def score_weights(task: SelectionTask, weights: Doubles, split: Split, metric: str) -> Doubles:
    """Return a metric of linear models W (..., d, C) on the rows of a split."""
    if metric == RESPONSE_SKILL:
        outputs = Outputs(task, metric)
        return response_skill(split.features.astype(np.float64) @ weights, outputs.of_split(split), outputs.mean)
    return score(metric, split.features.astype(np.float64) @ weights, split.labels, task.class_shares)


class RidgeProxy:
    """Φ(S) = metric of W_S = (G_S + λ n_S I)⁻¹ B_S, where G_S and B_S are sums over the selected rows.

    What a pick adds to the sums is computed when it is first asked for, and kept. In ``float64`` it is rounded to a grid
    (2^-52 of the largest sum that any rows can have) on which additions are exact: whatever the order of picks, and
    whether sums are carried on from the caller's last selections or made anew, the sums and so the score are the same to
    the last bit. In ``float32`` sums are carried on by additions alone, and scores are the same to about 1e-6.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics; of instruction data ``response_skill`` too.
        precision: of sums and solutions: ``float64``, or ``float32`` (faster; W to about 1e-3).
        memo: scores kept of the selections seen last; 0 for none.

    Raises:
        InputError: for an unknown metric or precision.
    """

    def __init__(
        self, task: SelectionTask, plan: PickPlan, metric: str, *, precision: str = "float64", memo: int = MEMO
    ) -> None:
        self.task, self.plan, self.metric = task, plan, one_of("metric", metric, ridge_metrics(task))
        self.precision = one_of("precision", precision, PRECISIONS)
        check_whole("memo", memo, 0)
        self._memo_size = int(memo)
        self._prepare()

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings."""
        return {"proxy": "ridge", "precision": self.precision}

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``."""
        counts = self.plan.check_batch(counts)
        if samples is not None:
            return self._score_samples(counts, memory, samples)
        if not self._memo_size:
            return self._score(counts, memory)
        keys = [row.tobytes() for row in counts]
        fresh = np.array([i for i, key in enumerate(keys) if key not in self._memo], np.int64)
        if len(fresh) < len(keys) and memory is not None:
            memory.at((np.arange(len(keys)) if memory.places is None else memory.places)[fresh])
        found = dict(zip(fresh.tolist(), self._score(counts[fresh], memory).tolist(), strict=True))
        scores = np.array([found[i] if i in found else self._memo[key] for i, key in enumerate(keys)])
        for key, value in zip(keys, scores.tolist(), strict=True):
            self._memo[key] = value
            self._memo.move_to_end(key)
        while len(self._memo) > self._memo_size:
            self._memo.popitem(last=False)
        return scores

    def weights(self, counts: npt.NDArray[np.integer], *, memory: Memory | None = None) -> Floats:
        """Return W_S for a batch of selections; counts (B, K) -> (B, d, C). The empty selection predicts class shares."""
        counts = self.plan.check_batch(counts)
        found = np.empty((len(counts), self._outputs.width, self._width), self.precision)
        for part, weights in self._solved(counts, memory):
            found[part] = weights
        return found.transpose(0, 2, 1)

    def _score(self, counts: Ints, memory: Memory | None) -> Doubles:
        found = np.empty(len(counts))
        for part, weights in self._solved(counts, memory):
            found[part] = self._scorer.score(weights)
        return np.where(counts.any(1), found, self._empty)

    def _score_samples(self, counts: Ints, memory: Memory | None, samples: Sequence[RowSample]) -> Doubles:
        check_samples(counts, samples)
        weights, reward = self.weights(counts, memory=memory).astype(np.float64), self.task.reward
        found = np.empty(len(counts))
        for i, sample in enumerate(samples):
            if counts[i].any():
                rows = sampled_rows(self.task, sample)
                responses = None if reward.responses is None else reward.responses[rows]
                split = Split(reward.features[rows], reward.labels[rows], reward.sources[rows], responses)
                found[i] = score_weights(self.task, weights[i], split, self.metric)
            else:
                found[i] = empty_score(self.task, self.metric, sample)
        return found

    def _solved(self, counts: Ints, memory: Memory | None) -> Iterator[tuple[slice, Floats]]:
        """Yield (part of the batch, Wᵀ), few selections at a time, so that little is held."""
        all_places = np.arange(len(counts)) if memory is None or memory.places is None else memory.places
        if memory is not None:
            memory.places = None
        for start in range(0, len(counts), BATCH):
            part = slice(start, start + BATCH)
            places = all_places[part] - (start if memory is None else 0)
            yield part, self._solve(counts[part], places, Memory() if memory is None else memory)

    def _solve(self, counts: Ints, places: Ints, memory: Memory) -> Floats:
        """Return Wᵀ (B, C, d), going on from what stands at ``places`` of the memory, and leave the result there."""
        from scipy.linalg import lapack

        posv = lapack.dposv if self.precision == "float64" else lapack.sposv
        held, sums, weights = self._hold(memory, int(places.max(initial=-1)) + 1)
        changed = (held[places] != counts).any(1)
        here = places[changed]
        self._carry_on(held, sums, counts[changed], here)
        d = self._width
        rows = self.plan.taken(held[here]).sum(1)
        weights[here[rows == 0]] = self._share_weights
        here, rows = here[rows > 0], rows[rows > 0]
        gram = sums[here, : d * d]
        gram[:, :: d + 1] += (self.task.regularisation * rows)[:, None].astype(gram.dtype)
        solved = sums[here, d * d :].reshape(-1, self._outputs.width, d)
        # LAPACK counts by columns: the transposed views are G and B in its order, solved in place.
        for g, w in zip(gram.reshape(-1, d, d).transpose(0, 2, 1), solved.transpose(0, 2, 1), strict=True):
            if posv(g, w, overwrite_a=1, overwrite_b=1)[2]:
                held[here], sums[here], weights[here] = 0, 0, self._share_weights  # the memory holds together
                raise InputError(f"the ridge's normal equations are not positive definite in {self.precision}")
        weights[here] = solved
        return np.asarray(weights[places])

    def _hold(self, memory: Memory, size: int) -> tuple[Ints, Floats, Floats]:
        """Make room for ``size`` selections; new ones are empty."""
        known = 0 if memory.counts is None else len(memory.counts)
        if known < size:
            fresh = size - known
            counts = np.zeros((fresh, self.plan.clusters), np.int64)
            sums = np.zeros((fresh, self._table.shape[1]), self.precision)
            weights = np.broadcast_to(self._share_weights, (fresh, *self._share_weights.shape))
            if memory.counts is not None and memory.sums is not None and memory.weights is not None:
                counts = np.concatenate([memory.counts, counts])
                sums = np.concatenate([memory.sums, sums])
                weights = np.concatenate([memory.weights, weights])
            memory.counts, memory.sums, memory.weights = counts, sums, weights.copy()
        assert memory.counts is not None and memory.sums is not None and memory.weights is not None
        return memory.counts, memory.sums, memory.weights

    def _carry_on(self, held: Ints, sums: Floats, counts: Ints, places: Ints) -> None:
        """Bring the sums at ``places`` to ``counts``, from what is held there or from nothing: whichever is less work."""
        change = counts - held[places]
        anew = counts.sum(1) < np.abs(change).sum(1)
        if self.precision == "float32":  # additions round by little, the difference of large sums by much
            anew |= (change < 0).any(1)
        held[places[anew]] = 0
        sums[places[anew]] = 0
        before = held[places]
        chosen, clusters = np.nonzero(before != counts)
        low = np.minimum(before, counts)[chosen, clusters] + self._offsets[clusters]
        high = np.maximum(before, counts)[chosen, clusters] + self._offsets[clusters]
        added = (counts > before)[chosen, clusters]
        self._fill(high)
        table = self._table
        for place, first, last, more in zip(places[chosen].tolist(), low.tolist(), high.tolist(), added.tolist(), strict=True):
            added_by_picks = table[first] if last == first + 1 else table[first:last].sum(0)
            if more:
                sums[place] += added_by_picks
            else:
                sums[place] -= added_by_picks
        held[places] = counts

    def _fill(self, ends: Ints) -> None:
        """Compute what the picks of a cluster before each end add, where that is not known yet: from its first pick on."""
        for end in ends[~self._known[ends - 1]].tolist():
            cluster = int(np.searchsorted(self._offsets, end - 1, "right")) - 1
            first = int(self._offsets[cluster])
            for pick in np.flatnonzero(~self._known[first:end]).tolist():
                self._table[first + pick] = self._addition(cluster, pick)
                self._known[first + pick] = True

    def _addition(self, cluster: int, pick: int) -> Doubles:
        """What a pick adds to [G | Bᵀ], flat (d d + C d,)."""
        begin = int(self.plan.starts[cluster]) + pick * self.plan.rows_per_pick
        end = min(begin + self.plan.rows_per_pick, int(self.plan.starts[cluster] + self.plan.sizes[cluster]))
        rows = self.plan.order[begin:end]
        x = self.task.train_features(rows).astype(np.float64)
        y = self._outputs.of_train(rows)
        sums = np.concatenate([(x.T @ x).ravel(), (y.T @ x).ravel()])
        return np.rint(sums / self._grid) * self._grid if self.precision == "float64" else sums

    def _prepare(self) -> None:
        """Make what is computed once and left out of pickles."""
        task, plan = self.task, self.plan
        self._width = task.reward.features.shape[1]
        self._outputs = outputs = Outputs(task, self.metric)
        mean = outputs.mean
        picks = np.minimum(plan.capacity, plan.picks)  # more of one cluster than an episode has are never asked for
        self._offsets = np.cumsum(picks) - picks
        self._table = np.empty((int(picks.sum()), self._width * (self._width + len(mean))), self.precision)
        self._known = np.zeros(len(self._table), bool)
        # |Σ a b| ≤ ‖a‖ ‖b‖ over any rows: no sum exceeds the norms' product, and 2^53 steps of the grid are counted exactly.
        squares = sum(
            (task.train_features(plan.order[part]).astype(np.float64) ** 2).sum(0) for part in row_blocks(len(plan.order))
        )
        norms = np.sqrt(np.maximum(squares, np.finfo(np.float64).tiny))
        if outputs.responses:
            lengths = np.sqrt(np.maximum((task.train_responses().astype(np.float64) ** 2).sum(0), np.finfo(np.float64).tiny))
        else:
            lengths = np.full(len(mean), norms[-1])  # of the constant: a class has no more rows than the pool
        bounds = np.concatenate([np.outer(norms, norms).ravel(), np.outer(lengths, norms).ravel()])
        self._grid = 2.0 ** (np.ceil(np.log2(bounds)) - 52)
        constant = np.zeros((len(mean), self._width), self.precision)
        constant[:, -1] = mean
        self._share_weights = constant
        self._scorer = LinearScorer(task, self.metric, self.precision)
        self._empty = empty_score(task, self.metric)
        self._memo: OrderedDict[bytes, float] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is computed from the task."""
        kept = ("task", "plan", "metric", "precision", "_memo_size")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()
