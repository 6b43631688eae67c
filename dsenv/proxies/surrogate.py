"""A learned reward model: a small network that predicts another proxy's Φ from the rows taken of each cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole, one_of, require
from dsenv.files import atomic_write
from dsenv.metrics import METRICS, NEG_RESPONSE_LOSS, Doubles
from dsenv.picks import PickPlan, draw_counts
from dsenv.proxies import Memory, Proxy, RowSample, empty_score, recipe_digest, rows_digest
from dsenv.proxies.reward_models import MODELS, Weights, first_weights, predict_scores, train_model
from dsenv.reading import check_file, convert, parse_json
from dsenv.seeding import generator
from dsenv.task import RESPONSE_SKILL, SelectionTask

FORMAT = 1
FEWEST = 10


@dataclass(frozen=True)
class Facts:
    """What is known of a trained surrogate, JSON-able.

    Attributes:
        model: ``mlp`` or ``set_transformer``.
        metric: of the proxy it predicts.
        predicts: recipe digest of that proxy.
        task: digest of the task.
        variant: of the task.
        instance: of the task.
        plan: digest of the rows behind every pick.
        hold_out: share of the selections that it never trains on.
        seed: of the selections, the hold-out, the first weights and the order of training.
        epochs: passes over the selections.
        hold_out_r2: 1 - squared error / variance, on the selections held out.
        hold_out_spearman: rank correlation with the proxy's scores on them.
    """

    model: str
    metric: str
    predicts: str
    task: str
    variant: str
    instance: int
    plan: str
    hold_out: float
    seed: int
    epochs: int
    hold_out_r2: float = 0.0
    hold_out_spearman: float = 0.0


@dataclass(frozen=True, eq=False)
class Scored:
    """Selections with the scores that a surrogate learns from.

    Attributes:
        counts: (N, K), all different, none empty.
        scores: (N,) Φ of the proxy.
        held_out: (N,) True where never trained on.
    """

    counts: Ints = field(repr=False)
    scores: Doubles = field(repr=False)
    held_out: npt.NDArray[np.bool_] = field(repr=False)


class SurrogateProxy:
    """Φ as a network has learned it from scored selections: microseconds a score, whatever the proxy costs.

    ``mlp``: three hidden layers on, for every cluster, the logarithm of the rows taken and their share of the selection,
    and on the logarithm of all rows taken. ``set_transformer`` (arXiv 1810.00825): a token for each cluster, its static
    features (``dsenv.features``) and the same numbers; two self-attention blocks; the mean over clusters and the mean over
    selected rows are read out. The order of clusters changes nothing.

    Made by ``fit``, ``refresh`` or ``load``. What a search finds under a surrogate is scored again with the proxy: a search
    looks for the selections that it overrates.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: of the proxy that it predicts.
        facts: what is known of it.
        weights: of the network, by name.
        scored: what it has learned from.

    Raises:
        InputError: without weights.
    """

    def __init__(
        self,
        task: SelectionTask,
        plan: PickPlan,
        metric: str,
        facts: Facts | None = None,
        weights: Weights | None = None,
        scored: Scored | None = None,
    ) -> None:
        if facts is None or weights is None or scored is None:
            raise InputError(
                "a surrogate is trained before it serves: use SurrogateProxy.fit(proxy) or SurrogateProxy.load(path)"
            )
        self.task, self.plan, self.metric = task, plan, metric
        self.facts, self.scored = facts, scored
        self._weights = weights
        self._empty = empty_score(task, metric)

    @property
    def recipe(self) -> dict[str, Any]:
        """The network by the SHA-256 of its weights, and the recipe digest of the proxy that it predicts."""
        return {
            "proxy": "surrogate",
            "model": self.facts.model,
            "predicts": self.facts.predicts,
            "weights": _digest(self._weights),
        }

    @property
    def hold_out_r2(self) -> float:
        """1 - squared error / variance, on selections never trained on."""
        return self.facts.hold_out_r2

    @property
    def hold_out_spearman(self) -> float:
        """Rank correlation with the proxy's scores, on selections never trained on."""
        return self.facts.hold_out_spearman

    def score(
        self,
        counts: npt.NDArray[np.integer],
        *,
        memory: Memory | None = None,
        samples: Sequence[RowSample] | None = None,
    ) -> Doubles:
        """Return the predicted Φ of a batch of selections; counts (B, K) -> (B,). The empty selection's is exact.

        Raises:
            InputError: for impossible counts, or samples: it has learned scores on all reward rows.
        """
        if samples:
            raise InputError("a surrogate knows scores on all reward rows only: reward_rows must be None")
        batch = self.plan.check_batch(counts)
        found = predict_scores(self.facts.model, self._weights, self.plan, batch)
        return np.where(batch.any(1), found, self._empty)

    @classmethod
    def fit(
        cls,
        proxy: Proxy,
        counts: npt.NDArray[np.integer] | None = None,
        *,
        scores: Doubles | None = None,
        model: str = "mlp",
        evaluations: int = 1024,
        hold_out: float = 0.2,
        seed: int = 0,
        epochs: int | None = None,
    ) -> SurrogateProxy:
        """Train a surrogate of a proxy on scored selections.

        Args:
            proxy: what it learns to predict.
            counts: (N, K) selections to learn from; default: ``evaluations`` of ``mixed_counts``.
            scores: (N,) their Φ; default: the proxy is asked.
            model: ``mlp`` or ``set_transformer``.
            evaluations: selections to draw and score.
            hold_out: share of the selections never trained on.
            seed: of everything drawn.
            epochs: passes over the selections; default: 100 for ``mlp``, 40 for ``set_transformer``.

        Raises:
            InputError: for values outside what is allowed, fewer than ten different selections, scores that are not finite
                or all the same.
            MissingExtraError: without the extra ``finetune``.
        """
        one_of("model", model, MODELS)
        epochs = MODELS[model].epochs if epochs is None else epochs
        for what, value, least in (("evaluations", evaluations, FEWEST), ("seed", seed, 0), ("epochs", epochs, 1)):
            check_whole(what, value, least)
        if isinstance(hold_out, bool) or not 0 < hold_out < 1:
            raise InputError(f"hold_out {hold_out!r}: allowed are shares above 0 and below 1")
        if counts is None:
            if scores is not None:
                raise InputError("scores are given without counts: which selections are they of?")
            counts = mixed_counts(proxy.plan, evaluations, seed)
        batch = proxy.plan.check_batch(counts)
        facts = Facts(
            model,
            proxy.metric,
            recipe_digest(proxy),
            proxy.task.digest,
            proxy.task.variant,
            int(proxy.task.instance),
            rows_digest(proxy.task, proxy.plan),
            float(hold_out),
            int(seed),
            int(epochs),
        )
        none = Scored(np.zeros((0, proxy.plan.clusters), np.int64), np.zeros(0), np.zeros(0, np.bool_))
        scored = _add(none, batch, proxy.score(batch) if scores is None else scores, facts)
        return cls._trained(proxy.task, proxy.plan, facts, scored)

    def refresh(self, counts: npt.NDArray[np.integer], scores: Doubles) -> SurrogateProxy:
        """Return a surrogate trained anew on what this one has learned from and more selections.

        Selections held out stay held out, and the same share of the new ones joins them.

        Args:
            counts: (N, K) more selections; those known already are left out.
            scores: (N,) their Φ by the proxy.

        Raises:
            InputError: for impossible counts, or scores that are not finite.
        """
        scored = _add(self.scored, self.plan.check_batch(counts), scores, self.facts)
        return self._trained(self.task, self.plan, self.facts, scored)

    def save(self, path: str | Path) -> Path:
        """Write weights, facts and scored selections as one safetensors file, atomically.

        Raises:
            InputError: where the name does not end in ``.safetensors``.
            MissingExtraError: without the extra ``finetune``.
        """
        library = require("safetensors.numpy", "finetune")
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"a surrogate's file name ends in .safetensors, not {path.name!r}")
        arrays: dict[str, npt.NDArray[Any]] = {f"weights.{name}": array for name, array in self._weights.items()}
        arrays |= {f"scored.{name}": array for name, array in vars(self.scored).items()}
        facts = json.dumps({"format": FORMAT, **asdict(self.facts)}, sort_keys=True)
        metadata = {"surrogate": facts, "sha256": _digest(arrays, facts)}
        with atomic_write(path) as temporary:
            temporary.write_bytes(library.save(arrays, metadata=metadata))
        return path

    @classmethod
    def load(cls, path: str | Path, task: SelectionTask, plan: PickPlan) -> SurrogateProxy:
        """Read a surrogate.

        Args:
            path: of the file.
            task: whose selections it has learned to score, at the same variant and instance.
            plan: of these selections.

        Raises:
            InputError: where the file is missing, damaged or altered, or belongs to another task, instance or plan.
            MissingExtraError: without the extra ``finetune``.
        """
        library = require("safetensors", "finetune")
        check_file(path, "surrogate")
        try:
            with library.safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dict
            found = parse_json(metadata["surrogate"], dict[str, Any], "its facts")
            if found.pop("format") != FORMAT:
                raise ValueError(f"another format version than {FORMAT}")
            if _digest(arrays, metadata["surrogate"]) != metadata["sha256"]:
                raise ValueError("it was altered: its digest is another than it says")
            facts = convert(found, Facts)
            one_of("model", facts.model, MODELS)
            one_of("metric", facts.metric, (*METRICS, RESPONSE_SKILL, NEG_RESPONSE_LOSS))
            named = {part: {n.partition(".")[2]: a for n, a in arrays.items() if n.startswith(part)} for part in ("w", "s")}
            scored = Scored(**named["s"])
        except (OSError, ValueError, KeyError, TypeError, library.SafetensorError) as error:
            raise InputError(f"{str(path)!r} is not a readable surrogate: {error}") from error
        given = {
            "task": (facts.task, task.digest),
            "variant": (facts.variant, task.variant),
            "instance": (facts.instance, task.instance),
            "plan": (facts.plan, rows_digest(task, plan)),
        }
        for what, (trained, asked) in given.items():
            if trained != asked:
                raise InputError(
                    f"the surrogate {str(path)!r} was trained for another {what}: {str(trained)[:16]!r}; asked of it is "
                    f"{str(asked)[:16]!r} of task {task.name!r}"
                )
        try:
            _check_scored(scored, plan)
            expected = first_weights(facts.model, task, plan, scored.counts, scored.scores, 0)
            forms, wanted = ({n: (a.dtype, a.shape) for n, a in held.items()} for held in (named["w"], expected))
            if forms != wanted or not all(np.isfinite(array).all() for array in named["w"].values()):
                raise ValueError("its weights do not fit its model, or are not finite")
        except ValueError as error:
            raise InputError(f"{str(path)!r} is not a readable surrogate: {error}") from error
        return cls(task, plan, facts.metric, facts, named["w"], scored)

    @classmethod
    def _trained(cls, task: SelectionTask, plan: PickPlan, facts: Facts, scored: Scored) -> SurrogateProxy:
        weights = train_model(
            facts.model,
            task,
            plan,
            scored.counts[~scored.held_out],
            scored.scores[~scored.held_out],
            seed=facts.seed,
            epochs=facts.epochs,
        )
        truth = scored.scores[scored.held_out]
        found = predict_scores(facts.model, weights, plan, scored.counts[scored.held_out])
        variance = ((truth - truth.mean()) ** 2).sum()
        r2 = 1 - ((truth - found) ** 2).sum() / variance if variance else 0.0
        ranked = spearmanr(truth, found).statistic if variance and np.ptp(found) else 0.0
        known = {**asdict(facts), "hold_out_r2": float(r2), "hold_out_spearman": float(ranked)}
        return cls(task, plan, facts.metric, Facts(**known), weights, scored)


