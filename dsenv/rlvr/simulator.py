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
from dsenv.rlvr.replay import ReplayBuffer, Rollouts, join
from dsenv.rlvr.training import Costs, Settings, check_round
from dsenv.seeding import generator

GAIN = 0.02  # of skill: a question at p = 1/2 teaches a quarter of it
TRANSFER = 0.1
SPREAD = 0.5  # difficulties inside a cluster lie so far around their mean
FIRST, LAST = -4.0, 10.0  # mean difficulty of a kind's first and last cluster, to a policy of skill 0


class Simulator:
    """A simulated policy with the interface of ``dsenv.rlvr.training.Training``; numpy alone.

    Args:
        questions: whose clusters are named ``<kind> <level>``; clusters of other names are levels of one kind, in order.
        settings: batch, group, steps, fresh and capacity are used; replayed groups are learned from as fresh ones are.
        seed: of rewards; a question's difficulty is the same in every episode.
    """

    def __init__(self, questions: QuestionSet, settings: Settings | None = None, seed: int = 0) -> None:
        self.questions, self.settings = questions, settings or Settings()
        named = [name.rpartition(" ") for name in questions.clusters]
        kinds = [kind if level.isdigit() else "" for kind, _, level in named]
        self.kinds = list(dict.fromkeys(kinds))
        self.kind_of = np.array([self.kinds.index(kind) for kind in kinds])  # (K,)
        self.level_of = np.array([np.sum(self.kind_of[:k] == kind) for k, kind in enumerate(self.kind_of)])
        sizes = np.bincount(self.kind_of)[self.kind_of]
        self.mean_difficulty = FIRST + (LAST - FIRST) * self.level_of / np.maximum(sizes - 1, 1)  # (K,)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Put the skills back to 0, with a new seed."""
        self.seed, self.costs, self.rounds, self.draws = seed, Costs(), 0, 0
        self.skills = np.zeros(len(self.kinds))
        self.buffer = ReplayBuffer(self.settings.capacity)

    def roll_out(self, ids: Ints, part: str = "train") -> Rollouts:
        """Draw G rewards of each question; completions have no tokens."""
        one_of("part", part, ("train", "reference"))
        chosen, group = np.asarray(ids, np.int64), self.settings.group
        with self.costs.timed("roll_out"):
            rng = generator(self.seed, f"rollouts {self.draws}")
            self.draws += 1
            rates = self.pass_rates(self.questions.parts[part].take(chosen))
            rewards = (rng.random((len(chosen), group)) < rates[:, None]).astype(np.float64)
        if part == "train":
            self.costs.rollouts += rewards.size
        else:
            self.costs.reference_rollouts += rewards.size
        nothing = np.zeros((*rewards.shape, 0))
        lengths = np.zeros(rewards.shape, np.int64)
        return Rollouts(chosen, nothing.astype(np.int64), lengths, nothing.astype(np.float32), rewards)

    def round(self, ids: Ints) -> Rollouts:
        """Raise the skills by what a round's questions teach, and return their rollouts.

        Raises:
            InputError: for another number of questions than a round has, or an id that is none.
        """
        settings, done = self.settings, []
        for fresh_ids in np.split(check_round(ids, settings, self.questions), settings.steps):
            fresh = self.roll_out(fresh_ids)
            done.append(fresh)
            batch = [fresh]
            if self.rounds and len(self.buffer):
                rng = generator(self.seed, f"replay {self.costs.steps}")
                batch.append(self.buffer.draw(settings.batch - len(fresh), rng))
            with self.costs.timed("update"):
                self._learn(np.concatenate([groups.questions for groups in batch]))
            if settings.fresh < 1:
                self.buffer.add(fresh)
        self.rounds += 1
        return join(done)

    def pass_rates(self, questions: Questions) -> Doubles:
        """Return p (n,) of each question; free, where a real policy is asked."""
        place = np.array([zlib.crc32(prompt.encode()) / 2**32 for prompt in questions.prompts])
        difficulty = self.mean_difficulty[questions.cluster] + SPREAD * (2 * place - 1)
        return np.asarray(1 / (1 + np.exp(difficulty - self.skills[self.kind_of[questions.cluster]])))

    def embeddings(self, part: str) -> Floats:
        """Return (n, K) one-hot clusters."""
        return np.eye(len(self.questions.clusters), dtype=np.float32)[self.questions.parts[part].cluster]

    def _learn(self, ids: Ints) -> None:
        questions, group = self.questions.train.take(ids), self.settings.group
        rates = self.pass_rates(questions)
        taught = GAIN * rates * (1 - rates) * (1 - 1 / group)
        kinds = self.kind_of[questions.cluster]
        own = np.bincount(kinds, taught, len(self.kinds))
        self.skills = self.skills + own + TRANSFER * (taught.sum() - own)
        self.costs.gradient_passes += len(ids) * group
        self.costs.steps += 1
