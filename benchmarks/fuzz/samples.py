"""Genuine files of every kind, small and invented: what mutation starts from."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from dsenv.building import build_task
from dsenv.checkpoints import save_checkpoint
from dsenv.dataset import TextDataset
from dsenv.env import DataSelectEnv
from dsenv.errors import require
from dsenv.evaluation import Failure, Result
from dsenv.finetuning import TargetResult, TargetRun
from dsenv.proxies.entries import Description, Entry, Key, pack_counts
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.surrogate import SurrogateProxy
from dsenv.selection import Selection
from dsenv.synthetic import synthetic_texts
from dsenv.tables import write_table
from dsenv.task import SelectionTask
from dsenv.training import Fit

Columns = dict[str, list[object]]


@lru_cache(maxsize=1)
def texts() -> Columns:
    """Ninety invented reviews with labels."""
    found = synthetic_texts(90, 30, seed=0)
    rows = found.train
    return {"text": list(rows.texts), "label": [found.class_names[label] for label in rows.labels]}


@lru_cache(maxsize=1)
def task() -> SelectionTask:
    """A task of these reviews, with a variant."""
    with tempfile.TemporaryDirectory() as folder:
        made = build_task(
            TextDataset.from_columns({"train": texts()}), encoder="tfidf", clusters=6, dimensions=8, cache_dir=folder
        )
    labels = np.roll(made.arrays["labels"], 1)
    return made.with_variant("rolled", {"labels": labels}, {"derivation": {"rolled": 1}})


@lru_cache(maxsize=1)
def environment() -> DataSelectEnv:
    """An environment of the task."""
    return DataSelectEnv(task(), budget=0.2, picks=6)


def selection() -> Selection:
    """A selection with everything in it."""
    env = environment()
    counts = env.plan.complete(np.zeros(env.plan.clusters, np.int64))
    return Selection.from_counts(task(), env.plan, counts, "swap", seed=1, score=0.5, history=((1, 0.1), (9, 0.5)))


def result() -> Result:
    """A result of the environment that is always there."""
    scores = {split: {"accuracy": 0.5, "macro_f1": 0.5, "brier_skill": 0.1} for split in ("reward", "selection", "test")}
    return Result(
        "DataSelect-Synthetic-v0", {"instance": 1}, "0" * 64, "swap", 1, (1, 2), (0, 1, 1), 8, 0.5, scores, (0.5, 0.5), 9, 9,
        "brier_skill", "accuracy", 0.1, None, {"python": "3"}, "dsenv evaluate",
    )  # fmt: skip


def failure() -> Failure:
    """A run that ended with an error."""
    return Failure("DataSelect-Synthetic-v0", {}, "broken", 2, 64, "ValueError: no")


def target_result() -> TargetResult:
    """What a target made of chosen rows."""
    runs = (TargetRun(0, 0.5, 0.4, Fit(1.0, 2, 3, 4, 0.5), 0.1), TargetRun(1, None, None, Fit(1.0, 2, 3, 4, 0.5), 0.1, 2.5))
    return TargetResult("swap", 4, (0.5, 0.5), {"target": "minilm", "epochs": 1}, runs, "ab", "cd", "ef")


def entries() -> list[Entry]:
    """Scores with keys of every form."""
    keys = [
        Key("ab" * 32, "cd" * 32, sample, pack_counts(np.array(counts)))
        for sample in ("", "0.5/7")
        for counts in ([0, 1, 2], [300, 0, 1])
    ]
    return [Entry(key, 0.25 * number, 0.01) for number, key in enumerate(keys)]


def store(path: Path) -> Path:
    """A store of these scores, in one file without a log."""
    with ScoreStore(path) as made:
        made.describe(Description("ab" * 32, "cd" * 32, {"task": "own", "metric": "accuracy", "recipe": {"proxy": "ridge"}}))
        made.put(entries())
    return path


def table(path: Path) -> Path:
    """The reviews as what the path's name says."""
    return write_table(texts(), path)


@lru_cache(maxsize=1)
def weights() -> tuple[list[object], object]:
    """Two weights and their optimiser, after a step."""
    torch = require("torch", "finetune")
    found = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.AdamW(found, lr=0.1)
    sum(weight.sum() for weight in found).backward()
    optimizer.step()
    return found, optimizer


def checkpoint(path: Path) -> Path:
    """A training between two epochs."""
    found, optimizer = weights()
    save_checkpoint(path, found, optimizer, "cpu", {"run": "mine", "steps": 1, "tokens": 9, "losses": [0.5], "seconds": 0.1})
    return path


def surrogate(path: Path) -> Path:
    """A surrogate of the task's ridge proxy."""
    return SurrogateProxy.fit(environment().proxy, model="set_transformer", evaluations=32, epochs=1).save(path)


def summary() -> dict[str, list[dict[str, object]]]:
    """A leaderboard of one agent."""
    head: dict[str, object] = {"agent": "swap", "evaluations": 64}
    value = {"value": 0.1, "low": 0.0, "high": 0.2, "seeds": 2}
    row = {
        "id": "DataSelect-Synthetic-v0", **head, "iqm": 0.5, "low": 0.4, "high": 0.6, "selection": 0.5, "test": 0.5,
        "regret": None, "seconds": 1.0, "score": 0.5, "seeds": 2, "failed": 1, "error": "no",
    }  # fmt: skip
    against = {**head, **value, "against": "greedy", "split": "test"}
    return {"summary": [row], "difference": [against], "improvement": [{**head, **value}], "variants": [against]}


def constants() -> dict[str, object]:
    """What normalised scores are measured by."""
    ends = {"reward": 0.0, "test": 0.1}
    return {"problems": {"DataSelect-Synthetic-v0": {"headroom": True, "instances": {"0": {"zero": ends, "one": ends}}}}}


def as_json(value: object) -> object:
    """A dataclass as JSON has it."""
    return asdict(value)  # type: ignore[call-overload]
