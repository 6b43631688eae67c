"""Masked PPO trained on a reward model first, then on real scores. ``python -m agents.warm_start_model --help``.

WarmStart is named by arXiv 2509.25850 and could not be read; ours is one of two readings (the other:
``agents.warm_start_buffer``): the agent is trained on rollouts of an MLP reward model fitted to random selections, which are
charged, and goes on in the same environments on real scores.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from sb3_contrib import MaskablePPO

from agents import maskable_ppo
from agents.reward_models import Scorer, first_scores
from agents.training import ENVIRONMENTS, draw_seed, learn, main_metered, metered
from dsenv.errors import ending_cleanly
from dsenv.search import BudgetSpent, Evaluator

PRETRAINED = 256  # synthetic episodes, or as many as evaluations may be spent


def fit(evaluator: Evaluator, rng: np.random.Generator) -> MaskablePPO:
    """Train until the evaluations are spent; return the agent.

    Raises:
        BudgetSpent: where the evaluations do not even suffice for the reward model.
    """
    known = first_scores(evaluator, rng)
    scorer, picks, seed = Scorer(evaluator), evaluator.plan.picks, draw_seed(rng)
    agent = maskable_ppo.make_model(metered(evaluator, ENVIRONMENTS, seed, scorer), picks, seed, None)
    if known.enough:
        scorer.proxy = known.reward_model("mlp", seed)
        agent.learn(min(PRETRAINED, evaluator.limit) * picks)
    scorer.proxy = evaluator
    with suppress(BudgetSpent):
        agent.learn(evaluator.left * picks)
    return agent


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train until the evaluations are spent; what an agent leaves that repeats itself goes to PPO without a warm start."""
    fit(evaluator, rng)
    learn(maskable_ppo.make_model, evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main_metered("warm_start_model", fit, __doc__)
