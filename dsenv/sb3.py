"""Stable-Baselines3's ``VecEnv`` around the vector environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from dsenv.errors import InputError, require
from dsenv.vector_env import DataSelectVectorEnv

require("stable_baselines3", "agents")
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn  # noqa: E402

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """N episodes as Stable-Baselines3 steps them, masks included; the same episodes as ``make_vec_env`` gives.

    ``SB3VecEnv("DataSelect-GooglePlay-v0", 16, reward="final")``; wrap it in ``VecMonitor`` for episode statistics.

    Args:
        id: of a registered environment.
        num_envs: N.
        seed: of the first environment at the first reset, the others' follow.
        keywords: as in ``DataSelectEnv``.

    Raises:
        InputError: as ``DataSelectEnv``.
        MissingExtraError: without the extra ``agents``.
    """

    def __init__(self, id: str, num_envs: int, *, seed: int | None = None, **keywords: Any) -> None:
        made = gym.make_vec(
            id, num_envs, vectorization_mode="vector_entry_point", autoreset_mode=AutoresetMode.SAME_STEP, **keywords
        )
        if not isinstance(made.unwrapped, DataSelectVectorEnv):
            raise InputError(f"{id!r} is not a data selection environment")
        self.vector = made.unwrapped
        self.render_mode = self.vector.render_mode
        super().__init__(self.vector.num_envs, self.vector.single_observation_space, self.vector.single_action_space)
        self._actions = np.zeros(self.num_envs, np.int64)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> VecEnvObs:
        """Start all episodes, with the seeds and options set since the last reset."""
        first = self._options[0]
        if any(
            given.keys() != first.keys() or not all(np.array_equal(given[key], first[key]) for key in given)
            for given in self._options
        ):
            raise InputError("episodes have different options: all episodes of a batch start with the same")
        observations, info = self.vector.reset(seed=list(self._seeds), options=first)
        self.reset_infos = [self._one(info, place) for place in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions (N,)."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Pick; an episode that ends starts again at once, its last observation stands in ``terminal_observation``."""
        observations, rewards, over, _, info = self.vector.step(self._actions)
        infos = [self._one(info, place) for place in range(self.num_envs)]
        for place in np.flatnonzero(over).tolist():
            final = self._one(info["final_info"], place)
            infos[place] = {
                **final,
                "counts": info["final_info"]["counts"][place],
                "terminal_observation": info["final_obs"][place],
                "TimeLimit.truncated": False,
            }
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of the environment, for each index; ``counts`` and ``action_masks`` are the episode's own.

        Raises:
            InputError: for what one episode of a batch does not have.
        """
        if attr_name in ("episodes", "np_random", "step", "reset", "render"):
            raise InputError(f"attribute {attr_name!r} belongs to a single environment, not to one episode of a batch")
        indices = self._get_indices(indices)
        if attr_name == "action_masks":
            return [partial(self._masks, place) for place in indices]
        if attr_name == "counts":
            return [self.vector.episodes.counts[place].copy() for place in indices]
        return [getattr(self.vector.single, attr_name) for _ in indices]

    def has_attr(self, attr_name: str) -> bool:
        """Say whether the environment has an attribute."""
        return hasattr(self.vector.single, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refuse: all episodes share one problem.

        Raises:
            InputError: always.
        """
        raise InputError(f"attribute {attr_name!r} cannot be set: give it as a keyword when the environment is made")

    def env_method(self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any) -> list[Any]:
        """Return ``action_masks()`` of the episodes, (K,) each.

        Raises:
            InputError: for another method.
        """
        if method_name != "action_masks":
            raise InputError(f"method {method_name!r} cannot be called on a batch of episodes; allowed: 'action_masks'")
        return [self._masks(place) for place in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None) -> list[bool]:
        """Return False for each index: the episodes are not wrapped one by one."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one picture for each episode."""
        return list(self.vector.render() or [None] * self.num_envs)

    def _masks(self, place: int) -> np.ndarray:
        return np.asarray(self.vector.episodes.masks[place])

    @staticmethod
    def _one(info: dict[str, Any], place: int) -> dict[str, Any]:
        return {
            "action_mask": info["action_mask"][place],
            "score": float(info["score"][place]),
            "rows": int(info["rows"][place]),
        }
