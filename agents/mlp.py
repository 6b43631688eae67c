"""Masked PPO with an MLP on the dictionary observation. ``python -m agents.mlp --help``.

arXiv 2509.25850 names PPO and MLPs; layers and inputs are ours: one MLP reads what is taken of all clusters at once, so that
every cluster has weights of its own and nothing that is learned of one holds for another.
"""

from __future__ import annotations

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from agents.networks import TokenActorCritic, TokenPolicy
from agents.ppo import settings
from agents.training import learn, main
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator

HIDDEN = 64


class MLP(TokenActorCritic):
    """All tokens in one vector; all scores start at 0."""

    def __init__(self, clusters: int, features: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = clusters, HIDDEN
        self.actor = nn.Sequential(nn.Linear(clusters * features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, clusters))
        self.critic = nn.Sequential(nn.Linear(clusters * features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        for parameter in self.actor[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cluster scores (B, K) and the critic's latent values (B, 64)."""
        return self.forward_actor(tokens), self.forward_critic(tokens)

    def forward_actor(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the cluster scores."""
        scores: torch.Tensor = self.actor(tokens.flatten(1))
        return scores

    def forward_critic(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the critic's latent values."""
        values: torch.Tensor = self.critic(tokens.flatten(1))
        return values


class MLPPolicy(TokenPolicy):
    """Puts ``MLP`` between tokens and logits."""

    def make_network(self, clusters: int, features: int) -> MLP:
        """Return an untrained network."""
        return MLP(clusters, features)


def make_model(env: VecEnv, picks: int, seed: int, tensorboard: str | None) -> MaskablePPO:
    """Return an untrained model, with PPO's hyper-parameters."""
    return MaskablePPO(MLPPolicy, env, seed=seed, tensorboard_log=tensorboard, **settings(picks))


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    learn(make_model, evaluator, rng, observation="dict")


if __name__ == "__main__":
    with ending_cleanly():
        main("mlp", make_model, __doc__, observation="dict")
