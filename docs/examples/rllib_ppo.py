"""Masked PPO of RLlib's new API stack, with the module of action masking that Ray ships."""

import json
import logging

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)


class Counting(gym.Wrapper):
    """Count the picks of exhausted clusters."""

    invalid = 0

    def step(self, action):
        """Pick, and count at the episode's end what added no rows."""
        found = self.env.step(action)
        if "counts" in found[-1]:
            Counting.invalid += int(self.unwrapped.plan.picks - found[-1]["counts"].sum())
        return found


# A function, not a bare id: workers are processes of their own, and unpickling it imports dsenv, which registers the ids.
register_env("masked", lambda _: Counting(dsenv.MaskedObservation(gym.make(ID))))
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
module = RLModuleSpec(module_class=ActionMaskingTorchRLModule, model_config={"head_fcnet_hiddens": [64, 64]})
config = PPOConfig().environment("masked").rl_module(rl_module_spec=module).debugging(seed=SEED)
config.env_runners(num_env_runners=0, num_envs_per_env_runner=16)
config.training(gamma=1.0, lr=3e-3, train_batch_size_per_learner=512, minibatch_size=128, num_epochs=4, entropy_coeff=0.01)
algorithm = config.build_algo()
for _ in range(20):
    algorithm.train()
policy = algorithm.get_module()


def greedy(seen, info):
    """Pick the most probable cluster that has rows left."""
    batch = {"observations": torch.tensor(seen[None]), "action_mask": torch.tensor(info["action_mask"][None])}
    return int(policy.forward_inference({"obs": batch})["action_dist_inputs"].argmax())


played = dsenv.evaluate(greedy, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid = Counting.invalid + sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
