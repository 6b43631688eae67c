"""The cluster map: where the clusters lie, how large they are, what is taken of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.clustering import Clustering
from dsenv.dataset import Ints
from dsenv.errors import require
from dsenv.picks import PickPlan
from dsenv.task import SelectionTask

BAR = 20
LISTED = 12
INCHES, DPI = (6.4, 4.8), 100


def render_ansi(
    task: SelectionTask, clustering: Clustering, plan: PickPlan, counts: Ints, spent: int, score: float, metric: str
) -> str:
    """Return the state as a text: budget, score, and the clusters most taken of."""
    taken = plan.taken(counts)
    lines = [
        f"{task.name}: pick {spent} of {plan.picks}, {taken.sum()} rows of {len(task.train)}, {metric} {score:.4f}",
    ]
    majority = _majority(task, clustering)
    for k in np.argsort(-taken, kind="stable")[:LISTED]:
        if taken[k] == 0:
            break
        filled = round(BAR * taken[k] / plan.sizes[k])
        bar = "#" * filled + "." * (BAR - filled)
        lines.append(
            f"  cluster {k:3d} [{bar}] {taken[k]:5d} of {plan.sizes[k]:5d} rows, mostly {task.class_names[majority[k]]}"
        )
    return "\n".join(lines)


def render_picture(
    task: SelectionTask, clustering: Clustering, plan: PickPlan, counts: Ints, spent: int, score: float, metric: str
) -> npt.NDArray[np.uint8]:
    """Return (480, 640, 3) uint8: clusters at their first two components; area = rows, colour = majority label, disc = taken.

    Raises:
        MissingExtraError: without the extra ``render``.
    """
    figure_module = require("matplotlib.figure", "render")
    agg = require("matplotlib.backends.backend_agg", "render")
    colormaps = require("matplotlib", "render").colormaps
    figure: Any = figure_module.Figure(figsize=INCHES, dpi=DPI)
    canvas: Any = agg.FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    axes.set_xticks([])
    axes.set_yticks([])
    positions = _centroids(task, clustering)
    majority = _majority(task, clustering)
    palette = colormaps["tab10" if task.classes <= 10 else "nipy_spectral"]
    colours = palette(majority if task.classes <= 10 else majority / max(1, task.classes - 1))
    areas = 900 * plan.sizes / plan.sizes.max()
    share = plan.taken(counts) / plan.sizes
    axes.scatter(*positions.T, s=areas, facecolors="none", edgecolors=colours, linewidths=1.4)
    axes.scatter(*positions.T, s=areas * share, c=colours, linewidths=0)
    axes.margins(0.08)
    if task.classes <= 10:
        for label in np.unique(majority):
            axes.scatter([], [], color=palette(int(label)), label=task.class_names[label])
        axes.legend(loc="upper right", fontsize=8, title="majority label", title_fontsize=8, framealpha=0.9)
    rows = int(plan.taken(counts).sum())
    figure.text(0.02, 0.955, f"{task.name}   pick {spent}/{plan.picks}   {rows} of {len(task.train)} rows", fontsize=11)
    figure.text(0.02, 0.915, f"{metric} {score:.3f}   circle = cluster (area: rows), disc = share taken", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _majority(task: SelectionTask, clustering: Clustering) -> Ints:
    table = np.zeros((clustering.clusters, task.classes), np.int64)
    np.add.at(table, (clustering.cluster, task.train.labels), 1)
    return np.asarray(table.argmax(1))


def _centroids(task: SelectionTask, clustering: Clustering) -> npt.NDArray[np.float64]:
    plane = task.train.features[:, :2] if task.train.features.shape[1] > 2 else task.train.features[:, [0, 0]]
    sums = np.stack([np.bincount(clustering.cluster, plane[:, axis]) for axis in range(2)], 1)
    return np.asarray(sums / clustering.sizes[:, None])
