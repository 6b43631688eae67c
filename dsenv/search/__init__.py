"""Search over Φ at a budget of proxy evaluations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from dsenv.errors import check_whole, one_of
from dsenv.progress import progress
from dsenv.proxies import Proxy
from dsenv.search.annealing import annealing
from dsenv.search.bandit import bandit
from dsenv.search.climb import climb
from dsenv.search.cross_entropy import cross_entropy
from dsenv.search.evaluator import BudgetSpent, Evaluator, Stage
from dsenv.search.greedy import greedy, stochastic_greedy
from dsenv.search.guided import guided, pretrained
from dsenv.search.moves import random_counts
from dsenv.search.pairwise import pairwise
from dsenv.search.simple import best_of, proportional, uniform
from dsenv.search.swap import swap
from dsenv.seeding import generator

__all__ = ["SEARCHES", "Agent", "BudgetSpent", "Evaluator", "Stage", "random_counts", "run", "search"]

Agent = Callable[[Evaluator, np.random.Generator], None]

SEARCHES: dict[str, Agent] = {
    search.__name__: search
    for search in (
        uniform, proportional, best_of, greedy, stochastic_greedy, swap, annealing, cross_entropy, bandit, pairwise, climb,
        pretrained, guided,
    )
}  # fmt: skip


def run(agent: Agent, evaluator: Evaluator, seed: int) -> list[Stage]:
    """Let an agent spend an evaluator's budget.

    Args:
        agent: a function (evaluator, rng); it ends by returning, or is stopped where it asks for more than is left.
        evaluator: of the problem.
        seed: of the agent's generator.

    Returns:
        What it had found at every stage; the last one is the limit's.
    """
    check_whole("seed", seed, 0)
    with suppress(BudgetSpent):
        agent(evaluator, generator(seed, "search"))
    return evaluator.finish()


def search(proxy: Proxy, method: str, *, evaluations: int = 4096, seed: int = 0) -> Stage:
    """Search for the best complete selection.

    Args:
        proxy: Φ.
        method: a name of ``SEARCHES``. ``uniform``: one random episode; ``proportional``: picks by cluster size;
            ``best_of``: as many random episodes as there are evaluations; ``greedy``: the best next pick, from nothing;
            ``stochastic_greedy``: the best of a random few, again and again; ``swap``: moves of one pick that help, from
            proportional; ``annealing``, ``cross_entropy``, ``bandit``; ``pairwise``: a model of clusters and pairs of
            them; ``climb``: CLIMB-Disc; ``pretrained``: a policy trained on other tasks, without search; ``guided``: a
            search that begins there and learns what every move is worth.
        evaluations: distinct selections that may be scored; a search that ends unfinished is completed by
            proportional picks.
        seed: of numpy's default generator.

    Returns:
        A ``Stage`` with ``counts``, ``score`` and ``used``.

    Raises:
        InputError: for an unknown method, or fewer than one evaluation.
    """
    one_of("method", method, SEARCHES)
    with progress(f"{method}, evaluations", evaluations) as scored:
        return run(SEARCHES[method], Evaluator(proxy, evaluations, scored=scored), seed)[-1]
