"""Every agent spends an evaluator's budget, repeats with its seed, and finds optima that are known."""

import itertools
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import AGENTS, load
from agents.transformer import SetTransformer
from agents.warm_start_buffer import rebuild
from dsenv.errors import InputError
from dsenv.search import Evaluator, run

SYNTHETIC = ("DataSelect-Synthetic-v0", {"picks": 8, "budget": 0.02})
WHOLE_CLUSTERS = ("DataSelect-Synthetic-v0", {"unit": "cluster", "clustering": "kmeans", "picks": 3})
SMALL = ("DataSelect-GooglePlay-Small-v0", {})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Closed:
    """A Small problem whose Φ is a function of the picked clusters."""

    def __init__(self, function):
        self.recipe = {"proxy": "closed"}
        real = gym.make(SMALL[0]).unwrapped.proxy
        self.task, self.plan, self.metric, self.function = real.task, real.plan, real.metric, function

    def score(self, counts, memory=None, samples=None):
        return self.function(np.asarray(counts, float))

    def __deepcopy__(self, memo):
        return self


def meter(problem, limit, proxy=None):
    id, keywords = problem
    return Evaluator(gym.make(id, **keywords).unwrapped.proxy if proxy is None else proxy, limit, id=id, keywords=keywords)


def complete(evaluator, counts):
    return counts.sum() == evaluator.plan.picks or (counts == evaluator.plan.capacity).all()


def spend(agent, problem, limit):
    evaluator = meter(problem, limit)
    last = run(load(agent), evaluator, seed=3)[-1]
    assert 0 < evaluator.used <= limit and last.used <= limit and complete(evaluator, last.counts)
    assert last.score == pytest.approx(float(evaluator.proxy.score(last.counts[None])[0]))
    return last


@pytest.mark.parametrize("agent", AGENTS)
def test_budgets_are_kept_and_seeds_repeat(agent):
    assert np.array_equal(spend(agent, SYNTHETIC, 40).counts, spend(agent, SYNTHETIC, 40).counts)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("problem", [WHOLE_CLUSTERS, SMALL], ids=["clusters", "table"])
def test_whole_clusters_are_selected(agent, problem):
    spend(agent, problem, 32)


@pytest.mark.parametrize("agent", AGENTS)
def test_tiny_budgets_end_in_a_complete_selection(agent):
    for limit in (1, 7):
        spend(agent, SYNTHETIC, limit)


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_a_modular_optimum_is_found(agent):
    """Three clusters have the weights 3, 1 and 2, all others nothing: four picks of twenty are worth 6."""
    weights = np.zeros(20)
    weights[[4, 9, 13]] = 3, 1, 2
    evaluator = meter(SMALL, 1024, Closed(lambda counts: counts @ weights))
    assert run(load(agent), evaluator, seed=0)[-1].score == 6


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_a_coverage_optimum_is_found(agent):
    """Cluster k covers five or four of twenty elements, from element k on."""
    covers = np.stack([np.roll(np.r_[np.ones(5 - k % 2), np.zeros(15 + k % 2)], k) for k in range(20)])
    best = max((covers[list(picked)].sum(0) > 0).sum() for picked in itertools.combinations(range(20), 4))
    assert best == 18
    evaluator = meter(SMALL, 1024, Closed(lambda counts: (counts @ covers > 0).sum(1).astype(float)))
    assert run(load(agent), evaluator, seed=0)[-1].score == best


def test_the_set_transformer_is_permutation_equivariant():
    torch.manual_seed(0)
    network = SetTransformer(13)
    torch.nn.init.normal_(network.score.weight)
    tokens, order = torch.randn(2, 9, 13), torch.randperm(9)
    scores, value = network(tokens)
    turned, same = network(tokens[:, order])
    assert torch.allclose(scores[:, order], turned, atol=1e-5) and torch.allclose(value, same, atol=1e-5)


def test_scripts_rebuild_selections():
    selections = np.array([[2, 1, 0], [0, 0, 3], [1, 1, 1]])
    actions = rebuild(selections, 2, np.random.default_rng(0))
    assert actions.shape == (6, 2)
    built = [np.bincount(actions[a : a + 3, n], minlength=3).tolist() for a in (0, 3) for n in (0, 1)]
    assert built == [*selections.tolist(), selections[0].tolist()]


def test_the_registry_imports_nothing_heavy():
    code = "import sys, agents; assert not {'torch', 'stable_baselines3', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(InputError, match="Did you mean 'dqn'"):
        load("dqm")
