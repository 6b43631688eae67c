"""Task files, and the problems in them: rows of every split, clusters, picks."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

TASKS = Path(__file__).parents[2] / "dsenv" / "tasks"
HELD_OUT = {"reward": 1, "selection": 2, "test": 3}  # and 0 for training rows, -1 for rows of no split


def chance(seed: int, purpose: str) -> np.random.Generator:
    """Return numpy's default generator for [seed, CRC-32 of the purpose's name]."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass(frozen=True, eq=False)
class TaskFile:
    """What a file holds.

    Attributes:
        arrays: by name, those of variants behind the variant's name and a colon.
        metadata: of the JSON text.
        digest: SHA-256 over name, type, shape and bytes of every array and of the metadata, as recounted.
        said: the digest that the file states.
        label: of the file, for messages.
    """

    arrays: dict[str, Array]
    metadata: dict[str, Any]
    digest: str
    said: str
    label: str


def digest_of(arrays: dict[str, Array]) -> str:
    """Return the SHA-256 of named arrays, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        shape = "(" + ", ".join(map(str, array.shape)) + ("," if array.ndim == 1 else "") + ")"
        found.update(f"{name}|{array.dtype.str}|{shape}|".encode() + array.tobytes())
    return found.hexdigest()


@lru_cache(maxsize=2)
def read_task(path: Path) -> TaskFile:
    """Read a task file, pickles refused."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    said = arrays.pop("digest").tobytes().hex()
    metadata = json.loads(arrays["metadata"].tobytes())
    return TaskFile({k: v for k, v in arrays.items() if k != "metadata"}, metadata, digest_of(arrays), said, path.name)


def bundled(name: str) -> Path:
    """Return the path of the bundled file of a task.

    Raises:
        KeyError: where there is none, or more than one.
    """
    found = [path for path in TASKS.glob(f"{name}-*.npz") if path.stem.rpartition("-")[0] == name]
    if len(found) != 1:
        raise KeyError(f"{len(found)} bundled files of task {name!r}")
    return found[0]


@lru_cache(maxsize=1)
def synthetic() -> TaskFile:
    """Draw the synthetic task anew: 48 clusters of four classes in 16 dimensions, 12,000 rows and 1,200 of each other split.

    Every third cluster is clean, has 60% wrong labels, or repeats six of its rows with little noise; which one, is drawn.
    """
    rng = chance(0, "synthetic vectors")
    number, rows, held_out = 48, 12_000, 1_200
    own_class = np.arange(number) % 4
    middles = rng.normal(0, 0.45, (4, 16))[own_class] + rng.normal(0, 0.55, (number, 16))
    kind = rng.permutation(np.arange(number) % 3)
    sizes = 20 + rng.multinomial(rows - 20 * number, rng.dirichlet(np.full(number, 2.0)))
    cluster = np.repeat(np.arange(number), sizes)
    pool = middles[cluster] + rng.normal(0, 1.0, (rows, 16))
    labels = own_class[cluster]
    for k in range(number):
        inside = np.flatnonzero(cluster == k)
        if kind[k] == 1:
            flipped = inside[rng.random(len(inside)) < 0.6]
            labels[flipped] = (labels[flipped] + rng.integers(1, 4, len(flipped))) % 4
        if kind[k] == 2:
            pool[inside] = pool[rng.choice(inside[:6], len(inside))] + rng.normal(0, 0.05, (len(inside), 16))
    others = [rng.integers(0, number, held_out) for _ in range(3)]
    every = np.concatenate([pool, *(middles[ids] + rng.normal(0, 1.0, (held_out, 16)) for ids in others)])
    every /= pool[:, 0].std()
    step = (np.abs(every[:rows]).max(0) / 127).astype(np.float32)
    position = _places(cluster, rng)
    arrays: dict[str, Array] = {
        "vectors": np.clip(np.rint(every / step), -127, 127).astype(np.int8),
        "column_scale": step,
        "labels": np.concatenate([labels, *(own_class[ids] for ids in others)]).astype(np.int16),
        "sources": np.full(len(every), -1, np.int16),
        "split": np.repeat(np.arange(4, dtype=np.int8), [rows, held_out, held_out, held_out]),
        "train_rows": np.arange(rows, dtype=np.int32),
    }
    for name in ("stratified", "kmeans"):
        arrays[f"cluster_{name}"] = cluster.astype(np.int16)
        arrays[f"position_{name}"] = position.astype(np.int32)
    metadata = {
        "class_names": [f"class {c}" for c in range(4)],
        "clusterings": ["stratified", "kmeans"],
        "clusters": number,
        "derivation": {},
        "encoder": "none",
        "fingerprint": "synthetic vectors, seed 0",
        "format": 1,
        "licences": "Apache-2.0",
        "name": "synthetic",
        "quality": ["clean", "wrong labels", "duplicates"],
        "quality_of_cluster": kind.tolist(),
        "regularisation": 1e-3,
        "reported": "accuracy",
        "rows": {"pool": rows, "test": held_out, "train": rows, "validation": 2 * held_out},
        "seed": 0,
        "source_names": [],
        "sources": [],
        "title": "synthetic vectors with known clusters: clean, wrongly labelled, duplicated",
    }
    text = np.frombuffer(json.dumps(metadata, ensure_ascii=False).encode(), np.uint8)
    found = digest_of({**arrays, "metadata": text})
    return TaskFile(arrays, metadata, found, found, "synthetic")


