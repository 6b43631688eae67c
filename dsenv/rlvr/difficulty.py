"""How hard questions are for the policy as it is now, predicted from a few that were measured (DOTS, arXiv 2506.05316)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole, require
from dsenv.metrics import Doubles
from dsenv.rlvr.policy import Floats
from dsenv.rlvr.weights import put_weights_state, weights_state

LOWEST, HIGHEST = 1e-4, 1 - 1e-4  # logits are taken of predictions inside
TEMPERATURES = (0.01, 10.0)
CALIBRATION_WIDTH = 10
ONE = float(np.log(np.e - 1))  # softplus of it is 1
LEARNING_RATE = 1e-3
DROPOUT = 0.1


class DifficultyPredictor:
    """Attention from questions to measured reference questions, with an adapter on each side and a calibration.

    a_j = softmax_j(z_q · z_j / √h), prediction = Σ a_j v_j, then sigmoid(logit(prediction) / T + b) with (T, b) a small
    network of the mean and deviation of the measured values. Published adapters are trained beforehand on many policies; ours
    begin as the identity (so at first this is a kernel average over standardised embeddings) and are trained on what is
    measured as training goes on: every measured question is predicted from the others of its time.

    Args:
        embeddings: (n, d) of the questions that may be asked or measured.
        seed: of the adapters and of dropout.
        hidden: width of the adapters; published: 896.
    """

    def __init__(self, embeddings: Floats, seed: int = 0, hidden: int = 64) -> None:
        check_whole("hidden", hidden, 1)
        torch = require("torch", "finetune")
        if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
            raise InputError(f"embeddings must be finite, of shape (n, d), not {embeddings.shape}")
        spread = embeddings.std(0)
        scaled = (embeddings - embeddings.mean(0)) / np.where(spread > 0, spread, 1)
        self._embeddings = torch.as_tensor(scaled, dtype=torch.float32)
        self._seed, self._fits = seed, 0
        width = embeddings.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._query, self._reference = (_adapter(torch, width, hidden) for _ in range(2))
            self._calibration = torch.nn.Sequential(
                torch.nn.Linear(2, CALIBRATION_WIDTH), torch.nn.ReLU(), torch.nn.Linear(CALIBRATION_WIDTH, 2)
            )
        with torch.no_grad():
            for adapter in (self._query, self._reference):
                adapter[-1].weight.zero_()
                adapter[-1].bias.zero_()
            self._calibration[-1].weight.zero_()
            self._calibration[-1].bias.copy_(torch.tensor([ONE, 0.0]))
        self._network = torch.nn.ModuleList([self._query, self._reference, self._calibration]).eval()
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=LEARNING_RATE)

    def predict(self, ids: Ints, reference: Ints, values: Doubles) -> Doubles:
        """Return the predicted pass rates (n,) of questions from the measured ones (K,) of reference questions."""
        torch = require("torch", "finetune")
        with torch.no_grad():
            found = self._forward(torch.as_tensor(ids), torch.as_tensor(reference), torch.as_tensor(values).float(), None)
        return np.asarray(found.double().numpy())

    def predict_each(self, reference: Ints, values: Doubles) -> Doubles:
        """Return what each measured question is predicted to have from the others, (K,)."""
        torch = require("torch", "finetune")
        with torch.no_grad():
            found = self._forward(*self._leave_one_out(reference, values))
        return np.asarray(found.double().numpy())

    def fit(self, reference: Ints, values: Doubles, steps: int) -> None:
        """Train adapters and calibration to predict each measured question from the others (binary cross-entropy)."""
        torch = require("torch", "finetune")
        given = self._leave_one_out(reference, values)
        self._network.train()
        with torch.random.fork_rng(devices=[]):  # dropout reads torch's global generator
            torch.manual_seed(self._seed + self._fits)
            for _ in range(steps):
                loss = torch.nn.functional.binary_cross_entropy(self._forward(*given), given[2])
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        self._network.eval()
        self._fits += 1

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return weights, their moments and the number of fits, arrays by name."""
        return {"fits": np.array(self._fits), **weights_state(self._network.named_parameters(), self._optimizer)}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take back what ``state`` returned."""
        self._fits = int(state["fits"])
        put_weights_state(self._network.named_parameters(), self._optimizer, state)

    def _leave_one_out(self, reference: Ints, values: Doubles) -> tuple[Any, Any, Any, Any]:
        torch = require("torch", "finetune")
        if len(reference) < 2:
            raise InputError(f"{len(reference)} measured questions: allowed are two or more")
        ids = torch.as_tensor(reference)
        return ids, ids, torch.as_tensor(values).float(), torch.eye(len(ids), dtype=torch.bool)

    def _forward(self, ids: Any, reference: Any, values: Any, hidden: Any) -> Any:
        """Return predictions (n,); ``hidden`` (n, K) marks what a question must not see."""
        torch = require("torch", "finetune")
        norm = torch.nn.functional.layer_norm
        width = self._embeddings.shape[1:]
        asked, given = self._embeddings[ids], self._embeddings[reference]
        queries, keys = norm(asked + self._query(asked), width), norm(given + self._reference(given), width)
        scores = queries @ keys.T / width[0] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        return calibrated(scores.softmax(-1) @ values, *self._temperature(values))

    def _temperature(self, values: Any) -> tuple[Any, Any]:
        torch = require("torch", "finetune")
        raw = self._calibration(torch.stack([values.mean(), values.std(correction=0)]))
        return torch.nn.functional.softplus(raw[0]).clamp(*TEMPERATURES), raw[1].tanh()


def calibrated(predictions: Any, temperature: Any, shift: Any) -> Any:
    """Return sigmoid(logit(p) / T + b) of predictions clipped to [1e-4, 1 - 1e-4], as tensors."""
    return (predictions.clamp(LOWEST, HIGHEST).logit() / temperature + shift).sigmoid()


def recalibrate(predictions: Doubles, predicted: Doubles, measured: Doubles) -> Doubles:
    """Map predictions by least squares of measured on predicted values of reference questions, clipped to [0, 1].

    The published code predicts a reference question from itself too and does not clip; here ``predicted`` should come from
    ``predict_each``. Without spread in what is predicted, or with a slope that is not positive, predictions stay as they are.
    """
    spread = float(np.var(predicted))
    slope = float(np.cov(predicted, measured, ddof=0)[0, 1]) / spread if spread > 0 else 0.0
    if slope <= 0:
        return predictions
    return np.asarray(np.clip(measured.mean() + slope * (predictions - predicted.mean()), 0, 1))


def sampling_scores(predictions: Doubles, target: float = 0.5, temperature: float = 1e-3) -> Doubles:
    """Return log P(q) up to a constant, (n,): P(q) ∝ exp(-|prediction - α| / τ).

    Args:
        predictions: of pass rates.
        target: α.
        temperature: τ; published: 1e-3.
    """
    return np.asarray(-np.abs(np.asarray(predictions, np.float64) - target) / temperature)


def _adapter(torch: Any, width: int, hidden: int) -> Any:
    """A GELU network of three layers with layer norm and dropout, as published."""
    layers: list[Any] = []
    for inputs in (width, hidden):
        layers += [torch.nn.Linear(inputs, hidden), torch.nn.LayerNorm(hidden), torch.nn.GELU(), torch.nn.Dropout(DROPOUT)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden, width))
