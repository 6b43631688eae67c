"""What environments and controllers ask of a policy in training, be it real or simulated; how it is trained, what it costs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import DsenvError, InputError, check_whole, one_of
from dsenv.metrics import Doubles
from dsenv.rlvr.loss import ADVANTAGES
from dsenv.rlvr.policy import Floats
from dsenv.rlvr.questions import Questions, QuestionSet
from dsenv.rlvr.replay import ReplayBuffer, Rollouts, join
from dsenv.seeding import generator

GRADIENT_FORMS = ("clipped", "acg")


class TrainingStopped(DsenvError, RuntimeError):
    """Training cannot go on; the message says in which round and why. The policy is as it was before the bad step."""


@dataclass(frozen=True)
class Settings:
    """How the policy is trained.

    Attributes:
        batch: B, questions of a batch.
        group: G, rollouts of each.
        steps: μ, batches a round; a round's questions are chosen at once.
        minibatches: optimiser steps a batch.
        fresh: σ, share of a batch's questions that are rolled out now; the others come from the replay buffer where it has as
            many. 1 is no replay.
        capacity: groups in the replay buffer.
        learning_rate: of AdamW, constant after the warm-up.
        warmup: optimiser steps over which the learning rate rises to it.
        clip: ε of the clipped objective.
        kl: weight of the divergence from the policy that training began with.
        temperature: that completions are drawn at.
        advantages: ``standardised`` or ``centred``.
        max_grad_norm: gradients are scaled down to it.
    """

    batch: int = 8
    group: int = 8
    steps: int = 4
    minibatches: int = 1
    fresh: float = 1.0
    capacity: int = 256
    learning_rate: float = 1e-4
    warmup: int = 10
    clip: float = 0.2
    kl: float = 0.0
    temperature: float = 1.0
    advantages: str = "standardised"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("group", 2), ("steps", 1), ("minibatches", 1), ("warmup", 1), ("capacity", 1)):
            check_whole(name, getattr(self, name), least)
        one_of("advantages", self.advantages, ADVANTAGES)
        for name, low, high in (
            ("fresh", 0, 1),
            ("learning_rate", 0, 1),
            ("clip", 0, 1),
            ("temperature", 0, 10),
            ("max_grad_norm", 0, 1e6),
        ):
            value = getattr(self, name)
            if not low < value <= high:
                raise InputError(f"{name} {value!r}: allowed are numbers above {low} up to {high}")
        if self.minibatches > self.batch:
            raise InputError(f"minibatches {self.minibatches}: allowed are 1 to the batch's {self.batch} questions")
        if not self.kl >= 0:
            raise InputError(f"kl {self.kl!r}: allowed are numbers from 0")

    @property
    def fresh_questions(self) -> int:
        """Questions of a step that are rolled out now."""
        return max(1, round(self.fresh * self.batch))

    @property
    def round_questions(self) -> int:
        """Questions that are chosen for a round."""
        return self.steps * self.fresh_questions

    @property
    def round_rollouts(self) -> int:
        """Rollouts of a round."""
        return self.round_questions * self.group


@dataclass
class Costs:
    """What training took so far.

    Attributes:
        rollouts: completions of training questions: chosen ones, and candidates that a controller had rolled out.
        reference_rollouts: completions of reference questions, charged as well.
        choosing_passes: completions or answers that a controller had the policy go through, forward or forward and backward,
            to choose by them; each charged as a rollout.
        evaluation_rollouts: completions for pass rates that are reported (and, greedy, for rewards); not charged.
        gradient_passes: completions that an update took forward and backward; not charged.
        scored: completions that went forward alone (π_o of replayed ones, the reference policy).
        steps: optimiser steps, those included that had nothing to learn from.
        seconds: of rolling out, choosing, updating and evaluating.
    """

    rollouts: int = 0
    reference_rollouts: int = 0
    choosing_passes: int = 0
    evaluation_rollouts: int = 0
    gradient_passes: int = 0
    scored: int = 0
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("roll_out", "choose", "update", "evaluate"), 0.0))

    @property
    def charged(self) -> int:
        """Rollouts that a budget pays, and passes that cost as much."""
        return self.rollouts + self.reference_rollouts + self.choosing_passes

    @property
    def training_seconds(self) -> float:
        """Seconds of everything but evaluating."""
        return sum(seconds for what, seconds in self.seconds.items() if what != "evaluate")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the block's seconds; nested blocks count in the innermost alone."""
        started, inside = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - started - (sum(self.seconds.values()) - inside)


