"""Questions by the pass rate and the coefficient of variation of their answers (DeepDistill, arXiv 2504.17565)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.difficulty import check_bounds
from dsenv.rlvr.controllers.subset import Subset
from dsenv.rlvr.training import Training


class PassRates(Subset):
    """Roll out candidates and keep those that are solved at times, whose answers vary most.

    With rewards of 0 and 1 the coefficient of variation is √((1 - p) / p): the most varied ones are the hardest of those that
    are solved at all. Published for distillation from a stronger model's answers; that the policy's own are measured is ours.

    Args:
        training: whose questions are chosen.
        candidates, keep, warmup, stage, folds: as for every ``Subset``.
        low: least pass rate; candidates that were never solved are left out in any case.
        high: largest pass rate.
    """

    def __init__(
        self,
        training: Training,
        candidates: int | None = 256,
        keep: int = 64,
        warmup: int = 0,
        stage: int = 0,
        folds: int = 0,
        low: float = 0.1,
        high: float = 0.9,
    ) -> None:
        super().__init__(training, candidates, keep, warmup, stage, folds)
        check_bounds(low, high)
        self.low, self.high = low, high

    def next_charge(self) -> int:
        """Return the rollouts of the candidates."""
        return self.candidates * self.training.settings.group if self.due() else 0

    def score(self, ids: Ints) -> Doubles:
        """Roll out the candidates; those outside the bounds may not be chosen."""
        rates = self.training.roll_out(ids).pass_rates
        inside = (rates >= self.low) & (rates <= self.high) & (rates > 0)
        return np.where(inside, variation(np.where(inside, rates, 1)), -np.inf)


def variation(pass_rates: npt.ArrayLike) -> Doubles:
    """Return the coefficient of variation of rewards of 0 and 1, standard deviation / mean = √((1 - p) / p), (n,).

    Raises:
        InputError: for a pass rate that is not above 0 and at most 1.
    """
    p = np.asarray(pass_rates, np.float64)
    if not ((p > 0) & (p <= 1)).all():
        raise InputError(f"pass rates {p.tolist()[:5]}: allowed are numbers above 0 up to 1")
    return np.asarray(np.sqrt((1 - p) / p))