@dataclass(frozen=True)
class Rows:
    """Rows of a split.

    Attributes:
        features: (n, d + 1), dequantised, and a constant 1.
        labels: (n,) class ids.
        responses: (n, m) of instruction data, dequantised.
    """

    features: Doubles
    labels: Ints
    responses: Doubles | None = None


class Problem:
    """A task at a variant and an instance.

    Args:
        file: of the task.
        variant: whose arrays and facts come before the plain ones; "" for none.
        instance: 0 as stored; others have another row order inside clusters, and another cut of reward and selection rows.
    """

    def __init__(self, file: TaskFile, variant: str = "", instance: int = 0) -> None:
        self.file, self.variant, self.instance = file, variant, instance
        if variant and variant not in file.metadata.get("variants", {}):
            raise KeyError(f"{file.label} has no variant {variant!r}")
        self.facts = {**file.metadata, **(file.metadata["variants"][variant] if variant else {})}
        self.classes = len(file.metadata["class_names"])
        self.regularisation = float(file.metadata["regularisation"])
        self.splits = self._cut()
        self.train = self.rows_of(0)
        self.shares: Doubles = np.bincount(self.train.labels, minlength=self.classes) / len(self.train.labels)

    @property
    def default_metric(self) -> str:
        """What Φ measures unless something else was asked for."""
        if "responses" in self.file.arrays:
            return "response_skill"
        return {"accuracy": "brier_skill", "macro_f1": "balanced_brier_skill"}[self.facts["reported"]]

    @property
    def row_ids(self) -> Ints:
        """The names of the training rows in selections."""
        return self.array("row_ids" if "row_ids" in self.file.arrays else "train_rows").astype(np.int64)

    @cached_property
    def reward(self) -> Rows:
        """What Φ is measured on."""
        return self.rows_of(HELD_OUT["reward"])

    @cached_property
    def selection(self) -> Rows:
        """What chooses among finished selections."""
        return self.rows_of(HELD_OUT["selection"])

    @cached_property
    def test(self) -> Rows:
        """What results are read on."""
        return self.rows_of(HELD_OUT["test"])

    def array(self, name: str) -> Array:
        """Return the variant's array, or the plain one."""
        own = f"{self.variant}:{name}"
        return self.file.arrays[own if own in self.file.arrays else name]

    def rows_of(self, split: int) -> Rows:
        """Return the rows of a split by its number."""
        inside = np.flatnonzero(self.splits == split)
        scaled = self.array("vectors")[inside].astype(np.float32) * self.array("column_scale")
        responses = None
        if "responses" in self.file.arrays:
            responses = (self.array("responses")[inside].astype(np.float32) * self.array("response_scale")).astype(np.float64)
        labels = self.array("labels")[inside].astype(np.int64)
        return Rows(np.column_stack([scaled.astype(np.float64), np.ones(len(inside))]), labels, responses)

    def clusters(self, name: str) -> tuple[Ints, Ints]:
        """Return each training row's cluster, and its place in the cluster's order."""
        if name not in self.facts["clusterings"]:
            raise KeyError(f"{self.file.label} has no clustering {name!r}")
        cluster = self.array(f"cluster_{name}").astype(np.int64)
        if not self.instance:
            return cluster, self.array(f"position_{name}").astype(np.int64)
        return cluster, _places(cluster, chance(self.instance, "instance row order"))

    def _cut(self) -> Array:
        """Another instance deals the shuffled validation rows, one class and source after another, out in turn."""
        splits = self.array("split").copy()
        if self.instance:
            validation = np.flatnonzero((splits == 1) | (splits == 2))
            kinds = list(zip(*(self.array(name)[validation].tolist() for name in ("labels", "sources")), strict=True))
            shuffled = chance(self.instance, "instance cut").permutation(len(validation)).tolist()
            for place, row in enumerate(sorted(shuffled, key=kinds.__getitem__)):
                splits[validation[row]] = 1 + place % 2
        return splits


