"""The task file: an archive of arrays (``dsenv.archives``), what they must be for a task, and how it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from dsenv.archives import Arrays, Shape, read_arrays
from dsenv.errors import InputError, TaskFileError
from dsenv.files import atomic_write
from dsenv.reading import Whole, check_file, convert

FORMAT = 1
TRAIN, REWARD, SELECTION, TEST, UNUSED = 0, 1, 2, 3, -1
CLUSTERINGS = ("stratified", "kmeans")

MOST_COLUMNS = 4096  # of the vectors: a model's normal matrix has the square of it
LARGEST_SCALE = 1e9

# The kinds of numbers, and the shape, of every array: rows n, columns d, columns of responses m, the pool's rows p.
_FORMS = {
    "vectors": ("i", "nd"),
    "column_scale": ("f", "d"),
    "responses": ("i", "nm"),
    "response_scale": ("f", "m"),
    "labels": ("i", "n"),
    "sources": ("i", "n"),
    "split": ("i", "n"),
    "train_rows": ("i", "p"),
    "row_ids": ("i", "p"),
    **{f"{part}_{name}": ("i", "p") for part in ("cluster", "position") for name in CLUSTERINGS},
    "tables": ("f", "ts"),
}
_NEEDED = {"vectors", "column_scale", "labels", "sources", "split", "train_rows"}
_PAIRS = {"responses": "response_scale", "response_scale": "responses"}


class Facts(TypedDict):
    """What the metadata must hold, for the task as stored and at each of its variants; it may hold more."""

    name: str
    class_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    source_names: list[str]
    clusterings: Annotated[list[Literal["stratified", "kmeans"]], msgspec.Meta(min_length=1)]
    derivation: dict[str, Any]
    fingerprint: str
    regularisation: Annotated[float, msgspec.Meta(gt=0, le=LARGEST_SCALE)]
    reported: Literal["accuracy", "macro_f1"]
    rows: dict[str, Whole]
    sources: NotRequired[list[Any]]
    reference: NotRequired[dict[str, Any]]
    tabulated_picks: NotRequired[Annotated[int, msgspec.Meta(ge=1, le=64)]]
    variants: NotRequired[dict[str, dict[str, Any]]]


def read_task_file(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and the metadata of a task file, all of them checked.

    Raises:
        InputError: where there is no such file.
        TaskFileError: where it is truncated, altered, of another version, or holds what no task can be.
    """
    check_file(path, "task file")
    try:
        arrays = read_arrays(path, _kinds)
        metadata = json.loads(arrays.pop("metadata").tobytes())
        digest, said = "", arrays.pop("digest").tobytes().hex()
        if isinstance(metadata, dict) and metadata.get("format") == FORMAT:
            digest = task_digest(arrays, metadata)
    except (ValueError, KeyError, RecursionError) as error:
        raise TaskFileError(f"{str(path)!r} is not a readable task file: {error}") from error
    if not digest:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise TaskFileError(f"{str(path)!r} has format version {str(found)[:60]}; this dsenv reads version {FORMAT}")
    if digest != said:
        raise TaskFileError(f"{str(path)!r} was altered: its digest is {digest}, it says {said[:64]}")
    try:
        check_task(arrays, metadata)
    except ValueError as error:
        raise TaskFileError(f"{str(path)!r} holds no task: {error}") from error
    return arrays, metadata


