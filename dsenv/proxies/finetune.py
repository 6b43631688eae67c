"""The paper's proxy: a small language model fine-tuned on part of the selected rows (arXiv 2509.25850, section 3)."""

from __future__ import annotations

import copy
import hashlib
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.dataset import Ints, TextDataset, stratified_sample
from dsenv.encoders import MINILM_SHA256
from dsenv.errors import InputError, check_whole, one_of, require
from dsenv.metrics import METRICS, NEG_RESPONSE_LOSS, Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import RowSample
from dsenv.proxies.trained import VERSION, TrainedProxy
from dsenv.seeding import generator
from dsenv.task import SelectionTask
from dsenv.training import Recipe, Target, fit, load_target, predict, response_losses

EMPTY = ("class_shares", "untrained")
FEWEST_ROWS = 16  # that a model is trained on, where the selection has as many


class FinetuneProxy(TrainedProxy):
    """Φ(S) = metric, on part of the reward rows, of a language model fine-tuned on part of S.

    In the paper's terms: L of the proxy model M' trained on ξ(s), measured on ξ(D_val). ξ(s) is a stratified sample of
    the selected rows whose seed comes from the counts and the proxy's seed, as do the order of rows and dropout. The
    first weights of the head and ξ(D_val) come from the proxy's seed alone: they are common to all selections.

    Of instruction data the model is a causal one, the loss is that of the responses' tokens given their prompts, and
    ``neg_response_loss``, what it is less of on ξ(D_val) in nats a token, is the one metric; Φ(∅) is the untrained model's.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics; ``neg_log_loss`` and ``accuracy`` are the paper's. ``neg_response_loss``: see above.
        dataset: the texts that the task was built from; the plain dataset is derived as the task's was.
        model: ``minilm`` (the packaged all-MiniLM-L6-v2), a hub name or a folder; encoder or causal.
        rows: share of the selected rows to train on, above 0 up to 1; never fewer than 16 rows and one of each class
            that is there, or all.
        reward_rows: the most reward rows to score on; classes keep their shares.
        epochs: passes over the rows.
        learning_rate: of AdamW at its peak.
        batch_size: rows a step.
        max_length: tokens a row; longer rows are cut.
        empty: Φ(∅): ``class_shares`` predicts the training class shares, ``untrained`` is the model before any training.
        seed: as above.
        device: as torch names it, or ``auto``.

    Raises:
        InputError: for values outside what is allowed, or a dataset that is not the task's.
    """

    def __init__(
        self,
        task: SelectionTask,
        plan: PickPlan,
        metric: str,
        dataset: TextDataset,
        *,
        model: str = "minilm",
        rows: float = 0.25,
        reward_rows: int = 256,
        epochs: int = 1,
        learning_rate: float = 2e-4,
        batch_size: int = 16,
        max_length: int = 64,
        empty: str = "class_shares",
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__(task, plan, metric, seed)
        if isinstance(rows, bool) or not 0 < rows <= 1:
            raise InputError(f"rows {rows!r} is not a share of the selected rows: allowed are above 0 up to 1")
        check_whole("reward_rows", reward_rows, 1)
        self.rows, self.reward_rows, self.empty = float(rows), int(reward_rows), one_of("empty", empty, EMPTY)
        self.training = Recipe(
            target=model,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            device=device,
        )
        dataset = _of_task(dataset, task)
        self._pool = dataset.train.take(task.train_rows)
        self._held_out = dataset.validation.take(task.dataset_rows("reward"))
        self.scored_rows()  # fails here, and not at the first score, where classes do not fit

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings, the model's weights where they are here, and the dataset's fingerprint."""
        return {
            "proxy": "finetune",
            "version": VERSION,
            **asdict(self.training),
            "device": self._device,
            "weights": self._weights,
            "rows": self.rows,
            "reward_rows": self.reward_rows,
            "empty": self.empty,
            "seed": self.seed,
            "dataset": self.task.facts["fingerprint"],
        }

    @classmethod
    def metrics(cls, task: SelectionTask) -> tuple[str, ...]:
        """Return the metrics that the proxy has on a task."""
        return (NEG_RESPONSE_LOSS,) if task.is_instructions else tuple(METRICS)

    def value(self, model: Target, rows: Ints) -> float:
        """Return what a model is worth on reward rows, numbered inside the reward split (n,)."""
        if not self.task.is_instructions:
            return super().value(model, rows)
        return -response_losses(model, self._held_out.take(rows), "proxy reward rows").mean

    def empty_value(self, rows: Ints) -> float:
        """Return what the empty selection is worth on reward rows."""
        return self.value(self._untrained(), rows) if self.task.is_instructions else super().empty_value(rows)

    def train(self, counts: Ints) -> Target:
        """Return a model trained on a selection that is not empty; counts (K,)."""
        seed = self.selection_seed(counts)
        chosen = self._pool.take(self.training_rows(counts))
        target = self._untrained()
        fit(target, chosen, seed, f"proxy on {len(chosen)} rows")
        return target

    def training_rows(self, counts: Ints) -> Ints:
        """Return ξ(s): the numbers (m,) of the pool's rows that the model of a selection is trained on; counts (K,)."""
        rows = self.plan.rows(counts)
        labels = self.task.train.labels[rows]
        size = min(len(rows), max(round(self.rows * len(rows)), FEWEST_ROWS, len(np.unique(labels))))
        return rows[stratified_sample(labels, size, generator(self.selection_seed(counts), "proxy rows"))]

    def class_scores(self, model: Target, rows: Ints) -> Doubles:
        """Return class probabilities (n, C) of reward rows, numbered inside the reward split (n,)."""
        return predict(model, self._held_out.take(rows), "proxy reward rows")

    def scored_rows(self, sample: RowSample | None = None) -> Ints:
        """Return ξ(D_val): at most ``reward_rows`` of the sample's reward rows, or of all; stratified by class, ascending."""
        rows = super().scored_rows(sample)
        if len(rows) <= self.reward_rows:
            return rows
        return rows[
            stratified_sample(self.task.reward.labels[rows], self.reward_rows, generator(self.seed, "proxy reward rows"))
        ]

    def empty_scores(self, rows: Ints) -> Doubles:
        """Return the class scores (n, C) of the empty selection: the training class shares, or the untrained model's."""
        return super().empty_scores(rows) if self.empty == "class_shares" else self.class_scores(self._untrained(), rows)

    def _untrained(self) -> Target:
        """The model before training, read from disk once a process."""
        target = _load(self.training, None if self.task.is_instructions else self.task.classes, self.seed)
        return Target(copy.deepcopy(target.model), target.tokenizer, target.recipe, target.device)

    @cached_property
    def _device(self) -> str:
        """What scores depend on of the device: its type."""
        torch = require("torch", "finetune")
        asked = self.training.device
        return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked.partition(":")[0]

    @cached_property
    def _weights(self) -> str | None:
        """SHA-256 of the model's weights; a hub name stands for its own."""
        folder = Path(self.training.target)
        if self.training.target == "minilm" or not folder.is_dir():
            return MINILM_SHA256 if self.training.target == "minilm" else None
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


@lru_cache(maxsize=1)
def _load(recipe: Recipe, classes: int | None, seed: int) -> Target:
    return load_target(recipe, classes, seed)


def _of_task(dataset: TextDataset, task: SelectionTask) -> TextDataset:
    """The dataset whose rows the task's are, derived from the plain one where that is given.

    Raises:
        InputError: where it is another dataset.
    """
    asked, derivation = task.facts["fingerprint"], task.facts["derivation"]
    if dataset.fingerprint != asked and not dataset.derivation:
        with suppress(InputError):  # another dataset may lack the source; what is said of it below is what matters
            derived = dataset.derive(derivation)
            if derived.fingerprint == asked:
                return derived
    if dataset.fingerprint != asked:
        how = f"; apply the derivation {derivation} to it first" if derivation != dataset.derivation else ""
        raise InputError(
            f"task {task.name!r} was built from dataset fingerprint {asked[:16]}; dataset {dataset.name!r} has "
            f"{dataset.fingerprint[:16]}{how}"
        )
    return dataset
