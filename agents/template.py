"""An agent to start from: REINFORCE over one logit a cluster (Williams 1992), with numpy alone.

Copy this file to ``agents/<name>.py``, put your method into ``solve``, and run it on a few problems:

``dsenv evaluate agents.<name>:solve --id DataSelect-Synthetic-v0 --evaluations 1024 --seeds 3``
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsenv.search import Evaluator

EPISODES = 16
LEARNING_RATE = 0.3
PATIENCE = 20

Array = npt.NDArray[np.float64]


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Learn which clusters to pick until the evaluations are spent.

    Nothing is returned: the evaluator keeps the best complete selections that it has scored, and ends the run with
    ``BudgetSpent`` where more is asked for than is left. Draw all chance from ``rng``. What else there is to use:
    ``evaluator.score(counts)`` (Φ of a batch of counts (B, K)), ``evaluator.make_env()`` for one environment,
    ``evaluator.plan`` (picks, capacity of each cluster), ``evaluator.left``.
    """
    # One evaluation an episode: reward="final" pays Φ at the last pick only. observation="dict" has cluster features.
    env = evaluator.make_vec(EPISODES, reward="final", autoreset_mode="Disabled")
    clusters = evaluator.plan.clusters
    # Put your own policy here. This one is blind: it starts with picks in proportion to the clusters' sizes.
    logits = np.log(np.maximum(evaluator.plan.capacity, 1e-9))
    idle = 0
    while idle < PATIENCE:  # a policy that proposes nothing new spends nothing, so it has to stop by itself
        before = evaluator.used
        _, info = env.reset(seed=int(rng.integers(2**31)))
        slope = np.zeros((EPISODES, clusters))
        over = np.zeros(EPISODES, bool)
        while not over.all():
            shares = probabilities(logits, info["action_mask"])
            actions = np.argmax(np.log(shares + 1e-300) + rng.gumbel(size=shares.shape), 1)  # draws from each row
            slope += np.eye(clusters)[actions] - shares  # of log π(action)
            _, rewards, over, _, info = env.step(actions)
        # Put your own update here. This one compares an episode with the others of its batch.
        advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-9)
        logits = logits + LEARNING_RATE * advantage @ slope / EPISODES
        idle = idle + 1 if evaluator.used == before else 0


def probabilities(logits: Array, mask: npt.NDArray[np.int8]) -> Array:
    """Return the policy (N, K); a cluster without rows left is never picked."""
    scores = np.where(mask == 1, logits, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))
