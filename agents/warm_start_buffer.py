"""Double DQN that starts from the best selections of a cheap first phase. ``python -m agents.warm_start_buffer --help``.

WarmStart is named by arXiv 2509.25850 and could not be read; ours is one of two readings (the other:
``agents.warm_start_model``): a first phase scores random selections and then neighbours of the best, which is charged;
DQN's replay buffer begins with episodes that rebuild the best of them and some of the others, in random orders.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents import dqn
from agents.reward_models import Known
from agents.training import ENVIRONMENTS, draw_seed, learn, main_metered, metered
from dsenv.dataset import Ints
from dsenv.errors import ending_cleanly
from dsenv.search import BudgetSpent, Evaluator

FIRST = 256  # evaluations of the first phase, or a quarter of what may be spent; half of them are random
CLIMB = 16  # neighbours scored at a time
BEST, OTHERS = 32, 64  # selections rebuilt
EXPLORATION = 0.6  # at first


class WarmDQN(dqn.MaskedDoubleDQN):
    """Masked double DQN whose first actions are given.

    Attributes:
        script: (T, N) actions of the first T steps in N environments.
    """

    script: Ints

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[np.ndarray, np.ndarray]:
        if len(self.script):
            actions, self.script = self.script[0], self.script[1:]
            return actions, actions
        return super()._sample_action(learning_starts, action_noise, n_envs)


def rebuild(selections: Ints, environments: int, rng: np.random.Generator) -> Ints:
    """Return (T, N) actions that rebuild selections (M, K) of equal numbers of picks, each in a random order."""
    orders = [rng.permutation(np.repeat(np.arange(len(counts)), counts)) for counts in selections]
    rounds = -(-len(orders) // environments)
    filled = [orders[place % len(orders)] for place in range(rounds * environments)]
    return np.concatenate([np.stack(filled[n * environments : (n + 1) * environments], 1) for n in range(rounds)])


def first_phase(evaluator: Evaluator, rng: np.random.Generator) -> Known:
    """Score random selections, and then neighbours of the best so far."""
    known = Known(evaluator)
    size = max(1, min(FIRST, evaluator.limit // 4))
    known.explore(-(-size // 2), rng)
    for _ in range(size // 2 // CLIMB):
        known.score(known.near_best(CLIMB, rng))
    return known


def make_model(env: VecEnv, picks: int, seed: int, tensorboard: str | None) -> WarmDQN:
    """Return an untrained model, with DQN's hyper-parameters but less exploration: the buffer knows good selections."""
    model = dqn.make_model(env, picks, seed, tensorboard, WarmDQN)
    assert isinstance(model, WarmDQN)
    model.exploration_initial_eps = EXPLORATION
    model.exploration_schedule = LinearSchedule(EXPLORATION, model.exploration_final_eps, model.exploration_fraction)
    return model


def fit(evaluator: Evaluator, rng: np.random.Generator) -> WarmDQN:
    """Train until the evaluations are spent; return the agent.

    Raises:
        BudgetSpent: where the evaluations do not even suffice for the first phase.
    """
    known = first_phase(evaluator, rng)
    ranked = known.best(len(known.scores))
    chosen = np.concatenate([ranked[:BEST], rng.permutation(ranked[BEST:])[:OTHERS]])
    seed, picks = draw_seed(rng), evaluator.plan.picks
    agent = make_model(metered(evaluator, ENVIRONMENTS, seed), picks, seed, None)
    # Where all rows fit into the budget, a selection has fewer picks than an episode and nothing is to be learned.
    agent.script = (
        rebuild(chosen, ENVIRONMENTS, rng) if (chosen.sum(1) == picks).all() else np.zeros((0, ENVIRONMENTS), np.int64)
    )
    with suppress(BudgetSpent):
        agent.learn(len(agent.script) * ENVIRONMENTS + evaluator.left * picks)
    return agent


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train until the evaluations are spent; what an agent leaves that repeats itself goes to DQN without a warm start."""
    fit(evaluator, rng)
    learn(dqn.make_model, evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main_metered("warm_start_buffer", fit, __doc__)
