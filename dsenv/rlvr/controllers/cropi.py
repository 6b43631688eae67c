"""CROPI: questions whose stored rollouts pull where validation questions pull (arXiv 2510.26491)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.controllers.subset import Subset
from dsenv.rlvr.policy import Floats
from dsenv.rlvr.replay import ReplayBuffer, Rollouts
from dsenv.rlvr.training import Training, check_gradient_options
from dsenv.seeding import generator
from dsenv.selectors.neighbours import normalised
from dsenv.selectors.pool import highest


class Cropi(Subset):
    """Score questions by the influence of rollouts that are stored already, stage by stage.

    At every stage the gradients of stored groups under the policy as it is now are compared with the mean gradients of
    validation questions, several sets of them: the reference questions of each kind.
    Validation questions are rolled out once. Published: the store is eight rollouts of every question by the first policy;
    ours is what the warm-up and the stages themselves rolled out, for nothing, and a part of every stage is uniform, so that
    it grows. Charged are validation rollouts and one pass a completion of a group with signal, stored or of validation.

    Args:
        training: whose questions are chosen.
        stored: groups with signal that are kept, the newest.
        keep, warmup, stage, folds: as for every ``Subset``.
        explore: share of the rounds behind the warm-up whose questions are uniform.
        validation: reference questions of each kind.
        form: ``clipped`` or ``acg``, as ``Training.gradients`` takes it.
        sign: compare the signs of the features alone.
        coordinates, dimensions: of the gradients; published: 15,000,000 and 32,768 for models of 1.5 to 7 billion weights.
    """

    def __init__(
        self,
        training: Training,
        stored: int = 192,
        keep: int = 128,
        warmup: int = 16,
        stage: int = 24,
        folds: int = 0,
        explore: float = 0.5,
        validation: int = 4,
        form: str = "acg",
        sign: bool = False,
        coordinates: int | None = 32_768,
        dimensions: int | None = 1024,
    ) -> None:
        for name, value in (("warmup", warmup), ("stored", stored), ("validation", validation)):
            check_whole(name, value, 1)
        super().__init__(training, None, keep, warmup, stage, folds)
        check_gradient_options(form, coordinates, dimensions)
        if not 0 <= explore < 1:
            raise InputError(f"explore {explore!r}: allowed are numbers from 0 to below 1")
        self.store = ReplayBuffer(stored)
        self.explore, self.validation, self.form, self.sign = explore, validation, form, sign
        self.coordinates, self.dimensions = coordinates, dimensions
        self.validated: Rollouts | None = None
        self.kind_of = training.questions.kinds[1]

    def next_charge(self) -> int:
        """Return at most what the next choice charges."""
        if not self.due():
            return 0
        judges = len(self._judges())
        rolled_out = judges if self.validated is None else 0
        return self.training.settings.group * (rolled_out + judges + len(self.store))

    def choose(self) -> Ints:
        """Return uniform questions in some rounds, else the next ones of the pass."""
        rounds = self.training.rounds
        if rounds > self.warmup and not self.due() and _falls(rounds, self.explore):
            return self._uniform.choose()
        return super().choose()

    def learn(self, rollouts: Rollouts) -> None:
        """Store the round's groups."""
        self.store.add(rollouts)

    def pool(self, rng: np.random.Generator) -> Ints:
        """Return the questions whose groups are stored."""
        return np.empty(0, np.int64) if self.store.groups is None else self.store.groups.questions

    def score(self, ids: Ints) -> Doubles:
        """Compare stored with validation gradients."""
        training = self.training
        if self.validated is None:
            self.validated = training.roll_out(self._judges(), "reference")
        if not len(ids):
            return np.empty(0)
        assert self.store.groups is not None
        kinds = self.kind_of[training.questions.reference.cluster[self.validated.questions]]
        judged = self._gradients(self.validated, "reference")
        means = np.stack([judged[kinds == kind].mean(0) for kind in np.unique(kinds)])
        means = means[np.abs(means).sum(1) > 0]  # a kind that is never or always solved pulls nowhere
        if not len(means):
            return np.full(len(ids), -np.inf)
        influence = influences(self._gradients(self.store.groups, "train"), means, sign=self.sign)
        merged = merged_ranks(influence, self.keep)
        return np.where(merged > 0, merged, -np.inf)

    def state(self) -> Arrays:
        """Return what was chosen and stored."""
        found = super().state()
        for name, groups in (("store", self.store.groups), ("validated", self.validated)):
            if groups is not None:
                found |= groups.arrays(name)
        return found

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        super().restore(state)
        self.store.groups, self.validated = (Rollouts.of(state, name) for name in ("store", "validated"))

    def _gradients(self, groups: Rollouts, part: str) -> Floats:
        given = {"coordinates": self.coordinates, "dimensions": self.dimensions}
        return self.training.gradients(groups, part, form=self.form, **given)

    def _judges(self) -> Ints:
        """Return the reference questions to roll out: of each kind as many."""
        questions = self.training.questions.reference
        kinds = self.kind_of[questions.cluster]
        rng = generator(self.training.seed, "validation questions")
        return np.concatenate([rng.permutation(np.flatnonzero(kinds == kind))[: self.validation] for kind in np.unique(kinds)])


def influences(gradients: npt.ArrayLike, validation: npt.ArrayLike, *, sign: bool = False) -> Doubles:
    """Return cos(g_i, ḡ_v), (n, V), 0 with a gradient of length 0.

    Args:
        gradients: (n, d) of training groups.
        validation: (V, d) mean gradients of validation sets.
        sign: of the numbers' signs alone.

    Source: arXiv 2510.26491.
    """
    ours, theirs = np.asarray(gradients, np.float64), np.asarray(validation, np.float64)
    if sign:
        ours, theirs = np.sign(ours), np.sign(theirs)
    return np.asarray(normalised(ours) @ normalised(theirs).T)


def merged_ranks(influence: npt.ArrayLike, count: int) -> Doubles:
    """Return Σ_v 1 / rank_v(i) over the validation sets in whose first ``count`` i is, (n,); ranks from 1, ties by place.

    Args:
        influence: (n, V).
        count: n of the top n that are taken of each set.

    Source: arXiv 2510.26491, the merging "valid uniform" of its code.
    """
    values = np.asarray(influence, np.float64)
    merged = np.zeros(len(values))
    for column in values.T:
        best = highest(column, count)
        merged[best] += 1 / np.arange(1, len(best) + 1)
    return merged


def _falls(rounds: int, share: float) -> bool:
    """Return whether a round is one of a share of them, spread evenly."""
    return int((rounds + 1) * share) > int(rounds * share)
