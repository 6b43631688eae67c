"""The second family's environment: choose the cluster of questions that a policy is trained on next."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dsenv.dataset import Ints
from dsenv.env import EpisodeOver, Observation
from dsenv.errors import InputError, check_whole, one_of
from dsenv.rlvr.arithmetic import LONGEST, arithmetic_questions
from dsenv.rlvr.gsm8k import gsm8k_questions
from dsenv.rlvr.history import ClusterHistory
from dsenv.rlvr.questions import QuestionSet
from dsenv.rlvr.simulator import Simulator
from dsenv.rlvr.training import Settings, Training


class DataSelectRLVREnv(gym.Env[Any, Any]):
    """Choose, round by round, the cluster of questions that a policy is trained on by GRPO.

    Observation:
        ``flat`` (default): float32 ``Box`` (3 K + 2,): for each cluster its difficulty (1 - pass rate of its rollouts when it
        was last asked; 0.5 before), staleness (rounds since, as a share of the horizon; 1 before) and share of its questions
        asked so far; then the share of rounds left and the pass rate on the reward questions. ``dict``: the same by name,
        ``difficulty``, ``staleness``, ``trained`` (K,), ``budget_left``, ``pass_rate`` (1,), and ``action_mask`` int8 (K,).

    Action:
        ``Discrete(K)``: the next questions of cluster k, in an order drawn for the episode that begins anew when all were
        asked, are rolled out G times each, and the policy is updated.

    Reward:
        ``dense`` (default): the change of the pass rate on the reward questions (greedy completions). ``final``: the whole
        change at the end; the pass rate is then computed twice an episode, and until the end the observation shows the
        first. Use γ = 1.

    Episode end:
        Terminated after as many rounds as the budget of rollouts pays; never truncated.

    Info:
        ``action_mask`` int8 (K,): all 1. ``score``: the pass rate. ``rollouts``: charged so far. ``evaluation_rollouts``: for
        pass rates since the reset, not charged. ``gradient_passes``: completions that updates were computed from.
        ``signal``: share of the round's groups that had rights and wrongs. At the end ``counts`` (K,): rounds of each cluster.

    Arguments:
        questions: ``arithmetic``, ``gsm8k`` (or another name, folder or hub name that ``gsm8k_questions`` takes), or a
            ``QuestionSet``.
        policy: ``arithmetic`` (the embedded one), a folder or a hub name of a causal checkpoint, a ``Policy``, or
            ``simulator``, which is none: numbers from it say nothing about training. A ``Simulator`` made with the same
            questions and settings is taken as it is.
        budget: rollouts an episode, at least one round's.
        batch, group, steps, minibatches, fresh, capacity, learning_rate, warmup, clip, kl, temperature, advantages,
            max_grad_norm: of ``dsenv.rlvr.training.Settings``.
        max_new_tokens: of a completion.
        max_prompt_tokens: leave out questions with longer prompts; default: longer ones than the model reads are refused.
        clusters: ``given``, or ``embedding``: 32 K-Means clusters of the policy's mean hidden states.
        reward: ``dense`` or ``final``.
        observation: ``flat`` or ``dict``.
        data_dir: where a questions' folder is looked for; default: ``DSENV_DATA_DIR``.
        device: as torch names it, or ``auto``.
        render_mode: ``ansi``.

    Raises:
        InputError: for anything else, and for a checkpoint that cannot be used.
        dsenv.rlvr.training.TrainingStopped: by ``step``, where a loss is not finite.

    Version history:
        v0: first version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        questions: str | Path | QuestionSet = "arithmetic",
        *,
        policy: Any = "arithmetic",
        budget: int = 20_480,
        max_new_tokens: int = LONGEST,
        max_prompt_tokens: int | None = None,
        clusters: str = "given",
        reward: str = "dense",
        observation: str = "flat",
        data_dir: str | Path | None = None,
        device: str = "auto",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None:
            one_of("render_mode", render_mode, cast("list[str]", self.metadata["render_modes"]))
        for name in settings:
            one_of("keyword", name, Settings.__dataclass_fields__)
        self.render_mode = render_mode
        self.dense = one_of("reward", reward, ("dense", "final")) == "dense"
        self.flat = one_of("observation", observation, ("flat", "dict")) == "flat"
        one_of("clusters", clusters, ("given", "embedding"))
        made = Settings(**settings)
        check_whole("budget", budget, 1)
        self.horizon = budget // made.round_rollouts
        if not self.horizon:
            raise InputError(f"budget {budget}: a round takes {made.round_rollouts} rollouts, allowed are budgets from that")
        self.training = make_training(
            load_questions(questions, data_dir),
            policy,
            made,
            max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            embedding_clusters=32 if clusters == "embedding" else None,
            device=device,
        )
        self.questions = self.training.questions
        count = len(self.questions.clusters)
        sizes = np.bincount(self.questions.train.cluster, minlength=count)
        empty = [name for name, size in zip(self.questions.clusters, sizes, strict=True) if not size]
        if empty:
            raise InputError(f"questions {self.questions.name!r} have no training question in the clusters {', '.join(empty)}")
        self._first_score: float | None = None  # the same in every episode
        self.action_space = spaces.Discrete(count)
        shapes = {"difficulty": count, "staleness": count, "trained": count, "budget_left": 1, "pass_rate": 1}
        parts: dict[str, spaces.Space[Any]] = {name: spaces.Box(0, 1, (size,), np.float32) for name, size in shapes.items()}
        self.observation_space: spaces.Space[Any] = spaces.Box(0, 1, (sum(shapes.values()),), np.float32)
        if not self.flat:
            self.observation_space = spaces.Dict({**parts, "action_mask": spaces.Box(0, 1, (count,), np.int8)})
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Put the policy back to where training begins; there are no options.

        Raises:
            InputError: for options.
        """
        super().reset(seed=seed)
        if options:
            raise InputError(f"unknown reset options {', '.join(map(repr, options))}; allowed: none")
        drawn = int(self.np_random.integers(2**31))
        self.training.restart(drawn)
        if self._first_score is None:
            self._first_score = self._pass_rate()
            self.training.restart(drawn)  # its rollouts are not this episode's
        self._orders = self.questions.orders(drawn)
        self.counts: Ints = np.zeros(len(self._orders), np.int64)
        self._history = ClusterHistory(self.questions, self.horizon)
        self.score = self._first_score
        self._signal, self._over = 0.0, False
        return self._observe(), self._info()

    def step(self, action: int | np.integer[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Train one round on a cluster's next questions.

        Raises:
            InputError: for an action outside 0..K-1.
            EpisodeOver: after the last round, before a reset.
            TrainingStopped: where a loss is not finite.
        """
        if self._over:
            raise EpisodeOver("the episode is over: call reset() before step()")
        if not isinstance(action, (int, np.integer)) or not 0 <= action < len(self.counts):
            raise InputError(f"action {action!r} is not a cluster: allowed are 0 to {len(self.counts) - 1}")
        size = self.training.settings.round_questions
        places = np.arange(self.counts[action] * size, (self.counts[action] + 1) * size)
        order = self._orders[action]
        rollouts = self.training.round(order[places % len(order)])
        self.counts[action] += 1
        self._history.see(rollouts, self.training.rounds)
        self._signal = float(rollouts.signal.mean())
        self._over = self.training.rounds == self.horizon
        before = self.score
        if self.dense or self._over:
            self.score = self._pass_rate()
        info = self._info()
        if self._over:
            info["counts"] = self.counts.copy()
        return self._observe(), self.score - before, self._over, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (K,) True: every cluster may be asked at any time."""
        return np.ones(len(self.questions.clusters), bool)

    def render(self) -> str | None:
        """Return a line a cluster: rounds, and a bar as long as its last measured pass rate."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; allowed: ansi")
            return None
        width = max(map(len, self.questions.clusters))
        lines = [f"round {self.training.rounds} of {self.horizon}, pass rate {self.score:.3f}"]
        for name, count, difficulty in zip(self.questions.clusters, self.counts, self._history.difficulty, strict=True):
            bar = "#" * round(20 * (1 - difficulty)) if count else "?"
            lines.append(f"{name:{width}} {count:4d} {bar}")
        return "\n".join(lines)

    def _pass_rate(self) -> float:
        return float(self.training.pass_rates(self.questions.reward).mean())

    def _observe(self) -> Observation:
        done = self.training.rounds
        left, score = np.array([1 - done / self.horizon]), np.array([self.score])
        parts = {**self._history.observe(done), "budget_left": left, "pass_rate": score}
        if self.flat:
            return np.concatenate(list(parts.values())).astype(np.float32)
        observation: dict[str, npt.NDArray[Any]] = {name: value.astype(np.float32) for name, value in parts.items()}
        return {**observation, "action_mask": self.action_masks().astype(np.int8)}

    def _info(self) -> dict[str, Any]:
        costs = self.training.costs
        return {
            "action_mask": self.action_masks().astype(np.int8),
            "score": self.score,
            "rollouts": costs.charged,
            "evaluation_rollouts": costs.evaluation_rollouts,
            "gradient_passes": costs.gradient_passes,
            "signal": self._signal,
        }


