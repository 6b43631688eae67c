"""SelectionTask: everything an environment needs of a dataset, in one file without any text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.archives import Arrays
from dsenv.clustering import Clustering
from dsenv.dataset import Ints, TextDataset
from dsenv.encoders import Vectors
from dsenv.errors import InputError, TaskFileError, one_of
from dsenv.seeding import generator
from dsenv.task_file import CLUSTERINGS, REWARD, SELECTION, TEST, TRAIN, read_task_file, task_digest, write_task_file

REGULARISATION = 1e-3
REPORTED = {"accuracy": "brier_skill", "macro_f1": "balanced_brier_skill"}  # and the default metric of Φ
RESPONSE_SKILL = "response_skill"  # the same of instruction data
BUNDLED = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Split:
    """The rows of one split as a proxy sees them.

    Attributes:
        features: (n, d + 1) float32, the last column a constant 1.
        labels: (n,) class ids.
        sources: (n,) source ids, -1 where unknown.
        responses: (n, m) float32 reduced vectors of the responses, or None where rows have classes alone.
    """

    features: Vectors
    labels: Ints
    sources: Ints
    responses: Vectors | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SelectionTask:
    """Reduced vectors, labels, clusters and splits of one dataset, with what is known of where they come from.

    ``train`` is the pool; rewards read ``reward``; choosing among finished selections reads ``selection``; ``test`` is
    for the final result alone.

    Attributes:
        arrays: what the file holds, by name.
        metadata: JSON-able; names, sources, licences, encoder, seeds, versions, fingerprint, reference scores.
        variant: "" or the name of the variant whose arrays replace the stored ones.
        instance: 0 as stored; others redraw the row order inside clusters and the reward / selection cut.
    """

    arrays: Arrays = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    variant: str = ""
    instance: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all arrays and the metadata as stored in the file."""
        return task_digest(self.arrays, self.metadata)

    @property
    def name(self) -> str:
        """The dataset's name, and the variant's behind a colon."""
        return f"{self.metadata['name']}:{self.variant}" if self.variant else str(self.metadata["name"])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The metadata with the variant's own values in place."""
        return {**self.metadata, **self.metadata.get("variants", {}).get(self.variant, {})}

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.metadata["class_names"])

    @property
    def class_names(self) -> list[str]:
        """One name a class."""
        return list(self.metadata["class_names"])

    @property
    def source_names(self) -> list[str]:
        """One name a source id."""
        return list(self.metadata["source_names"])

    @property
    def regularisation(self) -> float:
        """The ridge proxy's λ."""
        return float(self.metadata["regularisation"])

    @property
    def reported(self) -> str:
        """The metric that results report first: accuracy or macro_f1."""
        return str(self.facts["reported"])

    @property
    def default_metric(self) -> str:
        """What Φ measures where nothing else is said."""
        return RESPONSE_SKILL if self.is_instructions else REPORTED[self.reported]

    @property
    def is_instructions(self) -> bool:
        """Whether rows are prompts with responses; their classes are groups of similar responses then."""
        return "responses" in self.arrays

    @property
    def train_rows(self) -> Ints:
        """(n,) where the training rows stand in the dataset's train split."""
        return self._array("train_rows").astype(np.int64)

    @property
    def row_ids(self) -> Ints:
        """(n,) the ids by which a selection names the training rows: in the table that the dataset was cut from, if any."""
        return self._array("row_ids").astype(np.int64) if "row_ids" in self.arrays else self.train_rows

    def dataset_rows(self, split: str) -> Ints:
        """Return the row numbers of ``reward``, ``selection`` or ``test`` in the dataset's validation or test split.

        Raises:
            InputError: for another name.
        """
        one_of("split", split, ("reward", "selection", "test"))
        if split == "test":
            return np.arange(len(self.test))
        halves = self._codes[(self._codes == REWARD) | (self._codes == SELECTION)]
        return np.flatnonzero(halves == (REWARD if split == "reward" else SELECTION))

    @cached_property
    def train(self) -> Split:
        """The pool."""
        return self._split(TRAIN)

    @cached_property
    def reward(self) -> Split:
        """The half of validation that rewards read."""
        return self._split(REWARD)

    @cached_property
    def selection(self) -> Split:
        """The half of validation that chooses among finished selections, agents and defaults."""
        return self._split(SELECTION)

    @cached_property
    def test(self) -> Split:
        """Read once, by the final result; nothing that selects may reach it."""
        return self._split(TEST)

    @cached_property
    def class_shares(self) -> npt.NDArray[np.float64]:
        """(C,) the training rows' class shares."""
        return np.bincount(self.train_labels, minlength=self.classes) / len(self.train_labels)

    @cached_property
    def train_labels(self) -> Ints:
        """(n,) class ids of the pool: those of ``train``, without its features."""
        return self._array("labels")[self._train_places].astype(np.int64)

    def train_features(self, rows: Ints) -> Vectors:
        """Return ``train.features[rows]``, bit for bit, at the memory of these rows alone.

        Args:
            rows: (m,) row numbers in the pool.

        Returns:
            (m, d + 1) float32, the last column a constant 1.
        """
        stored = self._array("vectors")[self._train_places[rows]]
        features = np.ones((len(stored), stored.shape[1] + 1), np.float32)
        np.multiply(stored, self._array("column_scale"), out=features[:, :-1])
        return features

    def train_responses(self, rows: Ints | slice = slice(None)) -> Vectors:
        """Return (m, r) float32 reduced vectors of the responses of training rows, by their numbers in the pool."""
        return self._responses(self._train_places[rows])

    def check_dataset(self, dataset: TextDataset) -> None:
        """Refuse a dataset that the task was not built from.

        Raises:
            InputError: for another dataset, or another derivation of it.
        """
        if dataset.fingerprint != self.facts["fingerprint"]:
            raise InputError(
                f"task {self.name!r} was not built from dataset {dataset.name!r} as it is here (its fingerprint is "
                f"{self.facts['fingerprint'][:16]}, the dataset's {dataset.fingerprint[:16]}): other rows, another label or "
                "response column, another split seed or another derivation"
            )

    def clustering(self, name: str) -> Clustering:
        """Return a stored clustering.

        Raises:
            InputError: for a name that this task does not hold.
        """
        kept = [known for known in CLUSTERINGS if known in self.facts["clusterings"]]
        one_of(f"clustering of task {self.name!r}", name, kept)
        if self.instance == 0:
            cluster, position = self._array(f"cluster_{name}"), self._array(f"position_{name}")
            return Clustering(cluster.astype(np.int64), position.astype(np.int64))
        stored = Clustering(self._array(f"cluster_{name}").astype(np.int64), np.empty(0, np.int64))
        return stored.reordered(generator(self.instance, "instance row order"))

    def at_instance(self, instance: int) -> SelectionTask:
        """Return the task with another row order inside clusters and another reward / selection cut.

        Raises:
            InputError: for a negative number, or a tabulated task with any but instance 0.
        """
        if isinstance(instance, bool) or not isinstance(instance, (int, np.integer)) or instance < 0:
            raise InputError(f"instance {instance!r} is not a whole number from 0")
        if instance and self.tables is not None:
            raise InputError(f"task {self.name!r} is tabulated and has instance 0 only, not {instance}")
        return self if instance == self.instance else _instance(self, int(instance))

    def at_variant(self, variant: str) -> SelectionTask:
        """Return a variant that the same file holds.

        Raises:
            InputError: for an unknown variant.
        """
        if not variant:
            return replace(self, variant="")
        one_of(f"variant of task {self.metadata['name']!r}", variant, self.metadata.get("variants", {}))
        return replace(self, variant=variant)

    def with_pool(self, numbers: Ints) -> SelectionTask:
        """Return the task with a part of its pool: the same clusters and row order, the same reward and selection rows.

        Args:
            numbers: row numbers of the pool to keep, in any order, none twice.

        Raises:
            InputError: for no rows, a number that the pool does not have, or one that comes twice.
        """
        kept = np.zeros(len(self._train_places), bool)
        known = (numbers >= 0) & (numbers < len(kept))
        if not len(numbers) or not known.all() or len(np.unique(numbers)) < len(numbers):
            raise InputError(f"a part of the pool needs different row numbers of 0 to {len(kept) - 1}, at least one")
        kept[numbers] = True
        stays = np.ones(len(self._codes), bool)
        stays[self._train_places] = kept
        by_row = ("vectors", "labels", "sources", "responses")
        arrays: Arrays = {name: self._array(name)[stays] for name in by_row if name in self.arrays}
        arrays |= {name: self._array(name) for name in ("column_scale", "response_scale") if name in self.arrays}
        arrays["split"] = self._codes[stays]
        arrays |= {name: self._array(name)[kept] for name in ("train_rows", "row_ids") if name in self.arrays}
        for name in self.facts["clusterings"]:
            add_clustering(arrays, name, self.clustering(name).part(kept))
        facts = {key: value for key, value in self.facts.items() if key not in ("variants", "reference")}
        return SelectionTask(arrays, {**facts, "rows": {**facts["rows"], "pool": len(numbers)}})

    @property
    def tables(self) -> npt.NDArray[np.float64] | None:
        """(metrics, selections) scores of every selection, where the task is tabulated; else None."""
        return self._array("tables") if self._key("tables") in self.arrays else None

    def with_variant(self, name: str, arrays: Arrays, facts: Mapping[str, Any]) -> SelectionTask:
        """Return the task with one more variant: arrays and facts that replace the stored ones."""
        if not name.isidentifier():
            raise InputError(f"a variant's name must be an identifier, not {name!r}")
        variants = {**self.metadata.get("variants", {}), name: dict(facts)}
        named = {f"{name}:{key}": value for key, value in arrays.items()}
        return SelectionTask({**self.arrays, **named}, {**self.metadata, "variants": variants})

    def with_reference(self, reference: Mapping[str, Any]) -> SelectionTask:
        """Return the task with frozen reference scores for the variant in force."""
        metadata = json.loads(json.dumps(self.metadata))
        target = metadata["variants"][self.variant] if self.variant else metadata
        target["reference"] = dict(reference)
        return replace(self, metadata=metadata)

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.

        Raises:
            InputError: where the name does not end in ``.npz``.
        """
        write_task_file(Path(path), self.arrays, self.metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, variant: str = "") -> SelectionTask:
        """Read a task file and check its digest.

        Raises:
            InputError: where there is no such file or variant.
            TaskFileError: where the file is truncated, altered, of another version, or holds what no task can be.
        """
        return cls(*read_task_file(Path(path))).at_variant(variant)

    def __deepcopy__(self, memo: dict[int, Any]) -> SelectionTask:
        """Return itself: a task never changes, and ``gym.make`` copies its keywords for every environment."""
        return self

    def _key(self, name: str) -> str:
        own = f"{self.variant}:{name}"
        return own if self.variant and own in self.arrays else name

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self.arrays[self._key(name)]

    @cached_property
    def _codes(self) -> npt.NDArray[np.int8]:
        """(rows,) the split of every stored row, for the instance in force."""
        codes: npt.NDArray[np.int8] = self._array("split")
        if self.instance:
            codes = codes.copy()
            rows = np.flatnonzero((codes == REWARD) | (codes == SELECTION))
            labels, sources = (self._array(name)[rows].astype(np.int64) for name in ("labels", "sources"))
            strata = labels * (sources.max() + 2) + sources
            codes[rows] = cut_validation(strata, generator(self.instance, "instance cut"))
        return codes

    @cached_property
    def _train_places(self) -> Ints:
        """(n,) where each training row stands among the stored rows."""
        return np.flatnonzero(self._codes == TRAIN)

    def _split(self, code: int) -> Split:
        rows = self._codes == code
        vectors = self._array("vectors")[rows] * self._array("column_scale")
        features = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1, dtype=np.float32)
        labels, sources = self._array("labels")[rows], self._array("sources")[rows]
        responses = self._responses(rows) if self.is_instructions else None
        return Split(features, labels.astype(np.int64), sources.astype(np.int64), responses)

    def _responses(self, places: npt.NDArray[Any]) -> Vectors:
        """The reduced vectors of the responses of stored rows, float32."""
        return np.asarray(self._array("responses")[places] * self._array("response_scale"), np.float32)


def small_ints(values: Ints) -> npt.NDArray[np.integer]:
    """Return ids in as few bytes as they need."""
    return values.astype(np.int16 if values.max() < 2**15 else np.int32)


def add_clustering(arrays: Arrays, name: str, clustering: Clustering) -> None:
    """Store a clustering under its name."""
    arrays[f"cluster_{name}"] = small_ints(clustering.cluster)
    arrays[f"position_{name}"] = clustering.position.astype(np.int32)


def bundled_tasks() -> dict[str, Path]:
    """Return the path of every bundled task file by task name.

    Raises:
        TaskFileError: where two files have the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(BUNDLED.glob("*-*.npz")):
        name = path.stem.rpartition("-")[0]
        if name in found:
            raise TaskFileError(f"two bundled files for task {name!r}: {found[name].name} and {path.name}")
        found[name] = path
    return found


