"""What a controller is: it chooses the questions of the next round while a policy is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training

Arrays = dict[str, npt.NDArray[np.generic]]


class Controller:
    """Chooses questions; made anew for every run. Randomness comes from the training's seed and round alone.

    Args:
        training: whose questions are chosen. A controller may roll out questions of the training or the reference part, and
            have the policy go through rollouts or answers, which is charged.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.options: dict[str, object] = {}  # as ``make_controller`` was given them
        self.predictions: Doubles | None = None  # (n,) of pass rates of all training questions, where it makes any

    def next_charge(self) -> int:
        """Return how much the next choice charges, at most: rollouts, and passes for choosing; by default nothing."""
        return 0

    def choose(self) -> Ints:
        """Return the ids of the next round's questions, as many as ``training.settings.round_questions``."""
        raise NotImplementedError

    def learn(self, rollouts: Rollouts) -> None:
        """See what the policy answered in a round before it was trained on it; by default nothing is learned."""

    def state(self) -> Arrays:
        """Return what a snapshot has to keep, arrays by name; by default nothing."""
        return {}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take back what ``state`` of such a controller returned; ``load_snapshot`` refuses snapshots of others.

        Raises:
            InputError: where this controller keeps no state.
        """
        if state:
            raise InputError(f"{type(self).__name__} keeps no state, the snapshot has {', '.join(sorted(state))}")