def _places(cluster: Ints, rng: np.random.Generator) -> Ints:
    """Return each row's place among its cluster's, in the order in which all rows are shuffled."""
    found = np.empty(len(cluster), np.int64)
    seen = [0] * (int(cluster.max()) + 1)
    members = cluster.tolist()
    for row in rng.permutation(len(cluster)).tolist():
        found[row] = seen[members[row]]
        seen[members[row]] += 1
    return found


class Picks:
    """What picks of clusters add.

    Args:
        problem: the task.
        clustering: stratified or kmeans.
        unit: ``rows``: a pick adds r rows, ``cluster``: a whole cluster.
        budget: share of the rows, or of the clusters.
        picks: how many; by default 64, or as many as the budget has rows, or from 32 as many as spend the budget best where 64
            leave more than a fifth of it.

    Attributes:
        most: rows (or clusters) that the budget pays.
    """

    def __init__(
        self,
        problem: Problem,
        clustering: str = "stratified",
        unit: str = "rows",
        budget: float = 0.05,
        picks: int | None = None,
    ) -> None:
        cluster, position = problem.clusters(clustering)
        self.members = [np.empty(0, np.int64)] * (int(cluster.max()) + 1)
        for k in range(len(self.members)):
            inside = np.flatnonzero(cluster == k)
            self.members[k] = inside[np.argsort(position[inside])]
        self.unit, sizes = unit, [len(inside) for inside in self.members]
        if unit == "cluster":
            self.most = len(sizes)
            self.picks = max(1, math.floor(budget * len(sizes) + 1e-9)) if picks is None else picks
            self.rows_per_pick = max(sizes)
        else:
            self.most = math.floor(budget * len(cluster) + 1e-9)
            self.picks = default_picks(self.most) if picks is None else picks
            self.rows_per_pick = self.most // self.picks
        self.capacity = [-(-size // self.rows_per_pick) for size in sizes]

    def walk(self, actions: list[int]) -> tuple[list[int], list[int]]:
        """Pick one after the other; return the picks of each cluster that added rows, and the rows.

        Raises:
            ValueError: for a cluster that there is not.
        """
        counts, rows = [0] * len(self.members), []
        for action in actions:
            if not 0 <= action < len(self.members):
                raise ValueError(f"{action} is no cluster: there are {len(self.members)}")
            start = counts[action] * self.rows_per_pick
            added = self.members[action][start : start + self.rows_per_pick].tolist()
            counts[action] += bool(added)
            rows += added
        return counts, rows

    def proportional(self) -> list[int]:
        """Return as many picks of each cluster as its share of the rows asks for; what is left to the largest remainders.

        What exhausted clusters cannot take is shared out again among the others.
        """
        counts = np.zeros(len(self.members), np.int64)
        sizes, capacity = np.array([len(inside) for inside in self.members], float), np.array(self.capacity)
        while (left := self.picks - int(counts.sum())) > 0 and (counts < capacity).any():
            open_sizes = np.where(counts < capacity, sizes, 0)
            counts = np.minimum(counts + share_out(open_sizes, left), capacity)
        return [int(count) for count in counts]


def default_picks(rows: int) -> int:
    """Return how many picks a budget of so many rows has where nobody says it."""
    usual = min(64, rows)
    if rows % usual * 5 <= rows:
        return usual
    return max((rows // fewer * fewer, fewer) for fewer in range(32, 65))[1]


def share_out(weights: Doubles, total: int) -> Ints:
    """Return whole parts of ``total`` by weights, what is left to the largest remainders, the first of equals."""
    exact = weights * total / weights.sum()
    parts: Ints = np.floor(exact).astype(np.int64)
    order = sorted(range(len(parts)), key=lambda place: (-(exact[place] - parts[place]), place))
    for place in order[: total - int(parts.sum())]:
        parts[place] += 1
    return parts
