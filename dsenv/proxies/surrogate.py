"""A learned reward model: a small network that predicts another proxy's Φ from the rows taken of each cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from dsenv.clustering import Clustering
from dsenv.dataset import Ints
from dsenv.errors import InputError, one_of, require
from dsenv.features import cluster_features
from dsenv.files import atomic_write
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.proxies import Memory, Proxy, RowSample, empty_score, recipe_digest
from dsenv.seeding import generator
from dsenv.task import SelectionTask

FORMAT = 1
FEWEST = 10
OUTERMOST = 10.0  # deviations from the median: what lies beyond is learned as that far out
HIDDEN, LAYERS = 256, 3  # of the mlp
WIDTH, HEADS, BLOCKS = 16, 2, 2  # of the set transformer

Singles = npt.NDArray[np.float32]
Weights = dict[str, Singles]


@dataclass(frozen=True)
class _Schedule:
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    served: int  # selections a pass; a part of a pass is filled up, because other shapes round otherwise


MODELS = {"mlp": _Schedule(100, 128, 2e-3, 0.3, 64), "set_transformer": _Schedule(40, 32, 4e-3, 0.1, 16)}


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
        plan: digest of the plan.
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
        found = _predict(self.facts.model, self._weights, self.plan, batch)
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
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{what} {value!r}: allowed are whole numbers from {least}")
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
            _plan_digest(proxy.plan),
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
        try:
            with library.safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dict
            found = json.loads(metadata["surrogate"])
            if found.pop("format") != FORMAT:
                raise ValueError(f"another format version than {FORMAT}")
            if _digest(arrays, metadata["surrogate"]) != metadata["sha256"]:
                raise ValueError("it was altered: its digest is another than it says")
            facts = Facts(**found)
            named = {part: {n.partition(".")[2]: a for n, a in arrays.items() if n.startswith(part)} for part in ("w", "s")}
            scored = Scored(**named["s"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, library.SafetensorError) as error:
            raise InputError(f"{str(path)!r} is not a readable surrogate: {error}") from error
        given = {
            "task": (facts.task, task.digest),
            "variant": (facts.variant, task.variant),
            "instance": (facts.instance, task.instance),
            "plan": (facts.plan, _plan_digest(plan)),
        }
        for what, (trained, asked) in given.items():
            if trained != asked:
                raise InputError(
                    f"the surrogate {str(path)!r} was trained for another {what}: {str(trained)[:16]!r}; asked of it is "
                    f"{str(asked)[:16]!r} of task {task.name!r}"
                )
        return cls(task, plan, facts.metric, facts, named["w"], scored)

    @classmethod
    def _trained(cls, task: SelectionTask, plan: PickPlan, facts: Facts, scored: Scored) -> SurrogateProxy:
        weights = _train(facts, task, plan, scored)
        truth = scored.scores[scored.held_out]
        found = _predict(facts.model, weights, plan, scored.counts[scored.held_out])
        variance = ((truth - truth.mean()) ** 2).sum()
        r2 = 1 - ((truth - found) ** 2).sum() / variance if variance else 0.0
        ranked = spearmanr(truth, found).statistic if variance and np.ptp(found) else 0.0
        known = {**asdict(facts), "hold_out_r2": float(r2), "hold_out_spearman": float(ranked)}
        return cls(task, plan, facts.metric, Facts(**known), weights, scored)


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
        counts = np.zeros(plan.clusters, np.int64)
        while (left := length - int(counts.sum())) > 0 and (open_ := weights * (counts < plan.capacity)).any():
            counts = np.minimum(counts + rng.multinomial(left, open_ / open_.sum()), plan.capacity)
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


def _numbers(plan: PickPlan, counts: Ints) -> tuple[Doubles, Doubles, Doubles]:
    """Log of the rows taken (B, K), their shares of the selection (B, K), log of all rows taken (B, 1)."""
    taken = plan.taken(counts).astype(np.float64)
    rows = np.maximum(taken.sum(1, keepdims=True), 1)
    return np.log1p(taken), taken / rows, np.log(rows)


def _mlp_inputs(plan: PickPlan, counts: Ints) -> Doubles:
    return np.concatenate(_numbers(plan, counts), axis=1)


def _token_inputs(plan: PickPlan, counts: Ints) -> Doubles:
    """(B, K, 4); the last two columns are the shares that rows are averaged by, and the log of all rows."""
    taken, mix, rows = _numbers(plan, counts)
    share = plan.taken(counts) / plan.sizes
    return np.stack([share, taken, mix * plan.clusters, np.broadcast_to(rows, taken.shape)], axis=2)


def _mlp(torch: Any, w: Mapping[str, Any], x: Any) -> Any:
    h = (x - w["input_mean"]) / w["input_scale"]
    for layer in range(LAYERS):
        h = torch.nn.functional.gelu(_linear(w, f"hidden{layer}", h))
    return _linear(w, "out", h)[:, 0]


def _set_transformer(torch: Any, w: Mapping[str, Any], x: Any) -> Any:
    functional = torch.nn.functional
    batch, clusters = x.shape[:2]
    static = w["clusters"].expand(batch, -1, -1)
    h = _linear(w, "embed", torch.cat([static, (x - w["input_mean"]) / w["input_scale"]], 2))
    for block in range(BLOCKS):
        name = f"block{block}"
        parts = _linear(w, f"{name}.attend", _normed(functional, w, f"{name}.before", h))
        query, key, value = parts.view(batch, clusters, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        met = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, clusters, WIDTH)
        h = h + _linear(w, f"{name}.join", met)
        inner = functional.gelu(_linear(w, f"{name}.widen", _normed(functional, w, f"{name}.after", h)))
        h = h + _linear(w, f"{name}.narrow", inner)
    mix = x[:, :, 2:3] / clusters
    pooled = torch.cat([h.mean(1), (h * mix).sum(1)], 1)
    return _linear(w, "out", functional.gelu(_linear(w, "head", pooled)))[:, 0]


def _linear(w: Mapping[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def _normed(functional: Any, w: Mapping[str, Any], name: str, x: Any) -> Any:
    return functional.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])


FORWARD: dict[str, tuple[Callable[[PickPlan, Ints], Doubles], Callable[[Any, Mapping[str, Any], Any], Any]]] = {
    "mlp": (_mlp_inputs, _mlp),
    "set_transformer": (_token_inputs, _set_transformer),
}
FIXED = ("input_mean", "input_scale", "clusters", "target_centre", "target_scale")  # not learned by gradients


def _first_weights(facts: Facts, task: SelectionTask, plan: PickPlan, scored: Scored) -> Weights:
    """Random layers, and what inputs and targets are standardised by, of the training selections.

    Targets by median and quartiles: the scores of the smallest selections lie many deviations below all others.
    """
    rng = generator(facts.seed, "surrogate weights")
    x = FORWARD[facts.model][0](plan, scored.counts[~scored.held_out])
    y = scored.scores[~scored.held_out]
    axes = tuple(range(x.ndim - 1))
    weights: dict[str, npt.NDArray[np.floating]] = {
        "input_mean": x.mean(axes),
        "input_scale": _scale(x.std(axes)),
        "target_centre": np.median(y, keepdims=True),
        "target_scale": np.array([np.ptp(np.percentile(y, [25, 75])) / 1.349 or y.std()]),
    }

    def layer(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = rng.uniform(-1, 1, (inputs, outputs)) / np.sqrt(inputs)
        weights[f"{name}.bias"] = np.zeros(outputs)

    if facts.model == "mlp":
        for number in range(LAYERS):
            layer(f"hidden{number}", HIDDEN if number else x.shape[-1], HIDDEN)
        layer("out", HIDDEN, 1)
    else:
        static = cluster_features(task, _clustering(plan)).astype(np.float64)
        weights["clusters"] = (static - static.mean(0)) / _scale(static.std(0))
        layer("embed", static.shape[1] + x.shape[-1], WIDTH)
        for block in range(BLOCKS):
            for part, outputs in (("attend", 3 * WIDTH), ("join", WIDTH), ("widen", 2 * WIDTH)):
                layer(f"block{block}.{part}", WIDTH, outputs)
            layer(f"block{block}.narrow", 2 * WIDTH, WIDTH)
            for norm in ("before", "after"):
                weights[f"block{block}.{norm}.weight"] = np.ones(WIDTH)
                weights[f"block{block}.{norm}.bias"] = np.zeros(WIDTH)
        layer("head", 2 * WIDTH, 4 * WIDTH)
        layer("out", 4 * WIDTH, 1)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _scale(deviations: Doubles) -> Doubles:
    """What never varied in training is not blown up where it does vary later."""
    return np.where(deviations > 1e-6, deviations, 1.0)


def _train(facts: Facts, task: SelectionTask, plan: PickPlan, scored: Scored) -> Weights:
    """Fit standardised scores with AdamW and Huber's loss; nothing reads torch's own random state."""
    torch = require("torch", "finetune")
    inputs, forward = FORWARD[facts.model]
    schedule = MODELS[facts.model]
    weights = {name: torch.from_numpy(array) for name, array in _first_weights(facts, task, plan, scored).items()}
    learned = [weight.requires_grad_() for name, weight in weights.items() if name not in FIXED]
    x = torch.from_numpy(inputs(plan, scored.counts[~scored.held_out]).astype(np.float32))
    y = torch.from_numpy(scored.scores[~scored.held_out].astype(np.float32))
    y = ((y - weights["target_centre"]) / weights["target_scale"]).clamp(-OUTERMOST, OUTERMOST)
    steps = facts.epochs * -(-len(y) // schedule.batch)
    optimizer = torch.optim.AdamW(learned, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, steps // 10), (1 + np.cos(np.pi * step / steps)) / 2)
    )
    rng = generator(facts.seed, "surrogate order")
    for _ in range(facts.epochs):
        for rows in torch.from_numpy(rng.permutation(len(y))).split(schedule.batch):
            loss = torch.nn.functional.huber_loss(forward(torch, weights, x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            rate.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


def _predict(model: str, weights: Weights, plan: PickPlan, counts: Ints) -> Doubles:
    """Predicted scores (B,), the same bits for a selection whatever stands beside it in the batch."""
    torch = require("torch", "finetune")
    inputs, forward = FORWARD[model]
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    size = MODELS[model].served
    filled = np.zeros((-(-len(counts) // size) * size, counts.shape[1]), np.int64)
    filled[: len(counts)] = counts
    x = torch.from_numpy(inputs(plan, filled).astype(np.float32))
    with torch.inference_mode():
        parts = [forward(torch, tensors, part).numpy() for part in x.split(size)] if len(counts) else [np.zeros(0)]
    found = np.concatenate(parts)[: len(counts)].astype(np.float64)
    return found * weights["target_scale"] + weights["target_centre"]


def _clustering(plan: PickPlan) -> Clustering:
    cluster, position = np.empty(len(plan.order), np.int64), np.empty(len(plan.order), np.int64)
    cluster[plan.order] = np.repeat(np.arange(plan.clusters), plan.sizes)
    position[plan.order] = np.arange(len(plan.order)) - np.repeat(plan.starts, plan.sizes)
    return Clustering(cluster, position)


def _plan_digest(plan: PickPlan) -> str:
    digest = hashlib.sha256(f"{plan.picks} {plan.rows_per_pick}".encode())
    for array in (plan.sizes, plan.order):
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    return digest.hexdigest()


def _digest(arrays: Mapping[str, npt.NDArray[Any]], facts: str = "") -> str:
    digest = hashlib.sha256(facts.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