def _check_scored(scored: Scored, plan: PickPlan) -> None:
    """Refuse what are no scored selections of a plan."""
    count = len(plan.check_batch(scored.counts))
    fits = scored.scores.shape == scored.held_out.shape == (count,) and scored.held_out.dtype == np.bool_
    if not fits or not count or scored.counts.dtype.kind != "i" or not np.isfinite(scored.scores).all():
        raise ValueError("its selections, scores and hold-out do not fit each other")


def mixed_counts(plan: PickPlan, number: int, seed: int = 0) -> Ints:
    """Return (N, K) different random selections, from a few picks to complete ones.

    A third picks uniformly among clusters, a third by cluster size, a third uniformly in a random subset of clusters; half
    are complete, the lengths of the others are uniform. N is ``number``, or less where there are hardly as many.
    """
    rng = generator(seed, "surrogate selections")
    found: dict[bytes, Ints] = {}
    for attempt in range(10 * number):
        if len(found) == number:
            break
        weights = np.ones(plan.clusters)
        if attempt % 3 == 1:
            weights = plan.sizes.astype(np.float64)
        elif attempt % 3 == 2:
            weights = (rng.permutation(plan.clusters) < rng.integers(1, plan.clusters + 1)).astype(np.float64)
        length = plan.picks if attempt // 3 % 2 else int(rng.integers(1, plan.picks + 1))
        counts = draw_counts(plan, weights, rng, length)
        found.setdefault(counts.tobytes(), counts)
    return np.stack(list(found.values()))


