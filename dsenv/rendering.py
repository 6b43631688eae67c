"""The cluster map: where the clusters lie, how large they are, what is taken of them; and a window that shows it."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.clustering import Clustering
from dsenv.dataset import Ints
from dsenv.errors import InputError, MissingExtraError, require
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
    majority = label_table(task, clustering).argmax(1)
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
    positions = cluster_positions(task, clustering)
    majority = label_table(task, clustering).argmax(1)
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


def label_table(task: SelectionTask, clustering: Clustering) -> Ints:
    """Return (K, C) rows of each cluster and class."""
    table = np.zeros((clustering.clusters, task.classes), np.int64)
    np.add.at(table, (clustering.cluster, task.train_labels), 1)
    return table


def cluster_positions(task: SelectionTask, clustering: Clustering) -> npt.NDArray[np.float64]:
    """Return (K, 2) the clusters' centroids in the first two components."""
    plane = task.train.features[:, :2] if task.train.features.shape[1] > 2 else task.train.features[:, [0, 0]]
    sums = np.stack([np.bincount(clustering.cluster, plane[:, axis]) for axis in range(2)], 1)
    return np.asarray(sums / clustering.sizes[:, None])


class Window:
    """A window that shows pictures, with Python's own tkinter; closed by its user, it stays closed.

    Args:
        title: of the window.
        fps: pictures a second, at most.

    Raises:
        MissingExtraError: where Python has no tkinter.
        InputError: where there is no display.
    """

    def __init__(self, title: str, fps: float) -> None:
        try:
            self._tkinter: Any = importlib.import_module("tkinter")
        except ImportError as error:
            raise MissingExtraError(
                f"render_mode 'human' needs tkinter, which this Python lacks ({error}); install it with the system's packages "
                "(python3-tk, python3-tkinter or tk), or use render_mode 'rgb_array'"
            ) from error
        try:
            self._root: Any = self._tkinter.Tk()
        except self._tkinter.TclError as error:
            raise InputError(
                f"render_mode 'human' needs a display: {error}; use render_mode 'rgb_array' here, or run under xvfb-run"
            ) from error
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._label = self._tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._pause, self._next = 1 / fps, 0.0

    @property
    def open(self) -> bool:
        """Whether it is there to be seen."""
        return self._root is not None

    def show(self, picture: npt.NDArray[np.uint8]) -> None:
        """Show an (H, W, 3) picture in the place of the last one, no sooner than the pictures a second allow."""
        if self._root is None:
            return
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self._pause
        height, width, _ = picture.shape
        data = b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(picture).tobytes()
        try:
            image = self._tkinter.PhotoImage(master=self._root, data=data, format="PPM")
            self._label.configure(image=image)
            self._label.image = image  # tkinter itself keeps none
            self._root.update()
        except self._tkinter.TclError:  # closed while it was drawn, or its display is gone
            self.close()

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        root, self._root = self._root, None
        if root is not None:
            self._label = None
            try:
                root.destroy()
            except self._tkinter.TclError:
                return
