"""Questions with checkable answers, in clusters and in four disjoint parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.clustering import cluster_kmeans
from dsenv.dataset import Ints
from dsenv.errors import InputError
from dsenv.rlvr.checkers import Checker, find_checker
from dsenv.seeding import generator

log = logging.getLogger(__name__)

PARTS = ("train", "reference", "reward", "test")


@dataclass(frozen=True)
class Questions:
    """Some questions.

    Attributes:
        prompts: n strings, as the policy reads them.
        answers: n strings, as the checker reads them.
        cluster: (n,) cluster ids.
    """

    prompts: list[str]
    answers: list[str]
    cluster: Ints

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, ids: Iterable[int] | Ints) -> Questions:
        """Return the questions with these ids, in the order given."""
        chosen = [int(i) for i in ids]
        return Questions([self.prompts[i] for i in chosen], [self.answers[i] for i in chosen], self.cluster[chosen])


@dataclass(frozen=True)
class QuestionSet:
    """Questions in four disjoint parts that share clusters and a checker.

    Attributes:
        name: a short name.
        train: the pool that questions are chosen from.
        reference: rolled out by controllers that measure how hard questions are now.
        reward: answered after every round; the environment's reward is how their pass rate changes.
        test: read by the final result alone.
        clusters: K names, by cluster id.
        checker: a name of ``dsenv.rlvr.checkers``.
        meta: how the questions were made; JSON-able.
    """

    name: str
    train: Questions
    reference: Questions
    reward: Questions
    test: Questions
    clusters: tuple[str, ...]
    checker: str
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for part, questions in self.parts.items():
            if not len(questions):
                raise InputError(f"questions {self.name!r}: the part {part!r} is empty")
            for prompt in questions.prompts:
                if owner.setdefault(prompt, part) != part:
                    raise InputError(f"questions {self.name!r}: {prompt!r} is in {owner[prompt]!r} and in {part!r}")

    @property
    def parts(self) -> dict[str, Questions]:
        """The four parts by name."""
        return {"train": self.train, "reference": self.reference, "reward": self.reward, "test": self.test}

    @property
    def kinds(self) -> tuple[list[str], Ints]:
        """Names of the kinds of questions, and the kind of each cluster (K,).

        A cluster named ``<kind> <level>`` is a level of a kind; clusters of other names are levels of one kind without a name.
        """
        named = [name.rpartition(" ") for name in self.clusters]
        kinds = [kind if level.isdigit() else "" for kind, _, level in named]
        names = list(dict.fromkeys(kinds))
        return names, np.array([names.index(kind) for kind in kinds])

    def orders(self, seed: int) -> list[Ints]:
        """Return the ids of each cluster's training questions, in random orders of a seed."""
        members = [np.flatnonzero(self.train.cluster == k) for k in range(len(self.clusters))]
        return [generator(seed, f"order of cluster {k}").permutation(ids) for k, ids in enumerate(members)]

    @property
    def check(self) -> Checker:
        """The checker: (completion, answer) -> bool."""
        return find_checker(self.checker)

    @property
    def digest(self) -> str:
        """SHA-256 over every question: what a snapshot is bound to."""
        sha = hashlib.sha256(f"{self.checker};{self.clusters}".encode())
        for part, questions in self.parts.items():
            sha.update(f"{part}:{len(questions)};".encode())
            for text in (*questions.prompts, *questions.answers):
                data = text.encode("utf-8", "surrogatepass")
                sha.update(len(data).to_bytes(4, "little") + data)
            sha.update(questions.cluster.astype("<i8").tobytes())
        return sha.hexdigest()

    def kept(self, wanted: Callable[[str], bool]) -> QuestionSet:
        """Return the questions whose prompts are wanted, in the same clusters; how many are left out is logged.

        Raises:
            InputError: where a part loses all its questions.
        """
        train, reference, reward, test = (
            questions.take(np.flatnonzero([wanted(prompt) for prompt in questions.prompts]))
            for questions in self.parts.values()
        )
        found = QuestionSet(self.name, train, reference, reward, test, self.clusters, self.checker, dict(self.meta))
        found.meta["kept"] = {part: f"{len(found.parts[part])} of {len(all)}" for part, all in self.parts.items()}
        log.info("questions %s: kept %s", self.name, found.meta["kept"])
        return found

    def clustered(self, vectors: Mapping[str, npt.NDArray[Any]], clusters: int = 32, seed: int = 0) -> QuestionSet:
        """Return the same questions in K-Means clusters of vectors, fitted on the training part.

        Questions of the other parts join the cluster of the nearest centroid.

        Args:
            vectors: (n, d) of each part, by its name.
            clusters: K at most.
            seed: of K-Means.

        Raises:
            InputError: for vectors of another shape, or K below 1 or above the number of training questions.
            MissingExtraError: without the extra ``build``.
        """
        shapes = {part: np.shape(vectors.get(part, ())) for part in PARTS}
        if any(shapes[part] != (len(self.parts[part]), *shapes["train"][1:]) for part in PARTS) or len(shapes["train"]) != 2:
            sizes = {part: len(questions) for part, questions in self.parts.items()}
            raise InputError(f"vectors of shapes {shapes}: allowed are (n, d) for each part, n {sizes}")
        found = cluster_kmeans(vectors["train"], clusters, seed)
        centroids = np.stack([vectors["train"][found.cluster == k].mean(0) for k in range(found.clusters)])
        nearest = {part: ((centroids**2).sum(1) - 2 * vectors[part] @ centroids.T).argmin(1) for part in PARTS}
        train, reference, reward, test = (
            replace(questions, cluster=found.cluster if part == "train" else nearest[part].astype(np.int64))
            for part, questions in self.parts.items()
        )
        names = tuple(f"embedding {k}" for k in range(found.clusters))
        return QuestionSet(self.name, train, reference, reward, test, names, self.checker, {**self.meta, "cluster_seed": seed})
