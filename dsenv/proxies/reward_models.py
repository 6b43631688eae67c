"""The networks that a surrogate learns Φ with: an MLP over clusters, and a set transformer (arXiv 1810.00825)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import require
from dsenv.features import cluster_features
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan
from dsenv.seeding import generator
from dsenv.task import SelectionTask

HIDDEN, LAYERS = 256, 3  # of the mlp
WIDTH, HEADS, BLOCKS = 16, 2, 2  # of the set transformer
OUTERMOST = 10.0  # deviations from the median: what lies beyond is learned as that far out

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


def set_transformer(torch: Any, w: Mapping[str, Any], x: Any) -> Any:
    """Return the predictions (B,), standardised, of inputs x (B, K, 4): the order of clusters changes nothing."""
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
    "set_transformer": (_token_inputs, set_transformer),
}
FIXED = ("input_mean", "input_scale", "clusters", "target_centre", "target_scale")  # not learned by gradients


def first_weights(model: str, task: SelectionTask, plan: PickPlan, counts: Ints, scores: Doubles, seed: int) -> Weights:
    """Random layers, and what inputs and targets are standardised by, of the training selections.

    Targets by median and quartiles: the scores of the smallest selections lie many deviations below all others.
    """
    rng = generator(seed, "surrogate weights")
    x, y = FORWARD[model][0](plan, counts), scores
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

    if model == "mlp":
        for number in range(LAYERS):
            layer(f"hidden{number}", HIDDEN if number else x.shape[-1], HIDDEN)
        layer("out", HIDDEN, 1)
    else:
        static = cluster_features(task, plan.clustering()).astype(np.float64)
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


def train_model(
    model: str, task: SelectionTask, plan: PickPlan, counts: Ints, scores: Doubles, *, seed: int, epochs: int
) -> Weights:
    """Fit standardised scores with AdamW and Huber's loss; nothing reads torch's own random state."""
    torch = require("torch", "finetune")
    inputs, forward = FORWARD[model]
    schedule = MODELS[model]
    weights = {name: torch.from_numpy(array) for name, array in first_weights(model, task, plan, counts, scores, seed).items()}
    learned = [weight.requires_grad_() for name, weight in weights.items() if name not in FIXED]
    x = torch.from_numpy(inputs(plan, counts).astype(np.float32))
    y = torch.from_numpy(scores.astype(np.float32))
    y = ((y - weights["target_centre"]) / weights["target_scale"]).clamp(-OUTERMOST, OUTERMOST)
    steps = epochs * -(-len(y) // schedule.batch)
    optimizer = torch.optim.AdamW(learned, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, steps // 10), (1 + np.cos(np.pi * step / steps)) / 2)
    )
    rng = generator(seed, "surrogate order")
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(y))).split(schedule.batch):
            loss = torch.nn.functional.huber_loss(forward(torch, weights, x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            rate.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


def predict_scores(model: str, weights: Weights, plan: PickPlan, counts: Ints) -> Doubles:
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
