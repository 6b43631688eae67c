"""What RL libraries ask of an environment beyond Gymnasium: the action mask inside the observation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from dsenv.errors import InputError

Observations = dict[str, npt.NDArray[Any]]


class MaskedObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observe a dictionary of the flat observation and the action mask, where neither replay buffer nor ``predict`` loses it.

    ``MaskedObservation(gym.make("DataSelect-Synthetic-v0"))`` is what RLlib's and TorchRL's masked policies read;
    Tianshou reads the keys ``obs`` and ``mask``.

    Args:
        env: with a flat observation and an action mask.
        observation_key: of the flat observation, float32.
        mask_key: of the mask, int8 (K,): 1 where a pick adds rows.

    Raises:
        InputError: for an environment without a mask, one that observes a dictionary already, or twice the same key.
    """

    def __init__(self, env: gym.Env[Any, Any], observation_key: str = "observations", mask_key: str = "action_mask") -> None:
        RecordConstructorArgs.__init__(self, observation_key=observation_key, mask_key=mask_key)
        super().__init__(env)
        if not env.has_wrapper_attr("action_masks") or not isinstance(env.action_space, spaces.Discrete):
            raise InputError(f"{env} has no action mask")
        if not isinstance(env.observation_space, spaces.Box):
            raise InputError(f"{env} does not observe one vector: make it with observation='flat'")
        if observation_key == mask_key:
            raise InputError(f"observation_key and mask_key are both {mask_key!r}: give two names")
        self._keys = observation_key, mask_key
        mask = spaces.Box(0, 1, (int(env.action_space.n),), np.int8)
        self.observation_space = spaces.Dict({observation_key: env.observation_space, mask_key: mask})

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (K,) True where a pick would add rows."""
        return np.asarray(self.env.get_wrapper_attr("action_masks")())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, dict[str, Any]]:
        """Start an episode, as the environment does."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._beside(observation), info

    def step(self, action: Any) -> tuple[Observations, Any, bool, bool, dict[str, Any]]:
        """Pick a cluster, as the environment does."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._beside(observation), reward, terminated, truncated, info

    def _beside(self, observation: npt.NDArray[np.float32]) -> Observations:
        return dict(zip(self._keys, (observation, self.action_masks().astype(np.int8)), strict=True))
