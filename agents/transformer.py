"""Masked PPO with a set transformer (arXiv 1810.00825) on the dictionary observation. ``python -m agents.transformer --help``.

arXiv 2509.25850 names Transformers without their form; this one is ours: a token for each cluster, one self-attention block,
one logit read from each token, and the mean token for the critic. In another order of clusters it picks the same clusters,
and what it learns of one cluster holds for all that look alike. Updates read a part of the steps: rewards come at
the end, so that every step of an episode carries the same news.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.nn import functional

from agents.networks import TokenActorCritic, TokenPolicy
from agents.ppo import settings
from agents.training import learn, main
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator

WIDTH, HEADS = 32, 2
STEPS_READ = 256  # of an update's steps, at most, in every epoch


class SetTransformer(TokenActorCritic):
    """Tokens, self-attention among them, one logit each; all scores start at 0."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 1, WIDTH
        self.embed = nn.Linear(features, WIDTH)
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cluster scores (B, K) and the critic's latent values (B, 32)."""
        batch, clusters = tokens.shape[:2]
        hidden = self.embed(tokens)
        parts = self.attend(self.before(hidden)).view(batch, clusters, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        met = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, clusters, WIDTH)
        hidden = hidden + self.join(met)
        hidden = hidden + self.narrow(torch.relu(self.widen(self.after(hidden))))
        return self.score(hidden)[..., 0], hidden.mean(1)


class SetTransformerPolicy(TokenPolicy):
    """Puts ``SetTransformer`` between tokens and logits."""

    def make_network(self, clusters: int, features: int) -> SetTransformer:
        """Return an untrained network."""
        return SetTransformer(features)


class PartBuffer(MaskableDictRolloutBuffer):
    """A rollout of which every epoch reads at most ``STEPS_READ`` random steps."""

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield minibatches."""
        size = self.buffer_size * self.n_envs if batch_size is None else batch_size
        yield from islice(super().get(batch_size), max(1, STEPS_READ // size))


def make_model(env: VecEnv, picks: int, seed: int, tensorboard: str | None) -> MaskablePPO:
    """Return an untrained model, with PPO's hyper-parameters."""
    chosen = {**settings(picks), "rollout_buffer_class": PartBuffer}
    return MaskablePPO(SetTransformerPolicy, env, seed=seed, tensorboard_log=tensorboard, **chosen)


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    learn(make_model, evaluator, rng, observation="dict")


if __name__ == "__main__":
    with ending_cleanly():
        main("transformer", make_model, __doc__, observation="dict")
