"""PPO in the simulator of the second family, for the controller ``ppo``: ``python -m agents.questions``.

It sees every cluster through one small network (``dsenv.rlvr.controllers.agent``) and is trained on simulated episodes alone.
``--fine-tune N`` goes on for N episodes in which a real policy is trained, on questions of another seed than the
environment's: each takes 20,480 rollouts, which the record says.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from agents.networks import ClusterPolicy
from dsenv.errors import ending_cleanly
from dsenv.files import atomic_write
from dsenv.rlvr.arithmetic import arithmetic_questions
from dsenv.rlvr.controllers.agent import HORIZON, QUESTIONS, WEIGHTS
from dsenv.rlvr.env import DataSelectRLVREnv
from dsenv.rlvr.simulator import Simulator
from dsenv.rlvr.training import Settings

HIDDEN = 16
ENVIRONMENTS = 8
BUDGET = HORIZON * QUESTIONS * Settings().group
TRAINING_QUESTIONS = 1  # seed; the benchmark's are of seed 0


class Networks(nn.Module):
    """Flat observations (B, 3 K + 2) to a score a cluster for the actor, and to the means of a network's for the critic."""

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.latent_dim_pi, self.latent_dim_vf = clusters, HIDDEN + 2
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.actor = nn.Sequential(nn.Linear(5, HIDDEN), nn.Tanh(), last)
        self.critic = nn.Sequential(nn.Linear(5, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return self.forward_actor(observation), self.forward_critic(observation)

    def forward_actor(self, observation: torch.Tensor) -> torch.Tensor:
        """Return (B, K) scores."""
        scores: torch.Tensor = self.actor(self._inputs(observation))[..., 0]
        return scores

    def forward_critic(self, observation: torch.Tensor) -> torch.Tensor:
        """Return (B, 18): the critic also sees the budget left and the pass rate."""
        return torch.cat([self.critic(self._inputs(observation)).mean(1), observation[:, -2:]], 1)

    def _inputs(self, observation: torch.Tensor) -> torch.Tensor:
        """Return (B, K, 5), as ``cluster_inputs``."""
        difficulty, stale, trained = observation[:, :-2].reshape(len(observation), 3, self.clusters).unbind(1)
        return torch.stack([difficulty, 4 * difficulty * (1 - difficulty), stale, trained, (trained > 0).float()], -1)


class QuestionPolicy(ClusterPolicy):
    """SB3's policy with these networks; the actor's scores are the logits."""

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.action_space, spaces.Discrete)
        self.mlp_extractor = Networks(int(self.action_space.n))


def make_env(policy: str) -> DataSelectRLVREnv:
    """Return an environment whose rounds are short, so that an episode has many choices."""
    questions, settings = arithmetic_questions(TRAINING_QUESTIONS), Settings(batch=QUESTIONS, steps=1)
    made = Simulator(questions, settings, uneven=True) if policy == "simulator" else policy
    return DataSelectRLVREnv(questions, policy=made, budget=BUDGET, batch=settings.batch, steps=settings.steps)


def make_agent(policy: str, environments: int, seed: int, **settings: Any) -> PPO:
    """Return an untrained agent; an update sees an episode of each environment."""
    vec = VecNormalize(DummyVecEnv([lambda: make_env(policy)] * environments), norm_obs=False, gamma=0.99)
    return PPO(
        QuestionPolicy, vec, n_steps=HORIZON, batch_size=HORIZON, n_epochs=4, gamma=0.99, gae_lambda=0.95, seed=seed,
        device="cpu", verbose=1, stats_window_size=environments, **settings,
    )  # fmt: skip


def train(steps: int, fine_tune: int, seed: int) -> tuple[PPO, dict[str, Any]]:
    """Train an agent: so many simulated rounds, then so many real episodes."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    agent = make_agent("simulator", ENVIRONMENTS, seed, learning_rate=1e-3, ent_coef=0.01).learn(steps)
    told: dict[str, Any] = {"simulated_rounds": steps, "real_rollouts": fine_tune * BUDGET, "seed": seed}
    if fine_tune:
        tuned = make_agent("arithmetic", 1, seed, learning_rate=3e-4)
        tuned.policy.load_state_dict(agent.policy.state_dict())
        agent = tuned.learn(fine_tune * HORIZON)
    return agent, {**told, "seconds": round(time.perf_counter() - started)}


def main() -> None:
    """Train and write the actor's weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400_000, help="simulated rounds (default: %(default)s)")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="N", help="real episodes after them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    agent, told = train(options.steps, options.fine_tune, options.seed)
    networks = agent.policy.mlp_extractor
    assert isinstance(networks, Networks)
    with atomic_write(options.out) as temporary:
        arrays = {name: np.array(value.numpy(), np.float32) for name, value in networks.actor.state_dict().items()}
        save_file(arrays, temporary, metadata={name: str(value) for name, value in told.items()})
    print(f"{told}, written to {options.out}")


if __name__ == "__main__":
    with ending_cleanly():
        main()
