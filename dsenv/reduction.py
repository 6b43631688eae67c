"""Vectors to small vectors: principal components fitted on training rows, 8 bits a number, read block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.blocks import VectorRows, row_blocks
from dsenv.dataset import Ints
from dsenv.encoders import Vectors
from dsenv.errors import InputError, require

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """The vectors of the rows of one split that are used.

    Attributes:
        split: its name.
        vectors: of these rows, or of others too.
        rows: the numbers of the used rows in ``vectors``; None: all.
    """

    split: str
    vectors: VectorRows
    rows: Ints | None = None

    def __len__(self) -> int:
        return self.vectors.shape[0] if self.rows is None else len(self.rows)

    def blocks(self) -> Iterator[tuple[slice, Doubles]]:
        """Yield the vectors with their places among the used rows.

        Raises:
            InputError: for a vector that is not finite.
        """
        for places in row_blocks(len(self)):
            yield places, self._block(places)

    def _block(self, places: slice) -> Doubles:
        block = np.asarray(self.vectors[places if self.rows is None else self.rows[places]], np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = places.start + int(np.argmin(finite))
            row = row if self.rows is None else int(self.rows[row])
            raise InputError(f"vectors of {self.split!r} hold NaN or infinity, first in row {row}")
        return block.astype(np.float64)


@dataclass(frozen=True)
class Dequantised:
    """Reduced vectors as the task's features will be, made when rows are asked for.

    Attributes:
        stored: (n, d) 8-bit numbers.
        scale: (d,) of the columns.
    """

    stored: npt.NDArray[np.int8]
    scale: Vectors

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.stored.shape

    def __getitem__(self, rows: Any) -> Vectors:
        return np.asarray(self.stored[rows] * self.scale)


def checked_vectors(vectors: Mapping[str, VectorRows], sizes: Mapping[str, int]) -> dict[str, VectorRows]:
    """Return the vectors of every split, as arrays where they are lists.

    Raises:
        InputError: for a split that is missing, has not as many vectors as ``sizes`` says, or others of another width.
    """
    found: dict[str, VectorRows] = {}
    if not isinstance(vectors, Mapping):
        raise InputError(f"vectors are given by split, not as a {type(vectors).__name__}")
    for split, wanted in sizes.items():
        if split not in vectors:
            raise InputError(f"vectors have no {split!r} split; found: {', '.join(vectors)}")
        rows = vectors[split]
        try:
            rows = rows if hasattr(rows, "shape") else np.asarray(rows, np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"vectors of {split!r} are no numbers: {error}") from error
        dtype = getattr(rows, "dtype", np.dtype(np.float32))
        if isinstance(dtype, np.dtype) and dtype.kind not in "iufb":
            raise InputError(f"vectors of {split!r} have the type {dtype}: allowed are numbers")
        if len(rows.shape) != 2 or rows.shape[0] != wanted:
            raise InputError(f"vectors of {split!r} have the shape {tuple(rows.shape)}; allowed is ({wanted}, d)")
        found[split] = rows
    if len({rows.shape[1] for rows in found.values()}) != 1:
        raise InputError(f"vectors have different widths: { {split: rows.shape[1] for split, rows in found.items()} }")
    return found


def reduce_vectors(parts: Sequence[Part], dimensions: int) -> tuple[npt.NDArray[np.int8], Vectors, float]:
    """PCA fitted on the first part, scaled so that its first component has unit variance, int8 with a scale a column.

    Returns:
        The (rows, d) vectors of all parts, the (d,) scales, and the share of the variance that is kept.

    Raises:
        InputError: for a vector that is not finite, or training vectors that are all the same.
    """
    train = parts[0]
    mean, components, explained = _principal_components(train, dimensions)
    shift = mean[None, :] @ components.T

    def project(block: Doubles) -> Doubles:
        reduced = block @ components.T
        reduced -= shift
        return np.asarray(reduced)

    largest = np.zeros(len(components))
    first = _Spread()
    for _, block in train.blocks():
        reduced = project(block)
        np.maximum(largest, np.maximum(reduced.max(axis=0), -reduced.min(axis=0)), out=largest)
        first.add(reduced[:, 0])
    spread = first.deviation
    largest /= spread
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    quantised = np.empty((sum(map(len, parts)), len(components)), np.int8)
    start = 0
    for part in parts:
        for places, block in part.blocks():
            reduced = project(block)
            reduced /= spread
            reduced /= scale
            np.clip(np.rint(reduced, out=reduced), -127, 127, out=reduced)
            quantised[start + places.start : start + places.stop] = reduced
        start += len(part)
    return quantised, scale, explained


class _Spread:
    """The standard deviation of numbers that come in parts (Chan, Golub and LeVeque 1979, equation 2.1)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Doubles) -> None:
        count, mean = len(values), float(values.mean())
        total, difference = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + difference**2 * self.count * count / total
        self.mean = mean if self.count == 0 else self.mean + difference * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self.squares / self.count))


def _principal_components(train: Part, dimensions: int) -> tuple[Doubles, Doubles, float]:
    """Return the mean (D,), the components (d, D), and the share of the variance that they keep.

    The covariance is summed over blocks and its eigenvectors are taken, as scikit-learn's ``covariance_eigh`` does for
    rows in memory: one block gives the same bits, which the digests of all tasks so far depend on. Where there are fewer
    rows than columns, scikit-learn does it.
    """
    rows, width = len(train), train.vectors.shape[1]
    kept = min(dimensions, width, max(1, rows - 1))
    total = np.zeros(width)
    gram = np.zeros((width, width))
    lowest, highest = np.full(width, np.inf), np.full(width, -np.inf)
    for _, block in train.blocks():
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
        if rows > width:
            total += block.sum(axis=0)
            gram += block.T @ block
    if not (highest - lowest).max() > 0:
        raise InputError("all training vectors are the same: nothing can be clustered")
    if rows <= width:
        decomposition = require("sklearn.decomposition", "build")
        data = np.concatenate([block for _, block in train.blocks()])
        pca: Any = decomposition.PCA(kept, svd_solver="full").fit(data)
        return pca.mean_, pca.components_, float(pca.explained_variance_ratio_.sum())
    mean = total / rows
    gram -= rows * mean[:, None] * mean[None, :]
    gram /= rows - 1
    values, vectors = np.linalg.eigh(gram)
    values, components = np.maximum(values[::-1], 0), vectors[:, ::-1].T
    largest = components[np.arange(width), np.abs(components).argmax(axis=1)]
    components = (components * np.sign(largest)[:, None])[:kept].copy()
    return mean, components, float((values / values.sum())[:kept].sum())