def write_task_file(path: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Write a task file, atomically.

    Raises:
        InputError: where the path's name does not end in ``.npz``, or ``read_task_file`` would refuse the file.
    """
    if path.suffix != ".npz":
        raise InputError(f"a task file's name ends in .npz, not {path.name!r}")
    try:
        check_task(arrays, metadata)
    except ValueError as error:
        raise InputError(f"a task file cannot hold this task: {error}") from error
    digest = np.frombuffer(bytes.fromhex(task_digest(arrays, metadata)), np.uint8)
    stored = {**arrays, "metadata": _json_array(metadata), "digest": digest}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **stored)


def task_digest(arrays: Arrays, metadata: Mapping[str, Any]) -> str:
    """Return SHA-256 over names, dtypes, shapes and bytes of all arrays and the metadata."""
    digest = hashlib.sha256()
    for name, array in sorted({**arrays, "metadata": _json_array(metadata)}.items()):
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # no copy of the vectors
    return digest.hexdigest()


def check_task(arrays: Arrays, metadata: Mapping[str, Any]) -> None:
    """Check that the arrays and the metadata make a task, at every variant.

    Raises:
        ValueError: naming what does not fit.
    """
    variants = convert({"variants": {}, **metadata}, Facts)["variants"]
    for name in arrays:
        if _owner(name) and _owner(name) not in variants:
            raise ValueError(f"the array {name!r} is of no variant that the metadata names")
    for variant in ("", *variants):
        if variant and not variant.isidentifier():
            raise ValueError(f"variant {variant!r} is no identifier")
        seen = {name.rpartition(":")[2]: arrays[name] for owner in ("", variant) for name in arrays if _owner(name) == owner}
        facts = convert({**metadata, **variants.get(variant, {}), "variants": {}}, Facts)
        try:
            _check_view(seen, facts)
        except ValueError as error:
            raise ValueError(f"{error} (variant {variant!r})" if variant else str(error)) from error


def _owner(name: str) -> str:
    """The variant that an array is of; "" for the task as stored."""
    return name.rpartition(":")[0]


def _check_view(arrays: Arrays, facts: Facts) -> None:
    """Check the arrays of one variant: shapes among each other, then values."""
    if missing := _NEEDED - set(arrays):
        raise ValueError(f"the array {min(missing)!r} is missing")
    for name, other in _PAIRS.items():
        if name in arrays and other not in arrays:
            raise ValueError(f"the array {other!r} is missing beside {name!r}")
    _check_shapes({name: array.shape for name, array in arrays.items()})
    for name in ("column_scale", "response_scale", "tables"):
        if name in arrays and not (np.abs(arrays[name]) <= LARGEST_SCALE).all():
            raise ValueError(f"{name} has values that are not finite, or beyond {LARGEST_SCALE:g}")
    split, pool = arrays["split"], len(arrays["train_rows"])
    _check_range("split", split, UNUSED, TEST)
    for what, code in (("training", TRAIN), ("reward", REWARD), ("selection", SELECTION), ("test", TEST)):
        if not (split == code).any():
            raise ValueError(f"there are no {what} rows")
    if (found := int((split == TRAIN).sum())) != pool:
        raise ValueError(f"split has {found} training rows, train_rows {pool}")
    _check_range("labels", arrays["labels"], 0, len(facts["class_names"]) - 1)
    _check_range("sources", arrays["sources"], -1, len(facts["source_names"]) - 1)
    for name in ("train_rows", "row_ids"):
        if name in arrays:
            _check_range(name, arrays[name], 0, 2**62)
            if len(np.unique(arrays[name])) < pool:
                raise ValueError(f"{name} has a row twice")
    for name in facts["clusterings"]:
        if missing := {f"cluster_{name}", f"position_{name}"} - set(arrays):
            raise ValueError(f"the array {min(missing)!r} is missing")
        _check_clustering(name, arrays[f"cluster_{name}"], arrays[f"position_{name}"])
    if "tables" in arrays and "tabulated_picks" not in facts:
        raise ValueError("tabulated_picks is missing beside the array 'tables'")


def _check_clustering(name: str, cluster: npt.NDArray[Any], position: npt.NDArray[Any]) -> None:
    _check_range(f"cluster_{name}", cluster, 0, len(cluster) - 1)
    sizes = np.bincount(cluster)
    if not sizes.all():
        raise ValueError(f"cluster {int(np.argmin(sizes))} of {name!r} is empty")
    order = np.lexsort((position, cluster))
    places = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if not np.array_equal(position[order], places):
        raise ValueError(f"position_{name} does not number the rows of every cluster from 0")


def _check_range(name: str, values: npt.NDArray[Any], least: int, most: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < least or high > most:
        raise ValueError(f"{name} has values from {low} to {high}: allowed are {least} to {most}")


def _check_shapes(shapes: Mapping[str, Shape]) -> None:
    """Check the shapes of one variant's arrays against each other."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name not in _FORMS:
            raise ValueError(f"the array {name!r} is unknown")
        letters = _FORMS[name][1]
        if len(shape) != len(letters) or min(shape) < 1:
            raise ValueError(f"{name} has the shape {shape}: {len(letters)} sizes from 1 are needed")
        for letter, size in zip(letters, shape, strict=True):
            known, owner = sizes.setdefault(letter, (size, name))
            if size != known:
                raise ValueError(f"{name} has the shape {shape}, which does not fit {owner} {shapes[owner]}")
            if letter in "dm" and size > MOST_COLUMNS:
                raise ValueError(f"{name} has {size} columns: allowed are up to {MOST_COLUMNS}")


def _kinds(name: str) -> str:
    """The kinds of types that an array may have, "" where a task has no such array."""
    return "u" if name in ("metadata", "digest") else _FORMS.get(name.rpartition(":")[2], ("", ""))[0]


def _json_array(value: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace"), np.uint8)