@lru_cache(maxsize=4)
def _bundled(name: str) -> SelectionTask:
    path = bundled_tasks()[name]
    task = SelectionTask.load(path)
    if not task.digest.startswith(path.stem.rpartition("-")[2]):
        raise TaskFileError(f"{path.name} holds a task with the digest {task.digest}")
    return task


@lru_cache(maxsize=8)
def _instance(task: SelectionTask, instance: int) -> SelectionTask:
    return replace(task, instance=instance)


@lru_cache(maxsize=8)
def _variant(task: SelectionTask, variant: str) -> SelectionTask:
    return task.at_variant(variant)


def load_bundled(name: str) -> SelectionTask:
    """Load a bundled task, ``googleplay`` say, or one of its variants, ``googleplay:noisy``; loaded once a process.

    Raises:
        InputError: for an unknown name.
        TaskFileError: where the file is damaged.
    """
    base, _, variant = name.partition(":")
    one_of("task", base, bundled_tasks())
    return _variant(_bundled(base), variant) if variant else _bundled(base)


def cut_validation(strata: Ints, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """Cut validation into halves: deal shuffled rows, stratum after stratum, to reward and selection in turn."""
    order = rng.permutation(len(strata))
    dealt = order[np.argsort(strata[order], kind="stable")]
    codes = np.empty(len(strata), np.int8)
    codes[dealt[0::2]] = REWARD
    codes[dealt[1::2]] = SELECTION
    return codes
