"""A head trained on vectors: logistic regression, or a network with one hidden layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole, one_of, require
from dsenv.metrics import Doubles, one_hot
from dsenv.picks import PickPlan
from dsenv.proxies.trained import VERSION, TrainedProxy
from dsenv.seeding import generator
from dsenv.task import SelectionTask

HEADS = ("logistic", "mlp")
TOLERANCE = 1e-7  # of the gradient of the mean loss: probabilities are then within about 1e-5 of the optimum's
MOST_ITERATIONS = 10_000
LEARNING_RATE = 1e-2  # of Adam

Vectors = Mapping[str, npt.NDArray[np.floating]]


class ProbeProxy(TrainedProxy):
    """Φ(S) = metric of the class probabilities of a head trained on the vectors of S.

    ``logistic`` minimises Σ -log softmax(x W)_y + regularisation / 2 · ‖W‖² over the rows of S, the intercept not
    penalised, with L-BFGS from W = 0: scikit-learn's ``LogisticRegression(C=1 / regularisation)``. Classes that S lacks
    have no part in it and get probability 0.

    ``mlp`` takes a fixed number of steps of full-batch Adam (arXiv 1412.6980) on the same objective divided by the number
    of rows, biases not penalised, from the same seeded weights for every selection. The steps are few, because with more
    of them the network learns wrong labels by heart.

    Args:
        task: the rows.
        plan: what a pick adds.
        metric: one of the five metrics.
        head: ``logistic`` or ``mlp``.
        vectors: instead of the task's reduced vectors: ``train`` (pool rows, d) and ``reward`` (reward rows, d), in the
            order of ``task.train`` and ``task.reward``. They are not scaled; a constant is added for the intercept.
        regularisation: above 0; it is weighed against a sum over rows.
        hidden: units of the hidden layer of ``mlp``.
        steps: of training ``mlp``.
        seed: of the first weights of ``mlp``; nothing is drawn for ``logistic``.

    Raises:
        InputError: for values outside what is allowed, or vectors that do not fit the rows or are not finite.
        MissingExtraError: for ``mlp`` without the extra ``finetune``.
    """

    def __init__(
        self,
        task: SelectionTask,
        plan: PickPlan,
        metric: str,
        head: str = "logistic",
        vectors: Vectors | None = None,
        regularisation: float = 1.0,
        hidden: int = 64,
        steps: int = 30,
        seed: int = 0,
    ) -> None:
        super().__init__(task, plan, metric, seed)
        self.head = one_of("head", head, HEADS)
        if isinstance(regularisation, bool) or not 0 < regularisation < np.inf:
            raise InputError(f"regularisation {regularisation!r}: allowed are numbers above 0")
        for what, value in (("hidden", hidden), ("steps", steps)):
            check_whole(what, value, 1)
        if head == "mlp":
            require("torch", "finetune")
        self.regularisation, self.hidden, self.steps = float(regularisation), int(hidden), int(steps)
        self._vectors = None if vectors is None else _checked(task, vectors)

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings; own vectors by their SHA-256."""
        named: dict[str, Any] = {
            "proxy": "probe",
            "version": VERSION,
            "head": self.head,
            "regularisation": self.regularisation,
        }
        if self._vectors is not None:
            digest = hashlib.sha256()
            for array in self._vectors:
                digest.update(f"{array.shape}".encode())
                digest.update(np.ascontiguousarray(array, "<f4").tobytes())
            named["vectors"] = digest.hexdigest()
        network = {"hidden": self.hidden, "steps": self.steps, "seed": self.seed}
        return named if self.head == "logistic" else {**named, **network}

    def train(self, counts: Ints) -> Doubles | tuple[Doubles, Doubles, Doubles]:
        """Return weights trained on a selection that is not empty; counts (K,).

        Returns:
            W (d, C) of ``logistic``, -inf at the intercepts of classes that are not there; inner (d, H) and outer (H, C)
            weights and outer bias (C,) of ``mlp``.
        """
        rows = self.plan.rows(counts)
        x, y = self._features()[0][rows], self.task.train.labels[rows]
        return self._train_logistic(x.astype(np.float64), y) if self.head == "logistic" else self._train_mlp(x, y)

    def class_scores(self, model: Doubles | tuple[Doubles, Doubles, Doubles], rows: Ints) -> Doubles:
        """Return class probabilities (n, C) of reward rows, numbered inside the reward split (n,)."""
        x = self._features()[1][rows].astype(np.float64)
        if isinstance(model, tuple):
            inner, outer, bias = model
            return np.asarray(softmax(np.maximum(x @ inner, 0) @ outer + bias, axis=1))
        return np.asarray(softmax(x[:, :-1] @ model[:-1] + model[-1], axis=1))

    def _features(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return self._vectors or (self.task.train.features, self.task.reward.features)

    def _train_logistic(self, x: Doubles, labels: Ints) -> Doubles:
        present, places = np.unique(labels, return_inverse=True)
        truth = one_hot(places, len(present))
        # Of two classes scikit-learn fits and penalises the difference of our two vectors: twice what ours sum to.
        penalty = np.full((x.shape[1], 1), self.regularisation * (2 if len(present) == 2 else 1))
        penalty[-1] = 0

        def objective(flat: Doubles) -> tuple[float, Doubles]:
            w = flat.reshape(x.shape[1], len(present))
            logs = log_softmax(x @ w, axis=1)
            value = (penalty * w * w).sum() / 2 - (truth * logs).sum()
            return value / len(x), ((x.T @ (np.exp(logs) - truth) + penalty * w) / len(x)).ravel()

        options = {"gtol": TOLERANCE, "ftol": 0, "maxcor": 20, "maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS}
        found = minimize(objective, np.zeros(truth.shape[1] * x.shape[1]), method="L-BFGS-B", jac=True, options=options)
        weights = np.zeros((x.shape[1], self.task.classes))
        weights[-1] = -np.inf
        weights[:, present] = found.x.reshape(x.shape[1], -1)
        return weights

    def _train_mlp(self, x: npt.NDArray[np.float32], labels: Ints) -> tuple[Doubles, Doubles, Doubles]:
        torch = require("torch", "finetune")
        rng = generator(self.seed, "probe weights")
        width, classes = x.shape[1], self.task.classes
        first = (
            rng.normal(0, np.sqrt(2 / width), (width, self.hidden)),
            rng.normal(0, np.sqrt(1 / self.hidden), (self.hidden, classes)),
            np.zeros(classes),
        )
        inner, outer, bias = weights = [torch.tensor(w, dtype=torch.float32, requires_grad=True) for w in first]
        features, targets = torch.from_numpy(x), torch.from_numpy(labels)
        optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
        for _ in range(self.steps):
            logits = torch.relu(features @ inner) @ outer + bias
            penalty = (inner[:-1] ** 2).sum() + (outer**2).sum()
            loss = torch.nn.functional.cross_entropy(logits, targets) + self.regularisation / (2 * len(x)) * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        inner_, outer_, bias_ = (w.detach().numpy().astype(np.float64) for w in weights)
        return inner_, outer_, bias_


def _checked(task: SelectionTask, vectors: Vectors) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Own vectors of the pool and the reward rows as float32, with a constant behind."""
    expected = {"train": len(task.train), "reward": len(task.reward)}
    if set(vectors) != set(expected):
        raise InputError(f"vectors are given for {', '.join(map(str, vectors)) or 'nothing'}; needed are train and reward")
    arrays = {name: np.asarray(vectors[name]) for name in expected}
    widths = {array.shape[1] for array in arrays.values() if array.ndim == 2}
    for name, rows in expected.items():
        array = arrays[name]
        if array.ndim != 2 or len(array) != rows or len(widths) != 1 or not array.shape[1]:
            raise InputError(f"vectors of {name!r} have the shape {array.shape}; allowed is ({rows}, d) with one d for both")
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise InputError(f"vectors of {name!r} are not all finite numbers")
    train, reward = (
        np.concatenate([array.astype(np.float32), np.ones((len(array), 1), np.float32)], axis=1) for array in arrays.values()
    )
    return train, reward
