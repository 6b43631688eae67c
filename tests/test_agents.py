"""Agents: masks are respected, runs repeat, a short training beats uniform picks."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env

from agents.dqn import EXHAUSTED
from agents.training import train
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.evaluation import evaluate, replay, rollout
from dsenv.search import random_counts

ID = "DataSelect-Synthetic-v0"
NOISY = "DataSelect-GooglePlayNoisy-v0"
AGENTS = ("dqn", "ppo", "maskable_ppo")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(agent):
    return importlib.import_module(f"agents.{agent}").make_model


@pytest.mark.parametrize("agent", AGENTS)
def test_a_short_training_repeats_and_replays(agent):
    short = {"seed": 3, "evaluations": 32, "picks": 8, "budget": 0.02}
    runs = [train(make_model(agent), ID, **short) for _ in range(2)]
    results = [evaluate(run.model, ID, agent=agent, **run.keywords)[0] for run in runs]
    assert runs[0].evaluations == 32
    assert results[0].actions == results[1].actions and replay(results[1]).counts == results[0].counts
    assert len(results[0].actions) == 8


@pytest.mark.parametrize("agent", ["dqn", "maskable_ppo"])
def test_masked_agents_never_pick_an_exhausted_cluster(agent):
    """With a budget of everything most clusters are exhausted before the end."""
    keywords = {"budget": 1.0, "picks": 60}
    model = train(make_model(agent), ID, seed=0, evaluations=16, **keywords).model
    env = gym.make(ID, **keywords)
    for deterministic in (True, False):
        actions = rollout(model, env, seed=0, deterministic=deterministic)
        counts = np.zeros(48, np.int64)
        for action in actions:
            assert counts[action] < env.unwrapped.plan.capacity[action]
            counts[action] += 1


def test_dqn_masks_replayed_next_states():
    vec = make_vec_env(f"dsenv:{ID}", n_envs=2, env_kwargs={"budget": 1.0, "picks": 60, "reward": "final"})
    model = make_model("dqn")(vec, 60, 0, None)
    model.learn(2 * 60)
    data = model.replay_buffer.sample(64)
    exhausted = (data.next_observations[:, :48] >= 1).numpy()
    values = model.q_net_target(data.next_observations).detach().numpy()
    assert exhausted.any() and not exhausted.all()
    assert (values[exhausted] == EXHAUSTED).all() and (values[~exhausted] > EXHAUSTED).all()
    assert (data.dones == 0).any()  # some targets are bootstrapped
    best = model.q_net(data.next_observations).argmax(1).numpy()
    open_ = ~exhausted.all(1)
    assert not exhausted[np.flatnonzero(open_), best[open_]].any()


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_agents_learn(agent):
    """The greedy rollout of the policy after 512 evaluations beats 95% of uniform episodes and the untrained policy."""
    env = gym.make(NOISY).unwrapped
    assert isinstance(env, DataSelectEnv)
    rng = np.random.default_rng(0)
    uniform = env.proxy.score(np.stack([random_counts(env.plan, rng) for _ in range(200)]))
    vec = make_vec_env(f"dsenv:{NOISY}", n_envs=4)
    untrained = make_model(agent)(vec, env.plan.picks, 0, None)
    run = train(make_model(agent), NOISY, seed=0, evaluations=512)
    found = evaluate(run.model, NOISY, **run.keywords)[0].score
    assert found > np.quantile(uniform, 0.95)
    assert found > evaluate(untrained, NOISY, **run.keywords)[0].score


def test_evaluations_are_counted_by_the_reward():
    """Dense: one a step. Rounded down to whole episodes of all environments, and never below one episode."""
    keywords = {"picks": 8, "budget": 0.02}
    assert train(make_model("ppo"), ID, seed=0, evaluations=100, reward="dense", **keywords).evaluations == 96
    assert train(make_model("ppo"), ID, seed=0, evaluations=40, **keywords).evaluations == 32
    with pytest.raises(InputError, match="takes 8"):
        train(make_model("ppo"), ID, seed=0, evaluations=7, reward="dense", **keywords)
