"""A selection to a fine-tuned target, and what that is worth on test rows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.errors import InputError, check_whole
from dsenv.files import atomic_write, locked
from dsenv.metrics import accuracy, macro_f1
from dsenv.reading import Whole, read_json
from dsenv.selection import Selection, row_ids_digest
from dsenv.tracking import tracker
from dsenv.training import Fit, Target, fit, load_target, make_recipe, predict, response_losses

log = logging.getLogger(__name__)

FEW_STEPS = 60  # of the optimiser: below, a warning


@dataclass(frozen=True)
class TargetRun:
    """One seed of a fine-tuned target.

    Attributes:
        seed: of the head, the row order and dropout.
        accuracy, macro_f1: on the test rows; None for instruction data.
        fit: seconds, steps, rows and tokens of training.
        seconds_test: of predicting the test rows.
        loss: of instruction data, nats a token of the test rows' responses; None for classes.
    """

    seed: Whole
    accuracy: float | None
    macro_f1: float | None
    fit: Fit
    seconds_test: float
    loss: float | None = None


@dataclass(frozen=True)
class TargetResult:
    """A target fine-tuned on chosen rows, over seeds.

    Attributes:
        method: what chose the rows.
        rows: how many.
        class_shares: of the chosen rows.
        recipe: how the target was trained.
        runs: one a seed.
        rows_digest: of the chosen rows, in their order.
        fingerprint: of the dataset.
        selection: digest of the row ids (``Selection.digest``); "" for all rows.
    """

    method: str
    rows: Whole
    class_shares: tuple[float, ...]
    recipe: dict[str, Any]
    runs: tuple[TargetRun, ...]
    rows_digest: str = ""
    fingerprint: str = ""
    selection: str = ""

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> TargetResult:
        """Read a result.

        Raises:
            InputError: where the file is missing or no result.
        """
        return read_json(path, cls, "result of a target")


def fine_tune(
    selection: Selection | Sequence[int] | Ints | None,
    dataset: TextDataset,
    target: str = "minilm",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path | None = None,
    path: str | Path | None = None,
    tracking: str | None = None,
    **recipe: Any,
) -> TargetResult:
    """Fine-tune a target on the selected rows and score it on the test rows.

    Instruction data fine-tunes a causal model on prompts and responses; its score is the loss of held-out responses.

    Args:
        selection: a ``Selection`` of this dataset, row ids of its training rows, or None for all of them.
        dataset: where the rows come from.
        target: ``minilm``, a hub name or a folder; encoder or causal.
        seeds: one training run each.
        out: folder for the model of the last seed, in the ``transformers`` format.
        path: a file for the result, written after every seed: the seeds in it are not trained again, and a seed that was
            interrupted goes on after its last whole epoch.
        tracking: ``tensorboard:FOLDER`` or ``wandb:PROJECT``: losses and test scores.
        recipe: ``method=``, ``epochs=``, ``learning_rate=``, ``batch_size=``, ``max_length=``, ``weight_decay=``,
            ``lora_rank=``, ``order=``, ``device=`` as in ``Recipe``. With ``order="given"`` rows are seen as they stand:
            ``rows[folded(scores)]`` is the order of DELT.

    Raises:
        InputError: for a selection of another dataset, row ids it does not have, an unreadable checkpoint, a file of
            another fine-tuning, or one that another process is writing.
        MissingExtraError: without the extra ``finetune``.
    """
    chosen = make_recipe(target, **recipe)
    if not seeds:
        raise InputError("fine-tuning needs at least one seed")
    for seed in seeds:
        check_whole("seed", seed, 0)
    if not isinstance(dataset, TextDataset):
        raise InputError(
            f"dataset is a {type(dataset).__name__}: make it a TextDataset (TextDataset.from_table, load_dataset)"
        )
    rows, method = _rows(selection, dataset)
    steps = chosen.epochs * -(-len(rows) // chosen.batch_size)
    if steps < FEW_STEPS:
        log.warning(
            "%d rows, %d to a step, %d epochs: %d steps may be too few to learn from; epochs=%d gives about %d",
            *(len(rows), chosen.batch_size, chosen.epochs, steps, -(-FEW_STEPS * chosen.epochs // steps), FEW_STEPS),
        )
    shares = np.bincount(rows.labels, minlength=len(dataset.class_names)) / len(rows)
    ids = selection.rows if isinstance(selection, Selection) else selection
    result = TargetResult(
        method, len(rows), tuple(shares.tolist()), asdict(chosen), (), rows.digest, dataset.fingerprint,
        "" if ids is None else row_ids_digest(ids),
    )  # fmt: skip
    with locked(path, wait=0):
        known = {} if path is None or not Path(path).is_file() else {run.seed: run for run in _resumed(path, result).runs}
        if out is not None and seeds[-1] in known:
            raise InputError(f"{str(path)!r} holds the last seed already, so there is no model to write: give another path")
        for seed in seeds:
            checkpoint = None if path is None else Path(f"{path}.seed{seed}.checkpoint")
            if seed not in known:
                with tracker(tracking, f"{method} seed {seed}") as tell:
                    model = load_target(chosen, None if dataset.is_instructions else len(dataset.class_names), seed)
                    what = f"fine-tune on {len(rows)} rows ({method}, seed {seed})"
                    fitted = fit(model, rows, seed, what, checkpoint=checkpoint, tracker=tell)
                    started = time.perf_counter()
                    found = _test(model, dataset, f"test ({method}, seed {seed})")
                    tested = {name: value for name, value in found.items() if value is not None}
                    tell(fitted.steps * chosen.batch_size, **tested)
                known[seed] = TargetRun(seed=seed, fit=fitted, seconds_test=time.perf_counter() - started, **found)
                if out is not None and seed == seeds[-1]:  # before the result: after a kill the same call writes it again
                    model.model.save_pretrained(out)
                    model.tokenizer.save_pretrained(out)
                if path is not None:
                    replace(result, runs=tuple(known.values())).save(path)
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
    return replace(result, runs=tuple(known[seed] for seed in seeds))


def _resumed(path: str | Path, result: TargetResult) -> TargetResult:
    """Return what a file holds of the same fine-tuning."""
    held = TargetResult.load(path)
    ours = {**result.recipe, "rows": result.rows_digest, "dataset": result.fingerprint, "method": result.method}
    theirs = {**held.recipe, "rows": held.rows_digest, "dataset": held.fingerprint, "method": held.method}
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise InputError(
                f"{str(path)!r} holds the result of another fine-tuning: {name} is {theirs.get(name)!r} there and {value!r} "
                "now; give another path"
            )
    return held


def _test(model: Target, dataset: TextDataset, what: str) -> dict[str, Any]:
    if dataset.is_instructions:
        return {"accuracy": None, "macro_f1": None, "loss": response_losses(model, dataset.test, what).mean}
    scores, labels, unused = predict(model, dataset.test, what), dataset.test.labels, np.zeros(0)
    return {"accuracy": float(accuracy(scores, labels, unused)), "macro_f1": float(macro_f1(scores, labels, unused))}


def _rows(selection: Selection | Sequence[int] | Ints | None, dataset: TextDataset) -> tuple[Rows, str]:
    if selection is None:
        return dataset.train, "all rows"
    if isinstance(selection, Selection):
        if not selection.rows:
            raise InputError("the selection is empty")
        return selection.to_dataset(dataset).train, selection.method
    ids = np.asarray(selection)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"row ids must be a non-empty list of whole numbers, not {selection!r}")
    return dataset.train.take(dataset.train.places(ids)), "given rows"
