"""Selection: the chosen rows, and where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.dataset import Ints, TextDataset
from dsenv.errors import InputError
from dsenv.files import atomic_write
from dsenv.picks import PickPlan
from dsenv.reading import Whole, read_json
from dsenv.task import SelectionTask


def row_ids_digest(rows: Sequence[int] | Ints) -> str:
    """Return 16 hexadecimal digits of row ids, in their order."""
    return hashlib.sha256(np.asarray(rows, "<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Selection:
    """Row ids of a dataset's training rows, with their provenance.

    Attributes:
        rows: row numbers of the table that the dataset was read from (of its train split, where it has splits), as picked.
        method: what chose them.
        task: name of the task.
        task_digest: digest of the task.
        fingerprint: of the dataset the ids belong to; another dataset is refused.
        derivation: how that dataset was derived (label noise, target source).
        pool: number of rows that could be chosen from.
        seed: of the method.
        instance: of the task.
        counts: picks of each cluster, where there were any.
        score: Φ on the reward rows, where it was computed.
        evaluations: proxy evaluations spent.
        seconds: spent by the method.
        history: of a search: after how many evaluations its best score rose, and to what.
    """

    rows: tuple[Whole, ...]
    method: str
    task: str
    task_digest: str
    fingerprint: str
    derivation: dict[str, Any] = field(default_factory=dict)
    pool: Whole = 0
    seed: Whole = 0
    instance: Whole = 0
    counts: tuple[Whole, ...] | None = None
    score: float | None = None
    evaluations: Whole = 0
    seconds: float = 0.0
    history: tuple[tuple[Whole, float], ...] = ()

    @property
    def digest(self) -> str:
        """Of the row ids, in their order."""
        return row_ids_digest(self.rows)

    @classmethod
    def from_rows(cls, task: SelectionTask, numbers: Ints, method: str, **provenance: Any) -> Selection:
        """Make a selection of a task's training row numbers (0..n-1 of the pool)."""
        return cls(
            rows=tuple(task.row_ids[numbers].tolist()),
            method=method,
            task=task.name,
            task_digest=task.digest,
            fingerprint=task.facts["fingerprint"],
            derivation=task.facts["derivation"],
            pool=len(task.train),
            instance=task.instance,
            **provenance,
        )

    @classmethod
    def from_counts(cls, task: SelectionTask, plan: PickPlan, counts: Ints, method: str, **provenance: Any) -> Selection:
        """Make a selection of picks of each cluster (K,)."""
        numbers = plan.rows(counts)
        return cls.from_rows(task, numbers, method, counts=tuple(np.asarray(counts).tolist()), **provenance)

    def to_dataset(self, dataset: TextDataset) -> TextDataset:
        """Return the dataset with only the chosen rows in its train split.

        Raises:
            InputError: where ``dataset`` is not the one that the selection was made from, or lacks a row.
        """
        if dataset.fingerprint != self.fingerprint:
            how = f"; apply the derivation {self.derivation} to it first" if self.derivation != dataset.derivation else ""
            raise InputError(
                f"the selection was made from task {self.task!r}, dataset fingerprint {self.fingerprint[:16]}; dataset "
                f"{dataset.name!r} has {dataset.fingerprint[:16]}{how}: other rows, another label or response column, or "
                "another split seed make another dataset"
            )
        return replace(dataset, train=dataset.train.take(dataset.train.places(self.rows)))

    def save(self, path: str | Path) -> Path:
        """Write the selection as JSON, atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a selection.

        Raises:
            InputError: where the file is missing or no selection.
        """
        found = read_json(path, cls, "selection")
        if not found.rows or len(set(found.rows)) < len(found.rows):
            wrong = "a row twice" if found.rows else "no rows"
            raise InputError(f"{str(path)!r} is not a readable selection: it holds {wrong}")
        return found
