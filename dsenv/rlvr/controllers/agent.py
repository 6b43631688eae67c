"""A trained agent as a controller: the policy of an agent of ``DataSelectRLVREnv`` says how often each cluster is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.metrics import Doubles
from dsenv.rlvr.controllers.by_cluster import ByCluster
from dsenv.rlvr.controllers.controller import Arrays
from dsenv.rlvr.history import ClusterHistory
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Training
from dsenv.seeding import generator
from dsenv.selectors.checks import check_positive

WEIGHTS = Path(__file__).parent.parent.parent / "policies" / "questions.safetensors"
HORIZON = 320  # rounds after which a cluster that was not asked counts as long forgotten
QUESTIONS = 8  # of a round in the environment that the shipped agent was trained in

Weights = Mapping[str, npt.NDArray[np.floating]]


class Agent(ByCluster):
    """Draw the clusters of a round from the policy of an agent, each question's anew.

    The shipped agent was trained by PPO in the simulator (``python -m agents.questions``). It sees of every cluster what the
    environment shows, but neither the pass rate on reward questions, which nobody pays here, nor the budget. One small
    network looks at every cluster, so that it serves any number of them.

    Args:
        training: whose questions are chosen.
        weights: a safetensors file of such an agent; default: the shipped one.
        temperature: logits are divided by it; above 1, clusters are asked more evenly than the agent would.

    Raises:
        InputError: where the file is no such agent, or for a temperature that is not above 0.
    """

    def __init__(self, training: Training, weights: str | None = None, temperature: float = 1.0) -> None:
        super().__init__(training)
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.weights = read_weights(WEIGHTS if weights is None else Path(weights))
        horizon = max(1, HORIZON * QUESTIONS // training.settings.round_questions)
        self.history = ClusterHistory(training.questions, horizon)

    def choose(self) -> Ints:
        """Return questions of clusters drawn from the policy."""
        training = self.training
        scores = cluster_scores(self.weights, cluster_inputs(self.history.observe(training.rounds)))
        chances = np.exp((scores - scores.max()) / self.temperature)
        return self.draw(chances, generator(training.seed, f"agent, round {training.rounds}"))

    def learn(self, rollouts: Rollouts) -> None:
        """See the round as the environment shows it."""
        self.history.see(rollouts, self.training.rounds)

    def state(self) -> Arrays:
        """Return what was seen."""
        history = self.history
        return {**super().state(), "difficulty": history.difficulty, "last": history.last, "seen": history.asked}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take it back."""
        super().restore(state)
        self.history.difficulty = state["difficulty"].astype(np.float64)
        self.history.last, self.history.asked = (state[name].astype(np.int64) for name in ("last", "seen"))


def cluster_inputs(seen: Mapping[str, Doubles]) -> Doubles:
    """Return what the network reads of each cluster, (K, 5), from ``ClusterHistory.observe``.

    Difficulty d; 4 d (1 - d); staleness; share asked; whether it was ever asked.
    """
    d = seen["difficulty"]
    return np.stack([d, 4 * d * (1 - d), seen["staleness"], seen["trained"], (seen["trained"] > 0).astype(float)], -1)


def cluster_scores(weights: Weights, inputs: Doubles) -> Doubles:
    """Return (K,) logits of a network of one tanh layer shared over clusters."""
    hidden = np.tanh(inputs @ weights["0.weight"].T + weights["0.bias"])
    return np.asarray((hidden @ weights["2.weight"].T + weights["2.bias"])[:, 0], np.float64)


def read_weights(path: Path) -> Weights:
    """Return the arrays of an agent's file.

    Raises:
        InputError: where it is none.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    names = ["0.bias", "0.weight", "2.bias", "2.weight"]
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{str(path)!r} is no agent: {error}") from error
    if sorted(found) != names or found["0.weight"].shape[1:] != (5,) or len(found["2.weight"]) != 1:
        raise InputError(f"{str(path)!r} is no agent: it holds {', '.join(sorted(found))}, allowed are {', '.join(names)}")
    return found
