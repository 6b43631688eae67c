"""The ridge in torch: thousands of selections in one call, on CUDA where there is some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, require
from dsenv.metrics import SMALLEST_SCORE, Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, RowSample
from dsenv.proxies.ridge import MEMO, RidgeProxy
from dsenv.proxies.scoring import Floats
from dsenv.task import SelectionTask

BATCH = 1024


class TorchRidgeProxy(RidgeProxy):
    """``RidgeProxy`` computed by torch: batched sums, Cholesky factors and predictions on one device.

    Scores equal ``RidgeProxy`` up to rounding (float64: about 1e-9; float32: about 1e-3), not to the last bit. Worth it
    on CUDA and for batches of unrelated selections; along an episode on a CPU ``RidgeProxy`` is faster.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
        precision: ``float32`` or ``float64``.
        device: as torch names it, or ``auto``: CUDA where there is some, else the CPU.
        memo: scores kept of the selections seen last; 0 for none.

    Raises:
        InputError: for an unknown metric, precision or device.
        MissingExtraError: without the extra ``finetune``, which brings torch.
    """

    def __init__(
        self,
        task: SelectionTask,
        plan: PickPlan,
        metric: str,
        *,
        precision: str = "float32",
        device: str = "auto",
        memo: int = MEMO,
    ) -> None:
        self.device = device
        super().__init__(task, plan, metric, precision=precision, memo=memo)

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings."""
        return {"proxy": "ridge", "precision": self.precision, "computed_by": f"torch {self._device.type}"}

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``; a memory is not used."""
        return super().score(counts, samples=samples)

    def weights(self, counts: npt.NDArray[np.integer], *, memory: Memory | None = None) -> Floats:
        """Return W_S for a batch of selections; counts (B, K) -> (B, d, C). The empty selection predicts class shares."""
        counts = self.plan.check_batch(counts)
        parts = [self._device_weights(part).cpu().numpy() for part in np.array_split(counts, len(counts) // BATCH + 1)]
        return np.concatenate(parts).transpose(0, 2, 1)

    def _score(self, counts: Ints, memory: Memory | None) -> Doubles:
        parts = np.array_split(counts, len(counts) // BATCH + 1)
        found = np.concatenate([self._measure(self._device_weights(part)).double().cpu().numpy() for part in parts])
        return np.where(counts.any(1), found, self._empty)

    def _device_weights(self, counts: Ints) -> Any:
        """Wᵀ (B, C, d) on the device."""
        torch = require("torch", "finetune")
        d, width = self._width, self._outputs.width
        places = torch.as_tensor(self._firsts + counts, device=self._device)
        sums = torch.nn.functional.embedding_bag(places, self._prefixes, mode="sum")
        rows = torch.as_tensor(self.plan.taken(counts).sum(1), device=self._device, dtype=sums.dtype)
        gram = sums[:, : d * d].reshape(-1, d, d)
        gram.diagonal(dim1=1, dim2=2).add_(self.task.regularisation * rows.clamp(min=1)[:, None])
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed.any():
            raise InputError(f"the ridge's normal equations are not positive definite in {self.precision}: use float64")
        solved = torch.cholesky_solve(sums[:, d * d :].reshape(-1, width, d).transpose(1, 2), factor).transpose(1, 2)
        return torch.where((rows > 0)[:, None, None], solved, self._shares)

    def _measure(self, weights: Any) -> Any:
        """The metric (B,) of models Wᵀ (B, C, d)."""
        torch = require("torch", "finetune")
        if self._scorer.quadratic:
            products = (weights * (weights @ self._gram - 2 * self._targets)).sum((1, 2), dtype=torch.float64)
            return 1 - (self._scorer.constant + products) / self._scorer.baseline
        scores = weights @ self._features
        if self.metric == "neg_log_loss":
            clipped = scores.clamp(SMALLEST_SCORE, 1)
            return (clipped[:, self._labels, self._numbers] / clipped.sum(1)).log().mean(1, dtype=torch.float64)
        keys = (weights * self._direction).sum(2)  # of equal classes the first wins, as in argmax
        later = (keys[:, :, None] == keys[:, None, :]).tril(-1).any(2)
        scores = scores.masked_fill(later[:, :, None], -torch.inf)
        predicted = scores.argmax(1)
        hits = predicted == self._labels
        if self.metric == "accuracy":
            return hits.double().mean(1)
        count = torch.zeros(len(weights), self.task.classes, device=self._device, dtype=torch.float64)
        chosen = count.scatter_add(1, predicted, torch.ones_like(predicted, dtype=torch.float64))
        right = count.scatter_add(1, self._labels.expand_as(predicted), hits.double())
        return (2 * right / (self._sizes + chosen).clamp(min=1))[:, self._sizes > 0].mean(1)

    def _prepare(self) -> None:
        super()._prepare()
        torch = require("torch", "finetune")
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            self._device = torch.zeros(1, device=wanted).device
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {self.device!r} cannot be used: {error}") from error
        dtype = getattr(torch, self.precision)

        def put(array: npt.NDArray[Any]) -> Any:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=self._device)

        picks = np.diff(self._offsets, append=len(self._table))
        blocks = []
        for cluster, most in enumerate(picks.tolist()):
            added = [np.zeros(self._table.shape[1]), *(self._addition(cluster, pick) for pick in range(most))]
            blocks.append(np.cumsum(added, 0))
        self._firsts = np.cumsum(picks + 1) - (picks + 1)
        self._prefixes, self._shares = put(np.concatenate(blocks)), put(self._share_weights)
        scorer = self._scorer
        if scorer.quadratic:
            self._gram, self._targets = put(scorer.gram), put(scorer.targets)
            return
        self._features, self._direction = put(scorer.features), put(scorer.direction)
        self._labels = torch.as_tensor(scorer.labels, device=self._device)
        self._numbers = torch.arange(len(scorer.labels), device=self._device)
        self._sizes = torch.bincount(self._labels, minlength=self.task.classes)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is computed from the task."""
        return {**super().__getstate__(), "device": self.device}
