"""Many episodes of one environment in one batched call: what ``gym.make_vec`` returns."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dsenv.env import DataSelectEnv, EpisodeOver, start_counts
from dsenv.episodes import Episodes
from dsenv.errors import InputError, check_whole

Flags = npt.NDArray[np.bool_]


class DataSelectVectorEnv(VectorEnv[Any, Any, Any]):
    """Step N episodes together: every score of a step comes from one call of the proxy.

    Equal, step by step, to Gymnasium's ``SyncVectorEnv`` of N ``DataSelectEnv``: observations, rewards, ends and infos
    (a batch for every key, ``_key`` where it is there), and with ``reward_rows=`` the seeds too.

    Autoreset:
        ``NEXT_STEP`` (Gymnasium's default): the step after an episode's end ignores its action, starts the next episode
        and pays 0; drop these steps from what you learn from. ``SAME_STEP``: the next episode starts at once; the last
        observation and info stand in ``info["final_obs"]`` and ``info["final_info"]``. ``DISABLED``: reset what is over
        with ``reset(options={"reset_mask": over})``.

    Arguments:
        num_envs: N.
        autoreset_mode: an ``AutoresetMode`` or its value.
        keywords: as in ``DataSelectEnv``.

    Raises:
        InputError: as ``DataSelectEnv``, and for an unknown autoreset mode or fewer than one episode.
    """

    def __init__(
        self, num_envs: int = 1, *, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **keywords: Any
    ) -> None:
        check_whole("num_envs", num_envs, 1)
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise InputError(f"autoreset_mode {autoreset_mode!r}: allowed are {', '.join(modes)}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.num_envs = int(num_envs)
        self.single = DataSelectEnv(**keywords)
        if self.single.render_mode == "human":
            raise InputError("render_mode 'human' shows one environment, of gym.make; allowed here are ansi and rgb_array")
        self.metadata = {**self.single.metadata, "render_modes": ["ansi", "rgb_array"], "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.single.render_mode
        self.task, self.plan, self.proxy, self.metric = (
            getattr(self.single, name) for name in ("task", "plan", "proxy", "metric")
        )
        self.single_action_space, self.single_observation_space = self.single.action_space, self.single.observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.episodes: Episodes = self.single.episodes.resized(self.num_envs)
        self._generators: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds = [-1] * self.num_envs
        self._ended: Flags = np.zeros(self.num_envs, bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the episodes' environments."""
        return tuple(self._generator(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the generators."""
        _ = self.np_random
        return tuple(self._seeds)

    def action_masks(self) -> Flags:
        """Return (N, K) True where a pick would add rows."""
        return self.episodes.masks

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: of the first environment, the others' follow; or one for each.
            options: ``{"counts": c}`` as in ``DataSelectEnv``; ``{"reset_mask": (N,) bool}`` for some episodes only.

        Raises:
            InputError: for options or seeds that do not fit.
        """
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise InputError(f"reset_mask must be ({self.num_envs},) booleans with at least one True, not {mask!r}")
        seeds = (
            [seed + i for i in range(self.num_envs)] if isinstance(seed, (int, np.integer)) else seed or [None] * self.num_envs
        )
        if len(seeds) != self.num_envs:
            raise InputError(f"{len(seeds)} seeds for {self.num_envs} episodes")
        places = np.flatnonzero(mask)
        for place in places.tolist():
            if (own := seeds[place]) is not None:
                self._generators[place], self._seeds[place] = seeding.np_random(own)
        self._start(places, options)
        return self.episodes.observe(), self._info(mask)

    def step(self, actions: npt.ArrayLike) -> tuple[Any, npt.NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Pick a cluster in every episode; actions (N,).

        Raises:
            InputError: for another shape, or actions outside 0..K-1.
            EpisodeOver: before the first ``reset``, or with autoreset disabled after an episode's end.
        """
        chosen = np.asarray(actions)
        if chosen.shape != (self.num_envs,) or not np.issubdtype(chosen.dtype, np.integer):
            raise InputError(f"actions must be ({self.num_envs},) integers, not {chosen.shape} of {chosen.dtype}")
        again = self._ended if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
        played = np.flatnonzero(~again)
        outside = played[(chosen[played] < 0) | (chosen[played] >= self.plan.clusters)]
        if len(outside):
            raise InputError(f"action {chosen[outside[0]]} is not a cluster: allowed are 0 to {self.plan.clusters - 1}")
        if self.episodes.over[played].any():
            raise EpisodeOver("an episode is over: call reset() before step()")
        rewards = np.zeros(self.num_envs)
        rewards[played] = self.episodes.pick(played, chosen[played])
        if again.any():
            self._start(np.flatnonzero(again), {})
        over = self.episodes.over
        self._ended = over.copy()
        if over.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = self._final(over)
            self._start(np.flatnonzero(over), {})
            info = {**final, **self._info(np.ones(self.num_envs, bool))}
        else:
            info = self._info(np.ones(self.num_envs, bool))
            if over.any():
                info |= self._counts(over)
        return self.episodes.observe(), rewards, over, np.zeros(self.num_envs, bool), info

    def render(self) -> tuple[Any, ...] | None:
        """Return one picture or text for every episode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; allowed: ansi, rgb_array")
            return None
        return tuple(self.single.draw(self.episodes, place) for place in range(self.num_envs))

    def _start(self, places: npt.NDArray[np.int64], options: dict[str, Any]) -> None:
        counts = np.repeat(start_counts(self.plan, options)[None], len(places), 0)
        self.episodes.start(places, counts, [self.single.draw_sample(self._generator(place)) for place in places.tolist()])
        self._ended = self.episodes.over

    def _generator(self, place: int) -> np.random.Generator:
        found = self._generators[place]
        if found is None:
            found, self._seeds[place] = seeding.np_random()
            self._generators[place] = found
        return found

    def _info(self, here: Flags) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for key, values in self.episodes.info().items():
            info[key], info[f"_{key}"] = np.where(_wide(here, values), values, 0).astype(values.dtype), here.copy()
        return info

    def _counts(self, over: Flags) -> dict[str, Any]:
        return {"counts": np.where(over[:, None], self.episodes.counts, 0), "_counts": over.copy()}

    def _final(self, over: Flags) -> dict[str, Any]:
        batch = self.episodes.observe()
        last = np.full(self.num_envs, None, dtype=object)
        for place in np.flatnonzero(over).tolist():
            last[place] = {k: v[place] for k, v in batch.items()} if isinstance(batch, dict) else batch[place]
        final_info = {**self._info(over), **self._counts(over)}
        return {"final_obs": last, "_final_obs": over.copy(), "final_info": final_info, "_final_info": over.copy()}


def _wide(here: Flags, values: npt.NDArray[Any]) -> Flags:
    return here.reshape(-1, *[1] * (values.ndim - 1))
