"""Masked PPO (sb3-contrib): exhausted clusters have probability 0. ``python -m agents.maskable_ppo --help``."""

from __future__ import annotations

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv

from agents.networks import MaskableClusterPolicy
from agents.ppo import settings
from agents.training import learn, main
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator


def make_model(env: VecEnv, picks: int, seed: int, tensorboard: str | None) -> MaskablePPO:
    """Return an untrained model, with PPO's hyper-parameters."""
    return MaskablePPO(MaskableClusterPolicy, env, seed=seed, tensorboard_log=tensorboard, **settings(picks))


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    learn(make_model, evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main("maskable_ppo", make_model, __doc__)