def _add(known: Scored, counts: Ints, scores: Doubles, facts: Facts) -> Scored:
    """What is known and the selections that are new, with their share held out."""
    values = np.asarray(scores, np.float64)
    if values.shape != (len(counts),) or not np.isfinite(values).all():
        raise InputError(f"scores of shape {values.shape} do not fit {len(counts)} selections, or are not all finite")
    seen = {row.tobytes() for row in known.counts}
    place = {row.tobytes(): number for number, row in reversed(list(enumerate(counts))) if row.any()}
    fresh = np.sort(np.array([number for key, number in place.items() if key not in seen], np.int64))
    held = np.zeros(len(fresh), np.bool_)
    rng = generator(facts.seed, f"surrogate hold-out after {len(seen)}")
    held[rng.permutation(len(fresh))[: round(facts.hold_out * len(fresh))]] = True
    scored = Scored(
        np.concatenate([known.counts, counts[fresh]]),
        np.concatenate([known.scores, values[fresh]]),
        np.concatenate([known.held_out, held]),
    )
    if len(scored.scores) < FEWEST or not 2 <= scored.held_out.sum() <= len(scored.scores) - 2:
        raise InputError(
            f"{len(scored.scores)} different selections, {int(scored.held_out.sum())} of them held out: needed are "
            f"{FEWEST} and more, at least 2 held out and 2 not"
        )
    if not np.ptp(scored.scores[~scored.held_out]):
        raise InputError("all selections have the same score: there is nothing to learn")
    return scored


def _digest(arrays: Mapping[str, npt.NDArray[Any]], facts: str = "") -> str:
    digest = hashlib.sha256(facts.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
