"""DQN of Stable-Baselines3, which has no masks: it has to learn that a pick of an exhausted cluster pays nothing."""

import json

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecNormalize

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)

# Scaled to unit variance, rewards are large against the noise of untrained Q values.
env = VecNormalize(dsenv.SB3VecEnv(ID, 8, seed=SEED), norm_obs=False, gamma=1.0)
model = DQN(
    "MlpPolicy",
    env,
    learning_rate=1e-3,
    batch_size=128,
    train_freq=4,
    gradient_steps=4,
    learning_starts=1_000,
    target_update_interval=500,
    n_steps=4,  # the whole episode
    exploration_fraction=0.5,
    gamma=1.0,
    seed=SEED,
)
model.learn(40_000)

played = dsenv.evaluate(model, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid = sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