def load_questions(questions: str | Path | QuestionSet, data_dir: str | Path | None = None) -> QuestionSet:
    """Return a question set: itself, ``arithmetic``, or what ``gsm8k_questions`` takes.

    Raises:
        InputError: where there are no such questions.
    """
    if isinstance(questions, QuestionSet):
        return questions
    return arithmetic_questions() if questions == "arithmetic" else gsm8k_questions(questions, data_dir=data_dir)


def make_training(
    questions: QuestionSet,
    policy: Any,
    settings: Settings,
    *,
    max_new_tokens: int = LONGEST,
    max_prompt_tokens: int | None = None,
    embedding_clusters: int | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Training:
    """Return a policy in training: a ``Policy``, one by name, or with ``simulator`` a simulated one.

    Args:
        questions: what it is trained on.
        policy: as in ``DataSelectRLVREnv``; or a ``Simulator`` of these very questions and settings.
        settings: how.
        max_new_tokens: of a completion, where the policy is a name.
        max_prompt_tokens: leave out questions with longer prompts.
        embedding_clusters: K of clusters of the policy's mean hidden states, in place of the given ones.
        device: where the policy is a name.
        seed: of the training.

    Raises:
        InputError: where the checkpoint cannot be used, or prompts are too long for it.
        MissingExtraError: without the extra ``finetune``, except for the simulator.
    """
    if policy is None:
        raise InputError(
            f"policy is missing for questions {questions.name!r}: give policy= a causal checkpoint's folder or hub name"
        )
    simulated = isinstance(policy, Simulator) or (isinstance(policy, str) and policy == "simulator")
    if simulated and (embedding_clusters is not None or max_prompt_tokens is not None):
        raise InputError("the simulator has no embeddings and no tokens: clusters must be 'given', max_prompt_tokens None")
    if isinstance(policy, Simulator):
        if policy.questions is not questions or policy.settings != settings:
            raise InputError("this simulator has other questions or settings: it must be made with those that are given here")
        return policy
    if simulated:
        return Simulator(questions, settings, seed)
    from dsenv.rlvr.grpo import GRPO
    from dsenv.rlvr.policy import Policy

    asked = Policy(policy, max_new_tokens=max_new_tokens, device=device) if isinstance(policy, str) else policy
    if max_prompt_tokens is not None:
        questions = questions.kept(lambda prompt: asked.prompt_length(prompt) <= max_prompt_tokens)
    if embedding_clusters is not None:
        vectors = {part: asked.embed(found.prompts) for part, found in questions.parts.items()}
        questions = questions.clustered(vectors, embedding_clusters)
    return GRPO(asked, questions, settings, seed)
