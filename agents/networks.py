"""One network for all agents: what is learned of one cluster's share taken holds for every cluster.

A plain MLP has to learn for each of K clusters alone that rows of a cluster already picked are worth less. Here a small
network shared over clusters sees how much of a cluster is taken, and adds to what an MLP and a bias say of that cluster.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy, MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

BUDGET_SHARE = 20.0  # the default budget is 1/20 of the rows: a share taken times 20 is 1 where a cluster got its share
BIAS_GAIN = 4.0  # a bias learns as fast as the layers, whose inputs and sums enlarge their steps
HIDDEN = 64


class ClusterScorer(nn.Module):
    """Flat observations (B, K + 2) to one score a cluster (B, K); all scores start at 0."""

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.shared = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        self.own = nn.Sequential(nn.Linear(clusters + 2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, clusters))
        self.bias = nn.Parameter(torch.zeros(clusters))
        for last in (*self.shared[-1].parameters(), *self.own[-1].parameters()):
            nn.init.zeros_(last)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return (B, K) scores."""
        taken = observation[:, : self.clusters] * BUDGET_SHARE
        excess = taken - taken.mean(1, keepdim=True)
        left = observation[:, self.clusters : self.clusters + 1].expand_as(taken)
        inputs = torch.stack([taken, (taken > 0).float(), excess, left], -1)
        shared = self.shared(inputs)[..., 0]
        scores: torch.Tensor = BIAS_GAIN * (shared + self.bias) + self.own(observation)
        return scores


class ActorCritic(nn.Module):
    """The two halves that an SB3 policy asks for: cluster scores for the actor, an MLP for the critic."""

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = clusters, HIDDEN
        self.actor = ClusterScorer(clusters)
        self.critic = nn.Sequential(nn.Linear(clusters + 2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the actor's and the critic's latent values."""
        return self.actor(observation), self.critic(observation)

    def forward_actor(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the actor's scores."""
        scores: torch.Tensor = self.actor(observation)
        return scores

    def forward_critic(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the critic's latent values."""
        values: torch.Tensor = self.critic(observation)
        return values


class _ClusterHeads:
    """Puts ``ActorCritic`` in the place of an SB3 policy's networks; its scores are the logits."""

    action_space: spaces.Space[Any]
    action_net: Any
    mlp_extractor: Any

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.action_space, spaces.Discrete)
        self.mlp_extractor = ActorCritic(int(self.action_space.n))

    def _build(self, lr_schedule: Schedule) -> None:
        self.ortho_init = False
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = nn.Identity()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[attr-defined]


class ClusterPolicy(_ClusterHeads, ActorCriticPolicy):
    """For PPO."""


class MaskableClusterPolicy(_ClusterHeads, MaskableActorCriticPolicy):
    """For masked PPO."""


Observed = dict[str, torch.Tensor]


class Tokens(BaseFeaturesExtractor):
    """Dictionary observations to a token for every cluster: (B, K, F + 5).

    Its static features, its share taken, whether any of it is, its share against the mean, picks left and the score.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        shape = observation_space["clusters"].shape
        assert shape is not None
        super().__init__(observation_space, shape[1] + 5)

    def forward(self, observation: Observed) -> torch.Tensor:
        """Return the tokens."""
        taken = observation["taken"] * BUDGET_SHARE
        rest = torch.cat([observation["picks_left"], observation["score"]], 1)[:, None].expand(-1, taken.shape[1], -1)
        own = torch.stack([taken, (taken > 0).float(), taken - taken.mean(1, keepdim=True)], -1)
        return torch.cat([observation["clusters"], own, rest], -1)


class TokenActorCritic(nn.Module):
    """The two halves of a policy on tokens: one score a cluster for the actor, latent values for the critic."""

    latent_dim_pi: int
    latent_dim_vf: int

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cluster scores (B, K) and the critic's latent values (B, W)."""
        raise NotImplementedError

    def forward_actor(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the cluster scores."""
        scores: torch.Tensor = self(tokens)[0]
        return scores

    def forward_critic(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the critic's latent values."""
        values: torch.Tensor = self(tokens)[1]
        return values


class TokenPolicy(_ClusterHeads, MaskableMultiInputActorCriticPolicy):
    """For masked PPO on ``observation="dict"``; subclasses say which network reads the tokens."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **{**keywords, "features_extractor_class": Tokens})

    def make_network(self, clusters: int, features: int) -> TokenActorCritic:
        """Return the network on (B, ``clusters``, ``features``) tokens."""
        raise NotImplementedError

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.action_space, spaces.Discrete)
        self.mlp_extractor = self.make_network(int(self.action_space.n), self.features_dim)
