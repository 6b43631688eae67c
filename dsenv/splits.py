"""Splits where there are none: cut with duplicates kept together; and duplicates that stand in two of them."""

from __future__ import annotations

import difflib
import logging
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError
from dsenv.seeding import generator

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

HELD_OUT = 0.1  # share of each split that is cut out of the training rows
FEWEST = {"train": 2, "validation": 2, "test": 1}
NEAR = 0.95  # cosine of two vectors whose texts are compared
SIMILAR = 0.9  # difflib's ratio of two texts that are near-duplicates
LONG = 1_000  # letters
LOOKED_AT = 2_000  # held-out rows, at most


def text_key(text: str) -> str:
    """Return a text as duplicates are found by: Unicode NFC, white space collapsed, case folded."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def cut_rows(keys: Sequence[Hashable], strata: Sequence[Hashable], cut: Sequence[str], seed: int = 0) -> dict[str, Ints]:
    """Cut rows into ``train`` and held-out splits of a tenth each, every stratum at its share.

    Rows with the same key go together; where their strata differ, to ``train``. Every stratum has a row in ``train``.

    Args:
        keys: n, equal for duplicates.
        strata: n, the class of each row say.
        cut: the held-out splits, ``validation`` and ``test`` say.
        seed: of the draw.

    Returns:
        Row numbers of every split, ascending.

    Raises:
        InputError: where there are too few rows.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    listed = list(groups.values())
    found: dict[str, list[int]] = {split: [] for split in ("train", *cut)}
    inside: dict[Hashable, list[list[int]]] = {}
    for number in generator(seed, "splits").permutation(len(listed)).tolist():
        rows = listed[number]
        if len({strata[row] for row in rows}) > 1:
            found["train"] += rows
        else:
            inside.setdefault(strata[rows[0]], []).append(rows)
    room = dict.fromkeys(found, 0.0)  # what is left of a stratum's share goes to the next
    for stratum in inside.values():
        stratum.sort(key=len, reverse=True)  # the large ones while every split has room
        total = sum(map(len, stratum))
        for split in found:
            room[split] += total * (HELD_OUT if split in cut else 1 - HELD_OUT * len(cut))
        for number, rows in enumerate(stratum):
            split = max(room, key=room.__getitem__) if number else "train"
            found[split] += rows
            room[split] -= len(rows)
    for split, rows in found.items():
        if len(rows) < FEWEST[split]:
            raise InputError(
                f"{len(keys)} rows, {len(listed)} of them different, cannot be cut into {', '.join(found)}: {split} would "
                f"have {len(rows)}; give more rows, or the splits"
            )
    return {split: np.sort(np.array(rows, np.int64)) for split, rows in found.items()}


def cut_record(cut: Sequence[str], seed: int) -> dict[str, Any]:
    """Return what a dataset's or a task's metadata says of splits that were cut."""
    return {"cut": list(cut), "share": HELD_OUT, "seed": seed}


def near_duplicates(
    train: npt.NDArray[np.floating],
    held_out: npt.NDArray[np.floating],
    train_texts: Sequence[str],
    held_out_texts: Sequence[str],
) -> list[tuple[int, int]]:
    """Return (held-out row, training row) pairs whose texts differ by little.

    Of every held-out row the nearest training row is looked at: their vectors' cosine is at least .95, and their letters
    and digits agree by at least .9 (``difflib``; of texts above 1,000 letters the sets of three words in a row do).

    Args:
        train: (n, d) vectors.
        held_out: (m, d) vectors.
        train_texts: n texts.
        held_out_texts: m texts.
    """
    norms = np.maximum(np.linalg.norm(held_out, axis=1, keepdims=True), 1e-12)
    asked = (held_out / norms).astype(np.float32)
    best, nearest = np.full(len(asked), -np.inf, np.float32), np.zeros(len(asked), np.int64)
    for start in range(0, len(train), 4096):
        part = np.asarray(train[start : start + 4096], np.float32)
        part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        cosines = asked @ part.T
        first = cosines.argmax(1)
        value = cosines[np.arange(len(asked)), first]
        better = value > best
        best[better], nearest[better] = value[better], first[better] + start
    candidates = np.flatnonzero(best >= NEAR).tolist()
    return [(row, int(nearest[row])) for row in candidates if _alike(held_out_texts[row], train_texts[int(nearest[row])])]


def _alike(one: str, other: str) -> bool:
    one, other = _letters(one), _letters(other)
    if one == other:
        return True
    if min(len(one), len(other)) > LONG:  # difflib's time grows with the square
        ours, theirs = _triples(one), _triples(other)
        return len(ours & theirs) >= SIMILAR * len(ours | theirs)
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return all(ratio() >= SIMILAR for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))


def _triples(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def warn_of_duplicates(
    name: str, vectors: Mapping[str, npt.NDArray[np.floating]], texts: Mapping[str, Sequence[str]], ids: Mapping[str, Ints]
) -> int:
    """Look for near-duplicates of training rows in the held-out splits, log a warning where there are any, count them.

    Args:
        name: of the dataset.
        vectors: (n, d) of every split.
        texts: n of every split.
        ids: (n,) row ids that the warning names.
    """
    found = 0
    for split in ("validation", "test"):
        rows = np.arange(len(texts[split]))
        if len(rows) > LOOKED_AT:
            rows = np.sort(generator(0, "near-duplicates").permutation(len(rows))[:LOOKED_AT])
        asked = [texts[split][row] for row in rows.tolist()]
        pairs = near_duplicates(vectors["train"], np.asarray(vectors[split])[rows], texts["train"], asked)
        if pairs:
            row, twin = pairs[0]
            log.warning(
                "%s: %d of %d rows looked at in %s are near-duplicates of training rows (row %d of training row %d, say): "
                "scores on them are too good for selections with those rows; better keep one of each pair",
                *(name, len(pairs), len(rows), split, ids[split][rows[row]], ids["train"][twin]),
            )
        found += len(pairs)
    return found


def _letters(text: str) -> str:
    return re.sub(r"\W+", " ", text_key(text)).strip()
