"""Masked PPO on rollouts of a set transformer reward model. ``python -m agents.reward_model_transformer --help``.

Named by arXiv 2509.25850, the set transformer is that of arXiv 1810.00825; ``agents.reward_models`` says what is our reading.
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
    return reward_models.fit("set_transformer", evaluator, rng)


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    fit(evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main_metered("reward_model_transformer", fit, __doc__)
