"""GRPO round by round: roll out the questions that were chosen, update the policy, count everything.

Why not TRL: version 1.16 can be driven in rounds, but it fixes the order of the questions before training (choosing them by
what the policy does now needs an experimental hook, or a new ``train`` call a round that costs 1.4 times a bare loop at the
embedded size), it has no replay buffer and reads behaviour log-probabilities on its vLLM path alone, it seeds the whole
process, and its checkpoints hold pickles. The loss here is its loss where both apply.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, one_of, require
from dsenv.metrics import Doubles
from dsenv.rlvr.loss import advantages, kl_estimate, objective, reweighted_advantages
from dsenv.rlvr.policy import Completions, Floats, Policy
from dsenv.rlvr.questions import Questions, QuestionSet
from dsenv.rlvr.replay import Rollouts
from dsenv.rlvr.training import Costs, RoundByRound, Settings, TrainingStopped, check_gradient_options
from dsenv.rlvr.weights import put_weights_state, weights_state
from dsenv.seeding import generator
from dsenv.selectors.gradients import GRADIENT_BYTES, project

BETAS = (0.9, 0.99)  # of Adam: its second moments forget the first, rough steps soon


class GRPO(RoundByRound):
    """A policy in training on a set of questions.

    All randomness comes from the seed and the number of earlier draws, so the same seed and choices give the same policy on
    one machine, device and number of threads, and a snapshot needs no state of a generator.

    Args:
        policy: changed in place.
        questions: of which ``train``, ``reference`` and ``reward`` are asked.
        settings: how.
        seed: of the rollouts and of what is drawn from the replay buffer.
    """

    def __init__(self, policy: Policy, questions: QuestionSet, settings: Settings | None = None, seed: int = 0) -> None:
        self.policy, self.questions, self.settings, self.seed = policy, questions, settings or Settings(), seed
        self._check = questions.check
        # A prompt that is too long is refused now, not in the middle of a run.
        self._prompts = {part: policy.prompt_ids(questions.parts[part].prompts) for part in ("train", "reference", "reward")}
        torch = require("torch", "finetune")
        self._weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
        self._initial = [weight.detach().clone() for weight in self._weights]
        self._torch = torch
        self._embedded: dict[str, Floats] = {}
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Put the policy back to where training began, with a new seed."""
        self._put(self._initial)
        self.begin(seed)
        self.optimizer = self._torch.optim.AdamW(
            self._weights, lr=self.settings.learning_rate, weight_decay=0.0, betas=BETAS, fused=True
        )

    @cached_property
    def begun_digest(self) -> str:
        """SHA-256 over the weights that training began with."""
        digest = hashlib.sha256()
        for weight in self._initial:
            digest.update(weight.cpu().numpy().tobytes())
        return digest.hexdigest()

    def roll_out(self, ids: Ints, part: str = "train") -> Rollouts:
        """Draw G completions of each question and check them; those of the reference part are counted as such."""
        one_of("part", part, ("train", "reference"))
        questions: Questions = self.questions.parts[part].take(ids)
        group = self.settings.group
        with self.costs.timed("roll_out"):
            found = self.policy.complete(questions.prompts, group, self.settings.temperature, self.next_draw())
            right = self._right(questions, found, group)
        self.charge(part, len(right))
        shape = (len(questions), group)
        return Rollouts(
            np.asarray(ids, np.int64),
            found.tokens.reshape(*shape, -1),
            found.lengths.reshape(shape),
            found.logprobs.reshape(*shape, -1),
            right.reshape(shape),
        )

    def pass_rates(self, questions: Questions) -> Doubles:
        """Return (n,) 1 where the likeliest completion of a question is right, else 0."""
        with self.costs.timed("evaluate"):
            found = self.policy.complete(questions.prompts, 1, 0.0, np.random.default_rng(0))
            right = self._right(questions, found, 1)
        self.costs.evaluation_rollouts += len(right)
        return right

    def measure(self, ids: Ints, rng: np.random.Generator) -> Doubles:
        """Return the pass rates (n,) of G completions of training questions, for a report alone: they are not charged."""
        questions, group = self.questions.train.take(ids), self.settings.group
        with self.costs.timed("evaluate"):
            right = self._right(
                questions, self.policy.complete(questions.prompts, group, self.settings.temperature, rng), group
            )
        self.costs.evaluation_rollouts += len(right)
        return np.asarray(right.reshape(-1, group).mean(1))

    def embeddings(self, part: str) -> Floats:
        """Return vectors (n, d) of a part's questions: mean last hidden states of the policy that training began with."""
        if part not in self._embedded:
            with self.costs.timed("choose"), self._as_it_began():
                self._embedded[part] = self.policy.embed(self.questions.parts[part].prompts)
        return self._embedded[part]

    def gradients(
        self,
        rollouts: Rollouts,
        part: str = "train",
        *,
        form: str = "clipped",
        coordinates: int | None = None,
        dimensions: int | None = None,
    ) -> Floats:
        """Return the gradient of the objective of each group under the policy as it is now, projected: (q, D).

        A group's objective is the mean over its completions' tokens, without the divergence from the first policy. Each
        completion of a group with signal is charged as one pass; without, the gradient is 0.

        Args:
            rollouts: of questions of a part, of any age.
            part: ``train`` or ``reference``.
            form: ``clipped``, the objective of the updates with the band around π_b; ``acg``: no clipping, and advantages by
                ``dsenv.rlvr.loss.reweighted_advantages``.
            coordinates: of the policy's weights that are looked at, drawn by the training's seed; None for all of them.
            dimensions: D, of the projection by random signs; None, or no fewer than the coordinates, for none.

        Raises:
            InputError: for an unknown form, or numbers below 1.
            TrainingStopped: where a gradient is not finite.

        Source: CROPI, arXiv 2510.26491, section 3 (sparse random projection) and its code.
        """
        check_gradient_options(form, coordinates, dimensions)
        one_of("part", part, ("train", "reference"))
        torch = self._torch
        width = sum(weight.numel() for weight in self._weights)
        kept = None
        if coordinates is not None and coordinates < width:
            drawn = generator(self.seed, "coordinates of gradients").choice(width, coordinates, replace=False)
            kept = torch.as_tensor(np.sort(drawn), device=self.policy.device)
            width = coordinates
        size = width if dimensions is None else min(dimensions, width)
        found = np.zeros((len(rollouts), size), np.float32)
        used = np.flatnonzero(rollouts.signal)
        block = max(1, GRADIENT_BYTES // (4 * width))
        with self.costs.timed("choose"):
            for start in range(0, len(used), block):
                rows = []
                for place in used[start : start + block]:
                    slopes = torch.autograd.grad(self._group_objective(rollouts.take([place]), part, form), self._weights)
                    row = torch.cat([slope.flatten() for slope in slopes])
                    self._check_finite("gradient", row.sum())
                    rows.append(row if kept is None else row[kept])
                together = torch.stack(rows)
                if size < width:
                    together = project(together, size, self.seed)
                found[used[start : start + block]] = together.cpu().numpy()
        self.costs.choosing_passes += len(used) * rollouts.rewards.shape[1]
        return found

    def answer_logprobs(self, ids: Ints) -> list[Floats]:
        """Return the log-probabilities, at the training's temperature, of right answers' tokens and of the end behind them.

        One forward pass a question, which is charged as a rollout. Where a question has one right completion, the sum is the
        logarithm of its pass rate.

        Args:
            ids: of training questions.

        Raises:
            InputError: for an answer without tokens, or one that is longer than a completion may be.
        """
        questions = self.questions.train.take(ids)
        answers = self.policy.tokenizer(list(questions.answers), add_special_tokens=False)["input_ids"]
        lengths = np.array([len(answer) + 1 for answer in answers], np.int64)
        longest = self.policy.max_new_tokens
        for answer, length in zip(questions.answers, lengths, strict=True):
            if not 2 <= length <= longest:
                raise InputError(f"answer {answer[:60]!r} has {length - 1} tokens: allowed are 1 to {longest - 1}")
        tokens = np.zeros((len(answers), 1, int(lengths.max(initial=1))), np.int64)
        for row, answer in zip(tokens[:, 0], answers, strict=True):
            row[: len(answer) + 1] = [*answer, self.policy.ends[0]]
        prompts = [self._prompts["train"][i] for i in ids]
        found: list[Floats] = [np.empty(0, np.float32)] * len(answers)
        with self.costs.timed("choose"), self._torch.no_grad():
            for batch in self.policy.batches(np.array([len(prompt) for prompt in prompts], np.int64), lengths):
                given = tokens[batch][..., : lengths[batch].max()]
                scored = self.policy.logprobs([prompts[i] for i in batch], given, self.settings.temperature).cpu().numpy()
                for i, row in zip(batch, scored, strict=True):
                    found[i] = row[: lengths[i]]
        self.costs.choosing_passes += len(answers)
        return found

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, moments of the optimiser and the replay buffer, arrays by name."""
        found = weights_state(enumerate(self._weights), self.optimizer)
        if self.buffer.groups is not None:
            found |= self.buffer.groups.arrays("replay")
        return found

    def counts(self) -> dict[str, Any]:
        """Return rounds, draws and costs so far, JSON-able."""
        return {"rounds": self.rounds, "draws": self.draws, "costs": asdict(self.costs)}

    def put_state(self, state: Mapping[str, npt.NDArray[Any]], counts: Mapping[str, Any]) -> None:
        """Take back what ``state`` and ``counts`` returned.

        Raises:
            InputError: where the weights are of another shape.
        """
        self.restart(self.seed)
        put_weights_state(enumerate(self._weights), self.optimizer, state)
        self.buffer.groups = Rollouts.of(state, "replay")
        self.rounds, self.draws = counts["rounds"], counts["draws"]
        self.costs = Costs(**copy.deepcopy(dict(counts["costs"])))

    def update(self, batch: Rollouts, stale: int) -> None:
        """Train on groups of which the last ``stale`` are replayed, in as many optimiser steps as there are minibatches."""
        settings = self.settings
        weights = advantages(batch.rewards, settings.advantages)
        # A group without advantages has no gradient, unless the divergence has one: it counts in the mean alone.
        used = np.arange(len(batch)) if settings.kl else np.flatnonzero(batch.signal)
        rng = generator(self.seed, f"minibatches {self.costs.steps}")
        start = reference = batch.logprobs
        if settings.minibatches > 1:  # with one, the update starts where the gradient is taken
            replayed = used[used >= len(batch) - stale]  # fresh ones were drawn from the policy as it is now
            start = self._score(batch, replayed)
        if settings.kl:
            with self._as_it_began():
                reference = self._score(batch, used)
        for minibatch in np.array_split(rng.permutation(len(batch)), settings.minibatches):
            self._step(batch, weights, start, reference, minibatch, used[np.isin(used, minibatch)])
        if self.policy.device != "cpu":
            self._torch.accelerator.synchronize()  # so that its seconds are counted here

    def _step(self, batch: Rollouts, weights: Doubles, start: Floats, reference: Floats, minibatch: Ints, used: Ints) -> None:
        torch, settings, device = self._torch, self.settings, self.policy.device
        tokens = int(batch.lengths[minibatch].sum())
        self.optimizer.zero_grad()
        for places in self._parts(batch, used):
            part = batch.take(places)
            current = self._logprobs(part)
            rows, longest = current.shape

            def given(values: Floats, places: Ints = places, rows: int = rows, longest: int = longest) -> Any:
                return torch.as_tensor(values[places][..., :longest].reshape(rows, -1), device=device)

            mask = torch.as_tensor(np.arange(longest) < part.lengths.reshape(-1, 1), device=device)
            current = torch.where(mask, current, 0.0)  # behind the end, where the stored ones are 0 too
            begun = torch.where(mask, given(start), 0.0) if settings.minibatches > 1 else current.detach()
            advantage = torch.as_tensor(weights[places].reshape(-1, 1), dtype=torch.float32, device=device)
            values = objective(current, begun, given(batch.logprobs), advantage, settings.clip)
            if settings.kl:
                values = values - settings.kl * kl_estimate(current, torch.where(mask, given(reference), 0.0))
            loss = -(values * mask).sum() / tokens
            self._check_finite("loss", loss)
            loss.backward()
            self.costs.gradient_passes += rows
        if len(used):
            self._check_finite("gradient", torch.nn.utils.clip_grad_norm_(self._weights, settings.max_grad_norm))
            rate = settings.learning_rate * min(1, (self.costs.steps + 1) / settings.warmup)
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        self.costs.steps += 1

    def _check_finite(self, what: str, value: Any) -> None:
        if not self._torch.isfinite(value):
            self.optimizer.zero_grad()
            raise TrainingStopped(
                f"the {what} of round {self.rounds + 1} is {value.item()} with learning_rate {self.settings.learning_rate}: "
                "go on from a snapshot with a smaller one"
            )

    def _group_objective(self, group: Rollouts, part: str, form: str) -> Any:
        """Return the mean objective over the tokens of one group, with a gradient."""
        torch, device = self._torch, self.policy.device
        current = self._logprobs(group, part)
        mask = torch.as_tensor(np.arange(current.shape[1]) < group.lengths.reshape(-1, 1), device=device)
        behaviour = torch.as_tensor(group.logprobs[0, :, : current.shape[1]], device=device)
        gap = torch.where(mask, current - behaviour, 0.0)
        if form == "acg":
            drift = (gap.detach().sum(1) / mask.sum(1)).double().cpu().numpy()
            weights = reweighted_advantages(group.rewards, drift[None])
        else:
            weights = advantages(group.rewards, self.settings.advantages)
        advantage = torch.as_tensor(weights.reshape(-1, 1), dtype=torch.float32, device=device)
        values = gap.exp() * advantage if form == "acg" else objective(gap, 0 * gap, 0 * gap, advantage, self.settings.clip)
        return (values * mask).sum() / mask.sum()

    def _score(self, batch: Rollouts, places: Ints) -> Floats:
        """Return (q, G, T) log-probabilities, of these groups under the policy as it is now and of the others as stored."""
        found = batch.logprobs.copy()
        for some in self._parts(batch, places):
            with self._torch.no_grad():
                scored = self._logprobs(batch.take(some)).cpu().numpy()
            found[some, :, : scored.shape[-1]] = scored.reshape(len(some), self.settings.group, -1)
            self.costs.scored += len(scored)
        return found

    def _right(self, questions: Questions, found: Completions, group: int) -> Doubles:
        """Return 1 for each completion that ended and that the checker accepts, else 0."""
        answers = (answer for answer in questions.answers for _ in range(group))
        pairs = zip(found.texts, answers, strict=True)
        return np.array([text is not None and self._check(text, answer) for text, answer in pairs], np.float64)

    def _put(self, values: list[Any]) -> None:
        with self._torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)

    @contextmanager
    def _as_it_began(self) -> Iterator[None]:
        """Lend the policy the weights that training began with."""
        now = [weight.detach().clone() for weight in self._weights]
        self._put(self._initial)
        try:
            yield
        finally:
            self._put(now)

    def _logprobs(self, groups: Rollouts, part: str = "train") -> Any:
        """Return (q G, T) log-probabilities of the current policy, T the longest of these completions."""
        prompts = [self._prompts[part][i] for i in groups.questions]
        return self.policy.logprobs(prompts, groups.tokens[..., : int(groups.lengths.max())], self.settings.temperature)

    def _parts(self, batch: Rollouts, used: Ints) -> Iterator[Ints]:
        """Yield places of groups of about the same length, as many as a pass may hold."""
        prompts = np.array([len(self._prompts["train"][i]) for i in batch.questions[used]], np.int64)
        for some in self.policy.batches(prompts, batch.lengths[used].max(1), self.settings.group):
            yield used[some]
