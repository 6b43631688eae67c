"""Double DQN (arXiv 1509.06461) with masks, on Stable-Baselines3. ``python -m agents.dqn --help``.

Exhausted clusters are masked in exploration, in the greedy action and in the bootstrap of replayed next states. The mask
travels inside the observation (a cluster is exhausted exactly where its share taken is 1), so the replay buffer keeps it
and ``predict`` cannot lose it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch.nn import functional

from agents.networks import ClusterScorer
from agents.training import learn, main
from dsenv.errors import ending_cleanly
from dsenv.search import Evaluator

EXHAUSTED = -1e6


class MaskedQNetwork(QNetwork):
    """Q values of the cluster scorer, with exhausted clusters far below all others."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.q_net: Any = ClusterScorer(int(self.action_space.n))

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """Return (B, K) masked Q values."""
        assert isinstance(obs, torch.Tensor)
        values: torch.Tensor = super().forward(obs)
        return values.masked_fill(obs[:, : values.shape[1]] >= 1, EXHAUSTED)


class MaskedDQNPolicy(DQNPolicy):
    """SB3's DQN policy around ``MaskedQNetwork``."""

    def make_q_net(self) -> MaskedQNetwork:
        """Return an online or a target network."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return MaskedQNetwork(**arguments).to(self.device)


class MaskedDoubleDQN(DQN):
    """SB3's DQN with masked exploration and double Q targets."""

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions, each explored with probability ``exploration_rate`` among the clusters that have rows left."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if deterministic:
            return actions, state
        assert isinstance(observation, np.ndarray) and isinstance(self.action_space, spaces.Discrete)
        batch = np.atleast_2d(observation)
        chosen = np.atleast_1d(actions).copy()
        generator = self.action_space.np_random
        for row in np.flatnonzero(generator.random(len(batch)) < self.exploration_rate):
            open_ = np.flatnonzero(batch[row, : self.action_space.n] < 1)
            chosen[row] = generator.choice(open_) if len(open_) else 0
        return chosen.reshape(np.shape(actions)), state

    def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Follow ``predict`` from the first step on: its exploration starts at 1 and, unlike SB3's warm-up, is masked."""
        return super()._sample_action(0, action_noise, n_envs)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps on the Huber loss to r + γⁿ Q_target(s', argmax Q_online(s'))."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            assert self.replay_buffer is not None
            data = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            discounts = self.gamma if data.discounts is None else data.discounts
            with torch.no_grad():
                best = self.q_net(data.next_observations).argmax(1, keepdim=True)
                value = self.q_net_target(data.next_observations).gather(1, best)
                target = data.rewards + (1 - data.dones) * discounts * value
            found = self.q_net(data.observations).gather(1, data.actions.long())
            loss = functional.smooth_l1_loss(found, target)
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(np.mean(losses)))


def make_model(
    env: VecEnv, picks: int, seed: int, tensorboard: str | None, algorithm: type[MaskedDoubleDQN] = MaskedDoubleDQN
) -> MaskedDoubleDQN:
    """Return a model that learns from n-step returns over half an episode, undiscounted: the rest is bootstrapped.

    Rewards are scaled to unit variance: differences between clusters are small against Adam's steps otherwise.
    """
    return algorithm(
        MaskedDQNPolicy,
        VecNormalize(env, norm_obs=False, norm_reward=True, gamma=1.0, clip_reward=np.inf),
        n_steps=max(1, picks // 2),
        buffer_size=100_000,
        learning_starts=env.num_envs * picks,
        batch_size=256,
        train_freq=2,
        gradient_steps=max(1, 64 // picks),  # as many for an episode, however short
        target_update_interval=max(1, 2_000 * picks // 64),
        exploration_fraction=0.4,
        exploration_initial_eps=1.0,
        exploration_final_eps=0.03,
        learning_rate=LinearSchedule(1e-3, 1e-5, 1.0),
        gamma=1.0,
        seed=seed,
        device="cpu",
        tensorboard_log=tensorboard,
    )


def solve(evaluator: Evaluator, rng: np.random.Generator) -> None:
    """Train on the evaluator's problem until its evaluations are spent."""
    learn(make_model, evaluator, rng)


if __name__ == "__main__":
    with ending_cleanly():
        main("dqn", make_model, __doc__)
