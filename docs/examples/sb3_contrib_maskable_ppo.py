"""Masked PPO of sb3-contrib: what is exhausted has probability 0, in training and in ``predict``."""

import json

import numpy as np
from sb3_contrib import MaskablePPO

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)
wasted = []


def count_wasted(variables, _):
    """Note, where an episode of training ends, how many of its picks added no rows."""
    wasted.extend(env.vector.plan.picks - info["counts"].sum() for info in variables["infos"] if "counts" in info)
    return True


env = dsenv.SB3VecEnv(ID, 16, seed=SEED)
model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=128, learning_rate=1e-3, ent_coef=0.01, gamma=1.0, seed=SEED)
model.learn(24_000, callback=count_wasted)

# dsenv.evaluate gives ``predict`` the masks; Stable-Baselines3's own evaluate_policy would not.
played = dsenv.evaluate(model, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
wasted += [len(result.actions) - sum(result.counts) for result in played]
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": int(sum(wasted))}))
