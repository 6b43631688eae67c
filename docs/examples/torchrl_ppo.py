"""Masked PPO of TorchRL: the mask travels in the observation, and actions are drawn from ``MaskedCategorical``."""

import json

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, Compose, DTypeCastTransform, GymWrapper, TransformedEnv
from torchrl.modules import MLP, MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)
torch.manual_seed(SEED)

env = GymWrapper(dsenv.MaskedObservation(gym.make(ID)), categorical_action_encoding=True)
to_bool = DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"])  # MaskedCategorical refuses int8
env = TransformedEnv(env, Compose(to_bool, ActionMask()))
inputs, clusters = env.observation_spec["observations"].shape[-1], env.action_spec.n
actor = ProbabilisticActor(
    TensorDictModule(MLP(inputs, clusters, num_cells=[64, 64]), ["observations"], ["logits"]),
    in_keys={"logits": "logits", "mask": "action_mask"},
    distribution_class=MaskedCategorical,
    return_log_prob=True,
    spec=env.action_spec,
)
critic = ValueOperator(MLP(inputs, 1, num_cells=[64, 64]), in_keys=["observations"])
loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
optimizer = torch.optim.Adam(loss.parameters(), 3e-3)

invalid = 0
for batch in Collector(env, actor, frames_per_batch=512, total_frames=12_288, auto_register_policy_transforms=True):
    invalid += int((~batch["action_mask"].gather(-1, batch["action"][..., None])).sum())
    advantage(batch)
    for chosen in torch.randperm(4 * len(batch)).split(128):  # four epochs
        losses = loss(batch[chosen % len(batch)])
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        optimizer.step()


def greedy(seen, info):
    """Pick the most probable cluster that has rows left."""
    seen = {"observations": torch.tensor(seen), "action_mask": torch.tensor(info["action_mask"] == 1)}
    return int(actor.get_dist(TensorDict(seen)).mode)


played = dsenv.evaluate(greedy, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid += sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