class Training(Protocol):
    """A policy in training on a set of questions: ``dsenv.rlvr.grpo.GRPO``, or ``dsenv.rlvr.simulator.Simulator``.

    Attributes:
        questions: of which ``train``, ``reference`` and ``reward`` are asked.
        settings: how it is trained.
        costs: what that took so far.
        seed: of everything random.
        rounds: done so far.
    """

    questions: QuestionSet
    settings: Settings
    costs: Costs
    seed: int
    rounds: int

    def restart(self, seed: int) -> None:
        """Put the policy back to where training began, with a new seed."""

    def roll_out(self, ids: Ints, part: str = "train") -> Rollouts:
        """Draw G completions of questions of the training or the reference part, and check them; charged."""

    def round(self, ids: Ints) -> Rollouts:
        """Train one round on chosen training questions and return their rollouts."""

    def pass_rates(self, questions: Questions) -> Doubles:
        """Return (n,) pass rates of greedy completions; not charged."""

    def embeddings(self, part: str) -> Floats:
        """Return (n, d) vectors of a part's questions that stay the same while the policy is trained."""

    def gradients(
        self,
        rollouts: Rollouts,
        part: str = "train",
        *,
        form: str = "clipped",
        coordinates: int | None = None,
        dimensions: int | None = None,
    ) -> Floats:
        """Return (q, D) projected gradients of the policy as it is now, one a group, 0 without signal; charged."""

    def answer_logprobs(self, ids: Ints) -> list[Floats]:
        """Return, for each training question, the log-probabilities of its right answer's tokens and of the end; charged."""


class RoundByRound(ABC):
    """What a real and a simulated training share: a round's batches, replay, and what is charged."""

    questions: QuestionSet
    settings: Settings
    costs: Costs
    seed: int
    rounds: int
    draws: int
    buffer: ReplayBuffer

    def begin(self, seed: int) -> None:
        """Forget all rounds."""
        self.seed, self.costs, self.rounds, self.draws = seed, Costs(), 0, 0
        self.buffer = ReplayBuffer(self.settings.capacity)

    def round(self, ids: Ints) -> Rollouts:
        """Train one round on chosen questions of the training part and return their rollouts.

        Raises:
            InputError: for another number of questions than a round has, or an id that is none.
            TrainingStopped: where a loss or a gradient is not finite.
        """
        settings, done = self.settings, []
        for fresh_ids in np.split(check_round(ids, settings, self.questions), settings.steps):
            fresh = self.roll_out(fresh_ids)
            done.append(fresh)
            batch, stale = fresh, 0
            if self.rounds and len(self.buffer):
                old = self.buffer.draw(settings.batch - len(fresh), generator(self.seed, f"replay {self.costs.steps}"))
                batch, stale = join([fresh, old]), len(old)
            with self.costs.timed("update"):
                self.update(batch, stale)
            if settings.fresh < 1:
                self.buffer.add(fresh)
        self.rounds += 1
        return join(done)

    def next_draw(self) -> np.random.Generator:
        """Return the generator of the next rollouts."""
        self.draws += 1
        return generator(self.seed, f"rollouts {self.draws - 1}")

    def charge(self, part: str, rollouts: int) -> None:
        """Count rollouts of a part."""
        if part == "train":
            self.costs.rollouts += rollouts
        else:
            self.costs.reference_rollouts += rollouts

    @abstractmethod
    def roll_out(self, ids: Ints, part: str = "train") -> Rollouts:
        """Draw G completions of questions of the training or the reference part, and check them."""

    @abstractmethod
    def update(self, batch: Rollouts, stale: int) -> None:
        """Learn from groups of which the last ``stale`` are replayed."""


def check_gradient_options(form: str, coordinates: int | None, dimensions: int | None) -> None:
    """Refuse what ``Training.gradients`` does not take.

    Raises:
        InputError: for an unknown form, or numbers below 1.
    """
    one_of("form", form, GRADIENT_FORMS)
    for name, value in (("coordinates", coordinates), ("dimensions", dimensions)):
        if value is not None:
            check_whole(name, value, 1)


def check_round(ids: Any, settings: Settings, questions: QuestionSet) -> Ints:
    """Return the questions of a round.

    Raises:
        InputError: for another number of them than a round has, or an id that is none.
    """
    chosen, size = np.asarray(ids), len(questions.train)
    if chosen.shape != (settings.round_questions,) or chosen.dtype.kind not in "iu":
        raise InputError(
            f"a round takes {settings.round_questions} question ids, not an array of {chosen.dtype} of shape {chosen.shape}"
        )
    outside = chosen[(chosen < 0) | (chosen >= size)]
    if len(outside):
        raise InputError(f"question {outside[0]}: allowed are 0 to {size - 1}")
    return chosen.astype(np.int64)
