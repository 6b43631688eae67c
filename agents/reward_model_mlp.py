"""Masked PPO on rollouts of a learned reward model, an MLP. ``python -m agents.reward_model_mlp --help``.

Named by arXiv 2509.25850; ``agents.reward_models`` says what is our reading.
"""

from __future__ import annotations

import numpy as np
from sb3_contrib import MaskablePPO

from agents import reward_models
from agents.training import main_metered
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator


def fit(evaluator: Evaluator, rng: np.random.Generator) -> MaskablePPO:
    """Train until the evaluations are spent; return the agent."""
    return reward_models.fit("mlp", evaluator, rng)


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    fit(evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main_metered("reward_model_mlp", fit, __doc__)
