"""A training run under a controller: what the policy answers of the test questions as rollouts are spent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.reading import convert
from dsenv.rlvr.controllers.controller import Controller
from dsenv.rlvr.grpo import GRPO
from dsenv.rlvr.snapshots import load_snapshot, save_snapshot
from dsenv.seeding import generator

log = logging.getLogger(__name__)
PROBE = 128  # training questions whose pass rate is measured beside the run


@dataclass(frozen=True)
class Point:
    """Where a run is after some rounds.

    Attributes:
        rounds: done.
        rollouts: charged, those and the passes that were spent on choosing included.
        steps: optimiser steps.
        gradient_passes: completions that went forward and backward.
        seconds: of rolling out, choosing and updating; evaluation is left out.
        test: pass rate on the test questions, greedy.
        by_cluster: (K,) the same by cluster; None where a cluster has no test question.
        signal: share of groups with rights and wrongs, since the point before.
        correlation: Pearson's, of the controller's predictions at the point before and of pass rates measured there for this
            alone, over some training questions drawn uniformly; None without predictions.
    """

    rounds: int
    rollouts: int
    steps: int
    gradient_passes: int
    seconds: float
    test: float
    by_cluster: tuple[float | None, ...]
    signal: float
    correlation: float | None


def train(
    training: GRPO,
    controller: Controller,
    *,
    rollouts: int,
    steps: int = 0,
    every: int = 1024,
    snapshot: str | Path | None = None,
    snapshot_seconds: float = 60.0,
    shown: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Train until so many rollouts are charged and so many steps are done, and return the curve.

    Points are taken at the start, where the next round would go beyond a multiple of ``every`` rollouts or beyond the
    budget, and where ``steps`` are done: about equally often for the rollouts that controllers spend. What a controller
    announces is an upper bound, so a run may end with some of its budget left, which is logged.

    Args:
        training: at its start; changed in place.
        controller: of this training.
        rollouts: budget; the last round that it pays for certain is done.
        steps: go on to so many optimiser steps, however many rollouts they take.
        every: rollouts between two points.
        snapshot: a file that is written from time to time and at the end; where it is there, the run goes on from it.
        snapshot_seconds: least time between two of them.
        shown: called with every new point.

    Raises:
        InputError: for a budget below one round, or a snapshot of another run.
        dsenv.rlvr.training.TrainingStopped: where a loss or a gradient is not finite; a snapshot is as it was last written.
    """
    check_whole("every", every, 1)
    costs, size = training.costs, training.settings.round_rollouts
    if rollouts < size + controller.next_charge():
        least = size + controller.next_charge()
        raise InputError(f"a budget of {rollouts} rollouts: the first round may take {least}, allowed are budgets from that")
    points: list[Point] = []
    if snapshot is not None and Path(snapshot).is_file():
        try:
            points = convert(load_snapshot(snapshot, training, controller).get("points"), list[Point])
        except msgspec.ValidationError as error:
            raise InputError(f"{str(snapshot)!r} has no curve of a run: {error}") from error
        costs = training.costs
    saved = time.monotonic()
    signals: list[float] = []
    correlation = None
    while True:
        announced = controller.next_charge()
        after = costs.charged + size + announced
        over = after > rollouts and costs.steps >= steps
        leaves_mark = (after - 1) // every > (costs.charged - 1) // every or costs.charged <= rollouts < after
        if (over or leaves_mark or _reaches(training, steps)) and (not points or points[-1].rounds < training.rounds):
            points.append(_point(training, signals, correlation))
            signals, correlation = [], None
            if shown is not None:
                shown(points[-1])
            if snapshot is not None and (over or time.monotonic() - saved > snapshot_seconds):
                save_snapshot(snapshot, training, controller, {"points": [asdict(point) for point in points]})
                saved = time.monotonic()
        if over:
            if costs.charged + 2 * size <= rollouts:
                log.warning("ends at %d of %d rollouts: choosing again may take %d", costs.charged, rollouts, announced)
            return points
        with costs.timed("choose"):
            chosen = controller.choose()
        if controller.predictions is not None and points[-1].rounds == training.rounds:
            correlation = _correlation(training, controller.predictions)
        found = training.round(chosen)
        with costs.timed("choose"):
            controller.learn(found)
        signals.append(float(found.signal.mean()))


def _reaches(training: GRPO, steps: int) -> bool:
    """Return whether the last round brought the training to so many steps."""
    settings = training.settings
    return 0 <= training.costs.steps - steps < settings.steps * settings.minibatches


def _point(training: GRPO, signals: list[float], correlation: float | None) -> Point:
    costs, test = training.costs, training.questions.test
    right = training.pass_rates(test)
    clusters = range(len(training.questions.clusters))
    return Point(
        training.rounds,
        costs.charged,
        costs.steps,
        costs.gradient_passes,
        costs.training_seconds,
        float(right.mean()),
        tuple(float(right[test.cluster == k].mean()) if (test.cluster == k).any() else None for k in clusters),
        float(np.mean(signals)) if signals else 0.0,
        correlation,
    )


def _correlation(training: GRPO, predictions: Doubles) -> float | None:
    """Return Pearson's correlation with what is measured of a few training questions; None where either does not vary."""
    rng = generator(training.seed, f"probe, round {training.rounds}")
    ids: Ints = rng.permutation(len(predictions))[:PROBE]
    measured, predicted = training.measure(ids, rng), predictions[ids]
    if measured.std() == 0 or predicted.std() == 0:
        return None
    return float(np.corrcoef(measured, predicted)[0, 1])
