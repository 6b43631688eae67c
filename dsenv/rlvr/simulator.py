"""A simulator of a policy in training: for training agents, never for results about training.

Question i of kind s has the difficulty b_i, the policy a skill θ_s for every kind: p_i = sigmoid(θ_s - b_i). A round draws
G Bernoulli rewards a question. What GRPO could learn from a group goes with the squared norm of its gradient, which is
proportional to p (1 - p)(1 - 1/G) in expectation (arXiv 2506.05316, theorem 1): a round adds that, summed over its
questions, to the skill of their kind, and a part of it to all other kinds'.
"""

from __future__ import annotations

import zlib

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import one_of
from dsenv.metrics import Doubles
from dsenv.rlvr.policy import Floats
from dsenv.rlvr.questions import Questions, QuestionSet
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import RoundByRound, Settings, check_gradient_options
from dsenv.seeding import generator

GAIN = 0.02  # of skill: a question at p = 1/2 teaches a quarter of it
TRANSFER = 0.1
UNEVEN = (-1.0, 2.0)  # what kinds teach is drawn from, negative ones 0
SPREAD = 0.5  # difficulties inside a cluster lie so far around their mean
FIRST, LAST = -4.0, 10.0  # mean difficulty of a kind's first and last cluster, to a policy of skill 0


class Simulator(RoundByRound):
    """A simulated policy with the interface of ``dsenv.rlvr.training.Training``; numpy alone.

    Args:
        questions: with their ``kinds``.
        settings: batch, group, steps, fresh and capacity are used; replayed groups are learned from as fresh ones are.
        seed: of rewards; a question's difficulty is the same in every episode.
        uneven: kinds differ in how much they teach, anew with every seed: some nothing, however often they are solved, others
            up to twice as much. For agents that are to find that out.
    """

    def __init__(
        self, questions: QuestionSet, settings: Settings | None = None, seed: int = 0, *, uneven: bool = False
    ) -> None:
        self.questions, self.settings, self.uneven = questions, settings or Settings(), uneven
        self.kinds, self.kind_of = questions.kinds
        self.level_of = np.array([np.sum(self.kind_of[:k] == kind) for k, kind in enumerate(self.kind_of)])
        sizes = np.bincount(self.kind_of)[self.kind_of]
        self.mean_difficulty = FIRST + (LAST - FIRST) * self.level_of / np.maximum(sizes - 1, 1)  # (K,)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Put the skills back to 0, with a new seed."""
        self.begin(seed)
        self.skills = np.zeros(len(self.kinds))
        drawn = generator(seed, "what kinds teach").uniform(*UNEVEN, len(self.kinds)).clip(0)
        self.gains = drawn if self.uneven else np.ones(len(self.kinds))

    def roll_out(self, ids: Ints, part: str = "train") -> Rollouts:
        """Draw G rewards of each question; completions have no tokens."""
        one_of("part", part, ("train", "reference"))
        chosen, group = np.asarray(ids, np.int64), self.settings.group
        with self.costs.timed("roll_out"):
            rng = self.next_draw()
            rates = self.pass_rates(self.questions.parts[part].take(chosen))
            rewards = (rng.random((len(chosen), group)) < rates[:, None]).astype(np.float64)
        self.charge(part, rewards.size)
        nothing = np.zeros((*rewards.shape, 0))
        lengths = np.zeros(rewards.shape, np.int64)
        return Rollouts(chosen, nothing.astype(np.int64), lengths, nothing.astype(np.float32), rewards)

    def pass_rates(self, questions: Questions) -> Doubles:
        """Return p (n,) of each question; free, where a real policy is asked."""
        place = np.array([zlib.crc32(prompt.encode()) / 2**32 for prompt in questions.prompts])
        difficulty = self.mean_difficulty[questions.cluster] + SPREAD * (2 * place - 1)
        return np.asarray(1 / (1 + np.exp(difficulty - self.skills[self.kind_of[questions.cluster]])))

    def embeddings(self, part: str) -> Floats:
        """Return (n, K) one-hot clusters."""
        return np.eye(len(self.questions.clusters), dtype=np.float32)[self.questions.parts[part].cluster]

    def gradients(
        self,
        rollouts: Rollouts,
        part: str = "train",
        *,
        form: str = "clipped",
        coordinates: int | None = None,
        dimensions: int | None = None,
    ) -> Floats:
        """Return (q, kinds): the skills that a group raises, as long a vector as its rewards deviate.

        Coordinates, projections and forms change nothing.

        Raises:
            InputError: for an unknown form, or numbers below 1.
        """
        check_gradient_options(form, coordinates, dimensions)
        kinds = self.kind_of[self.questions.parts[one_of("part", part, ("train", "reference"))].cluster[rollouts.questions]]
        towards = self.gains[:, None] * (TRANSFER + (1 - TRANSFER) * np.eye(len(self.kinds)))
        self.costs.choosing_passes += int(rollouts.signal.sum()) * self.settings.group
        return np.asarray(rollouts.rewards.std(1)[:, None] * towards[kinds], np.float32)

    def answer_logprobs(self, ids: Ints) -> list[Floats]:
        """Return log p of each question as that of its one token, and a certain end."""
        self.costs.choosing_passes += len(ids)
        return [np.array([np.log(p), 0], np.float32) for p in self.pass_rates(self.questions.train.take(ids))]

    def update(self, batch: Rollouts, stale: int) -> None:
        """Raise the skills by what the batch's questions teach."""
        questions, group = self.questions.train.take(batch.questions), self.settings.group
        rates = self.pass_rates(questions)
        kinds = self.kind_of[questions.cluster]
        taught = GAIN * self.gains[kinds] * rates * (1 - rates) * (1 - 1 / group)
        own = np.bincount(kinds, taught, len(self.kinds))
        self.skills = self.skills + own + TRANSFER * (taught.sum() - own)
        self.costs.gradient_passes += len(batch) * group
        self.costs.steps += 1
