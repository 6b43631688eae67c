"""Agents that train on rollouts of a learned reward model, and score for real what the model and they think is good.

arXiv 2509.25850 lets an MLP or a Transformer learn the reward and trains agents on synthetic rollouts; how the two
alternate could not be read. Ours: the reward model predicts Φ of complete selections (``SurrogateProxy``), and each round
masked PPO goes on training on it; then the best predicted and the latest of its episodes, and neighbours of the best
selections known, are scored for real, and the reward model is fitted again to all scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.networks import MaskableClusterPolicy
from agents.ppo import settings
from agents.training import draw_seed, metered
from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, Proxy, RowSample
from dsenv.proxies.surrogate import SurrogateProxy
from dsenv.search import BudgetSpent, Evaluator
from dsenv.search.climb import dirichlet_counts, nearby, untested
from dsenv.task import SelectionTask

FIRST = 128  # evaluations before the first reward model, or an eighth of what may be spent
LEAST = 20  # selections that a reward model is fitted to
GROWTH = 0.4  # a round scores this share of what is scored already, and at least 32
HOLD_OUT = 0.1
PARENTS = 8
STEPS = {"mlp": 150, "set_transformer": 100}  # of gradient, about, in a fit
BATCH = {"mlp": 128, "set_transformer": 32}  # of ``dsenv.proxies.reward_models``
SYNTHETIC_ENVIRONMENTS = 64
SYNTHETIC_EPISODES = 256  # a round, or as many as evaluations may be spent


class Scorer:
    """Stands in an environment for a proxy that is exchanged while the environment is in use.

    Args:
        proxy: the first one; the others have its rows, picks and metric.

    Attributes:
        proxy: that scores now.
    """

    def __init__(self, proxy: Proxy | Evaluator) -> None:
        self.proxy = proxy
        self.task: SelectionTask = proxy.task
        self.plan: PickPlan = proxy.plan
        self.metric: str = proxy.metric

    @property
    def recipe(self) -> dict[str, Any]:
        """Of the present proxy."""
        return self.proxy.recipe

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return Φ by the present proxy; it keeps no memory, which would be another proxy's."""
        return self.proxy.score(counts, samples=samples)

    def __deepcopy__(self, memo: dict[int, Any]) -> Scorer:
        """Return itself: Gymnasium copies an environment's keywords, and the exchange must reach the environment."""
        return self


class Known:
    """Complete selections scored for real.

    Args:
        evaluator: that scores them.

    Attributes:
        counts: the different selections.
        scores: their Φ.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.counts: dict[bytes, Ints] = {}
        self.scores: list[float] = []

    def score(self, counts: Ints) -> None:
        """Score those that are new."""
        fresh = untested(self.evaluator.plan, self.counts, list(counts))
        if len(fresh):
            self.scores += self.evaluator.score(fresh).tolist()
            self.counts |= {row.tobytes(): row for row in fresh}

    def best(self, number: int) -> Ints:
        """Return the ``number`` best selections, or all; best first."""
        return np.stack(list(self.counts.values()))[np.argsort(-np.array(self.scores), kind="stable")[:number]]

    def explore(self, number: int, rng: np.random.Generator) -> None:
        """Score ``number`` selections drawn by Dirichlet weights."""
        self.score(np.stack([dirichlet_counts(self.evaluator.plan, rng) for _ in range(number)]))

    def near_best(self, number: int, rng: np.random.Generator) -> Ints:
        """Return ``number`` neighbours of the best selections."""
        parents = self.best(PARENTS)
        return nearby(self.evaluator.plan, parents[rng.integers(len(parents), size=number)], rng)

    @property
    def enough(self) -> bool:
        """True where a reward model has something to learn, whatever it holds out."""
        return len(self.scores) >= LEAST and len(np.unique(self.scores)) > round(HOLD_OUT * len(self.scores)) + 1

    def reward_model(self, kind: str, seed: int) -> SurrogateProxy:
        """Fit a reward model (``mlp`` or ``set_transformer``) to all scores."""
        epochs = max(2, round(STEPS[kind] * BATCH[kind] / len(self.scores)))
        counts, scores = np.stack(list(self.counts.values())), np.array(self.scores)
        return SurrogateProxy.fit(
            self.evaluator.proxy, counts, scores=scores, model=kind, hold_out=HOLD_OUT, seed=seed, epochs=epochs
        )


class Episodes(BaseCallback):
    """Keeps the selections that episodes of a training end with, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[Ints] = []

    def _on_step(self) -> bool:
        self.counts += [info["counts"] for info in self.locals["infos"] if "counts" in info]
        return True


def first_scores(evaluator: Evaluator, rng: np.random.Generator) -> Known:
    """Score the selections that the first reward model learns from."""
    known = Known(evaluator)
    known.explore(max(LEAST, min(FIRST, evaluator.limit // 8)), rng)
    for _ in range(20):  # a small problem repeats its selections, and has perhaps too few
        if not known.enough:
            known.explore(LEAST, rng)
    return known


def make_model(env: VecEnv, picks: int, seed: int) -> MaskablePPO:
    """Return masked PPO with larger and fewer steps than on real scores: synthetic episodes are many."""
    chosen = {**settings(picks), "batch_size": 16 * picks, "n_epochs": 2, "learning_rate": 2e-3}
    return MaskablePPO(MaskableClusterPolicy, env, seed=seed, **chosen)


def fit(kind: str, evaluator: Evaluator, rng: np.random.Generator) -> MaskablePPO:
    """Alternate between synthetic training and real scores until these are spent; return the agent.

    Raises:
        BudgetSpent: where the evaluations do not even suffice for the first reward model.
    """
    known = first_scores(evaluator, rng)
    plan, scorer = evaluator.plan, Scorer(evaluator)
    seed = draw_seed(rng)
    vec = metered(evaluator, SYNTHETIC_ENVIRONMENTS, seed, scorer)
    agent = make_model(vec, plan.picks, seed)
    idle = 0
    while known.enough and idle < 10:
        scorer.proxy = model = known.reward_model(kind, seed)
        episodes = Episodes()
        agent.learn(min(SYNTHETIC_EPISODES, evaluator.limit) * plan.picks, callback=episodes, reset_num_timesteps=False)
        size = max(32, round(GROWTH * len(known.scores)))
        fresh = untested(plan, known.counts, episodes.counts)
        latest = untested(plan, known.counts, episodes.counts[::-1])[: size // 4]
        predicted = fresh[np.argsort(-model.score(fresh), kind="stable")[: size // 2]]
        drawn = [dirichlet_counts(plan, rng) for _ in range(size)]  # in the end for what the others lack
        wanted = untested(plan, known.counts, [*predicted, *latest, *known.near_best(size, rng), *drawn])[:size]
        idle = 0 if len(wanted) else idle + 1
        try:
            known.score(wanted)
        except BudgetSpent:
            break
    return agent
