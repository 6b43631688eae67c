"""Rollouts in groups, and the buffer that lets later steps train on them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.rlvr.policy import Floats


@dataclass(frozen=True)
class Rollouts:
    """Groups of completions, one group a question.

    Attributes:
        questions: (q,) ids in the part they were drawn from.
        tokens: (q, G, T) ids of the completions, zero behind the end.
        lengths: (q, G) tokens of each.
        logprobs: (q, G, T) log-probabilities when the tokens were drawn: the behaviour policy's, stored at generation time.
        rewards: (q, G) 1 where the checker found the answer, else 0.
    """

    questions: Ints
    tokens: Ints
    lengths: Ints
    logprobs: Floats
    rewards: Doubles

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def pass_rates(self) -> Doubles:
        """(q,) mean rewards."""
        return np.asarray(self.rewards.mean(1))

    @property
    def signal(self) -> np.ndarray:
        """(q,) True where a group has rights and wrongs, and so advantages other than 0."""
        return np.asarray((self.pass_rates > 0) & (self.pass_rates < 1))

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Return the groups as arrays to store, their names behind ``name`` and a space."""
        return {f"{name} {field}": value for field, value in vars(self).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Rollouts | None:
        """Return the groups that ``arrays`` stored under a name, or None where there are none."""
        if f"{name} questions" not in arrays:
            return None
        return cls(*(arrays[f"{name} {field}"] for field in cls.__dataclass_fields__))

    def take(self, places: Sequence[int] | np.ndarray) -> Rollouts:
        """Return some of the groups."""
        chosen = np.asarray(places, np.int64)
        return Rollouts(
            self.questions[chosen], self.tokens[chosen], self.lengths[chosen], self.logprobs[chosen], self.rewards[chosen]
        )


def join(parts: Sequence[Rollouts]) -> Rollouts:
    """Put groups of the same size one behind the other."""
    return Rollouts(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rollouts.__dataclass_fields__))


class ReplayBuffer:
    """The newest group of each question that had signal, at most ``capacity`` of them, oldest dropped first.

    Source: DOTS + Rollout Replay, arXiv 2506.05316, section 4 and its code (groups whose mean reward is exactly 0 or 1 are
    not kept).
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.groups: Rollouts | None = None

    def __len__(self) -> int:
        return 0 if self.groups is None else len(self.groups)

    def add(self, rollouts: Rollouts) -> None:
        """Remember what of these groups has signal; an older group of the same question is dropped even where none has."""
        newest = {int(question): place for place, question in enumerate(rollouts.questions)}
        kept = rollouts.take([place for place in sorted(newest.values()) if rollouts.signal[place]])
        if self.groups is not None:
            older = np.flatnonzero(~np.isin(self.groups.questions, rollouts.questions))
            kept = join([self.groups.take(older), kept])
        self.groups = kept.take(np.arange(max(0, len(kept) - self.capacity), len(kept)))

    def draw(self, size: int, rng: np.random.Generator) -> Rollouts:
        """Return so many different groups drawn uniformly, or all where there are fewer."""
        assert self.groups is not None
        return self.groups.take(rng.permutation(len(self))[:size])
