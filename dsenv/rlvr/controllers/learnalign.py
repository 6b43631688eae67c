"""LearnAlign: questions that can be learned and pull where the others pull (arXiv 2506.11480)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.subset import Subset
from dsenv.rlvr.training import Training, check_gradient_options
from dsenv.selectors.neighbours import normalised


class LearnAlign(Subset):
    """After a warm-up, roll out candidates and keep those whose learnability-weighted gradients agree with all candidates'.

    Published: once, all questions are candidates, 1,000 of about 7,500 are kept after a warm-up on 300, learnability is
    p (1 - p). ``stage`` scores again after so many rounds, on new candidates. Charged are the candidates' rollouts and a
    pass for each of them whose group had signal.

    Args:
        training: whose questions are chosen.
        candidates, keep, warmup, stage, folds: as for every ``Subset``.
        unbiased: learnability is p (1 - p) G / (G - 1).
        coordinates, dimensions: of the gradients, as ``Training.gradients`` takes them.
    """

    def __init__(
        self,
        training: Training,
        candidates: int | None = 256,
        keep: int = 64,
        warmup: int = 4,
        stage: int = 0,
        folds: int = 0,
        unbiased: bool = True,
        coordinates: int | None = 32_768,
        dimensions: int | None = 1024,
    ) -> None:
        super().__init__(training, candidates, keep, warmup, stage, folds)
        check_gradient_options("clipped", coordinates, dimensions)
        self.unbiased, self.coordinates, self.dimensions = unbiased, coordinates, dimensions

    def next_charge(self) -> int:
        """Return at most what the next choice charges: a rollout and a pass for every completion of a candidate."""
        return 2 * self.candidates * self.training.settings.group if self.due() else 0

    def score(self, ids: Ints) -> Doubles:
        """Roll out the candidates and score them; one without signal may not be chosen."""
        found = self.training.roll_out(ids)
        gradients = self.training.gradients(found, coordinates=self.coordinates, dimensions=self.dimensions)
        group = found.rewards.shape[1] if self.unbiased else None
        return np.where(found.signal, learnalign_scores(gradients, found.pass_rates, group), -np.inf)


def learnability(pass_rates: npt.ArrayLike, group: int | None = None) -> Doubles:
    """Return V = p (1 - p), (n,); with ``group`` = G the unbiased p (1 - p) G / (G - 1).

    Raises:
        InputError: for a pass rate outside 0 to 1, or a group below 2.
    """
    p = np.asarray(pass_rates, np.float64)
    if not ((p >= 0) & (p <= 1)).all() or (group is not None and group < 2):
        raise InputError(f"pass rates {p.tolist()[:5]}, group {group!r}: allowed are rates from 0 to 1, groups from 2")
    return np.asarray(p * (1 - p) * (1 if group is None else group / (group - 1)))


def learnalign_scores(gradients: npt.ArrayLike, pass_rates: npt.ArrayLike, group: int | None = None) -> Doubles:
    """Return (1/n) Σ_j V_i V_j cos(g_i, g_j), (n,), itself included, in O(n d): V_i u_i · m, m = (1/n) Σ_j V_j u_j.

    The cosine with a gradient of length 0 counts as 0.

    Args:
        gradients: (n, d).
        pass_rates: (n,) p.
        group: G, for the unbiased learnability.

    Source: arXiv 2506.11480.
    """
    values = learnability(pass_rates, group)
    units = normalised(np.asarray(gradients, np.float64))
    return np.asarray(values * (units @ (values @ units / len(values))))
