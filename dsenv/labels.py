"""Labels as users have them to class ids: numbers or texts, and what is refused."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError
from dsenv.reading import LARGEST
from dsenv.splits import Ints

log = logging.getLogger(__name__)

NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character
MOST_CLASSES = 50  # beyond which a column of mostly different labels is taken for a mistake


def class_ids(labels: Sequence[Any] | npt.NDArray[Any], name: str = "own") -> tuple[tuple[str, ...], Ints]:
    """Return the class names, in order, and the class ids (n,) of labels, whole numbers or texts.

    Raises:
        InputError: for labels of both kinds, or of one class only.
    """
    names, ids = read_classes(None, {"train": list(labels)}, name, "labels")
    return names, ids["train"]


def read_classes(
    declared: Sequence[str] | None, labels: Mapping[str, list[Any]], name: str, column: str
) -> tuple[tuple[str, ...], dict[str, Ints]]:
    """Return the class names, in order, and the class ids (n,) of the labels of every split.

    Args:
        declared: names of the classes 0, 1, ..., where they are known; else what training has, sorted.
        labels: of every split, ``train`` among them; whole numbers, texts, or texts of whole numbers (as files hold them).
        name: of the dataset, for errors.
        column: of the labels, for errors.

    Raises:
        InputError: for a missing label, labels of two kinds, one class only, labels that are different in most rows, or one
            that training does not have.
    """
    plain = {split: [plain_cell(value) for value in values] for split, values in labels.items()}
    for split, values in plain.items():
        for number, value in enumerate(values):
            if value is None or (isinstance(value, str) and not value.strip()):
                raise InputError(f"row {number} of column {column!r} of split {split!r} of {name!r} is empty: no label")
            where = f"row {number} of column {column!r} of split {split!r} of {name!r}"
            if isinstance(value, str) and SURROGATE.search(value):
                raise InputError(f"{where} holds half a character (a lone surrogate), which no file can hold")
            if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
                raise InputError(f"{where} is a number of {value.bit_length()} bits: allowed are whole numbers of 64")
    if declared is not None:
        if isinstance(declared, str) or not isinstance(declared, Sequence) or len(set(map(str, declared))) != len(declared):
            raise InputError(f"label_names of {name!r} are {declared!r}: a list of different names is needed")
        names = tuple(str(value) for value in declared)
        codes: dict[Any, int] = {**{value: i for i, value in enumerate(names)}, **{i: i for i in range(len(names))}}
        codes |= {str(i): i for i in range(len(names)) if str(i) not in codes}
    else:
        _check_kinds(plain["train"], name, column)
        known = set(plain["train"])
        numbers = all(isinstance(value, str) and NUMBER.fullmatch(value) for value in known)  # as files hold them
        values = sorted(known, key=int) if numbers else sorted(known)
        names = tuple(str(value) for value in values)
        codes = {value: i for i, value in enumerate(values)} | {str(value): i for i, value in enumerate(values)}
        if numbers:
            codes |= {int(value): i for i, value in enumerate(values)}
        _check_classes(plain["train"], name, column)
    ids = {}
    for split, values in plain.items():
        for number, value in enumerate(values):
            if not isinstance(value, (int, str)) or value not in codes:
                allowed = f"0 to {len(names) - 1}" if declared is not None else ", ".join(names[:20])
                raise InputError(
                    f"row {number} of split {split!r} of {name!r} has the label {value!r} in column {column!r}; "
                    f"allowed: {allowed}"
                )
        ids[split] = np.array([codes[value] for value in values], np.int64)
    if len(np.unique(ids["train"])) < 2:
        raise InputError(f"the training rows of {name!r} have one class only in column {column!r}; at least two are needed")
    return names, ids


def _check_classes(values: Sequence[Any], name: str, column: str) -> None:
    """Refuse what is no label; say which classes may be one.

    Raises:
        InputError: where most labels are different.
    """
    counts = Counter(values)
    if len(counts) > MOST_CLASSES and 2 * len(counts) > len(values):
        raise InputError(
            f"column {column!r} of {name!r} has {len(counts)} different labels in {len(values)} rows: is it an id?"
        )
    alike: dict[str, list[str]] = {}
    for value in counts:
        alike.setdefault(" ".join(str(value).split()).casefold(), []).append(str(value))
    for spelled in alike.values():
        if len(spelled) > 1:
            log.warning("%s: labels %s of column %r are different classes", name, " and ".join(map(repr, spelled)), column)


def plain_cell(value: Any) -> Any:
    """A cell as Python has it: None where it is missing, whole numbers that pandas made floats of whole again."""
    value = value.item() if isinstance(value, np.generic) else value
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own, which compare to nothing
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _check_kinds(values: Sequence[Any], name: str, column: str) -> None:
    """Refuse labels of which some are numbers and some are texts: in a CSV file, the odd ones among mostly numbers."""

    def kind(value: Any) -> str:
        return "a whole number" if isinstance(value, str) and NUMBER.fullmatch(value) else type(value).__name__

    kinds = [kind(value) for value in values]
    texts = {"a whole number", "str"}
    numbers = kinds.count("a whole number")
    usual = kinds[0] if not set(kinds) <= texts else "a whole number" if 2 * numbers >= len(kinds) else "str"
    odd = next((row for row, found in enumerate(kinds) if found != usual), None)
    if usual == "str" and set(kinds) <= texts:
        return  # a name such as "404" among names
    if odd is not None or usual not in ("int", "str", "bool", "a whole number"):
        row = odd or 0
        others = "" if odd is None else f", others are {usual}"
        raise InputError(
            f"labels of {name!r} must all be whole numbers or all be texts: row {row} of column {column!r} is {values[row]!r} "
            f"({kinds[row]}){others}"
        )
