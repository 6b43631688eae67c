"""PPO in one file, as CleanRL writes it, on the batched environments of ``gym.make_vec`` and with their masks."""

import json

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import dsenv

ID, SEED = "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)
torch.manual_seed(SEED)

# Episodes are equally long: reset together, they waste no step on autoreset (Gymnasium's default NextStep: one of five).
envs = gym.make_vec(ID, 64, vectorization_mode="vector_entry_point", autoreset_mode="Disabled")
inputs, clusters = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
actor, critic = (nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs)) for outputs in (clusters, 1))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], 1e-3)


def policy(seen, masks):
    """Return the distribution of actions; exhausted clusters have probability 0."""
    return Categorical(logits=actor(torch.as_tensor(seen)).masked_fill(torch.as_tensor(masks) == 0, -1e9))


invalid = 0
for _ in range(120):
    (observations, info), steps = envs.reset(seed=SEED), []
    while "counts" not in info:
        seen, masks = torch.tensor(observations), torch.tensor(envs.action_masks())
        with torch.no_grad():
            actions = policy(seen, masks).sample()
            before = policy(seen, masks).log_prob(actions)
        observations, rewards, _, _, info = envs.step(actions.numpy())
        steps.append((seen, masks, actions, before, torch.tensor(rewards).float()))
    invalid += int(len(steps) * envs.num_envs - info["counts"].sum())
    seen, masks, actions, before, rewards = (torch.stack(parts) for parts in zip(*steps, strict=True))
    returns = rewards.flip(0).cumsum(0).flip(0)  # γ = 1
    data = [part.flatten(0, 1) for part in (seen, masks, actions, before, returns, returns - critic(seen).detach()[..., 0])]
    for chosen in torch.randperm(4 * len(data[0])).split(128):  # four epochs
        seen, masks, actions, before, returns, advantages = (part[chosen % len(part)] for part in data)
        ratio = (policy(seen, masks).log_prob(actions) - before).exp()
        scaled = (advantages - advantages.mean()) / advantages.std()
        gain = torch.min(ratio * scaled, ratio.clamp(0.8, 1.2) * scaled).mean()
        error = (critic(seen)[:, 0] - returns).square().mean()
        optimizer.zero_grad()
        (0.5 * error - gain - 0.01 * policy(seen, masks).entropy().mean()).backward()
        optimizer.step()

played = dsenv.evaluate(lambda seen, info: int(policy(seen, info["action_mask"]).logits.argmax()), ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid += sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
