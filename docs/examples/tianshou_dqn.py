"""Masked DQN of Tianshou 2: with a mask beside the observation, exploration and the greedy action skip what is exhausted."""

import json

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)
torch.manual_seed(SEED)
np.random.seed(SEED)  # noqa: NPY002 - Tianshou explores with it


def make():
    """Return an environment with Tianshou's names; its rewards are enlarged, or Adam's steps drown their differences."""
    return gym.wrappers.TransformReward(dsenv.MaskedObservation(gym.make(ID), "obs", "mask"), lambda reward: 50 * reward)


actions = make().action_space
network = Net(state_shape=make().observation_space["obs"].shape, action_shape=actions.n, hidden_sizes=[64, 64])
policy = DiscreteQLearningPolicy(model=network, action_space=actions, eps_training=0.3)
dqn = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=1.0, n_step_return_horizon=4, target_update_freq=200)
collector = Collector(dqn, DummyVectorEnv([make] * 8), VectorReplayBuffer(20_000, 8), exploration_noise=True)
parameters = OffPolicyTrainerParams(
    training_collector=collector,
    max_epochs=1,
    epoch_num_steps=12_000,
    collection_step_num_env_steps=64,
    update_step_num_gradient_steps_per_sample=0.125,
    batch_size=128,
    show_progress=False,
)
dqn.run_training(parameters)
seen, _ = collector.buffer.sample(0)
invalid = int((seen.obs.mask[np.arange(len(seen)), seen.act] == 0).sum())


def greedy(seen, info):
    """Pick the cluster of the highest value that has rows left."""
    with torch.no_grad():
        return int(policy(Batch(obs=Batch(obs=seen[None], mask=info["action_mask"][None]), info=Batch())).act[0])


played = dsenv.evaluate(greedy, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid += sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
