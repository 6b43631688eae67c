"""PPO (Stable-Baselines3): a pick of an exhausted cluster is allowed and wasted. ``python -m agents.ppo --help``."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from agents.networks import ClusterPolicy
from agents.training import learn, main
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator


def settings(picks: int) -> dict[str, Any]:
    """Return hyper-parameters: every update sees one whole episode of each environment, undiscounted."""
    return {
        "n_steps": picks,
        "batch_size": 4 * picks,
        "n_epochs": 4,
        "learning_rate": 1e-3,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "device": "cpu",
    }


def make_model(env: VecEnv, picks: int, seed: int, tensorboard: str | None) -> PPO:
    """Return an untrained model."""
    return PPO(ClusterPolicy, env, seed=seed, tensorboard_log=tensorboard, **settings(picks))


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    learn(make_model, evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main("ppo", make_model, __doc__)
