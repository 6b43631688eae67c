"""Rows of text with labels, in three splits: the way in for everybody's data."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError, check_whole, require
from dsenv.labels import SURROGATE, plain_cell, read_classes
from dsenv.reading import convert, read_json
from dsenv.seeding import generator
from dsenv.splits import HELD_OUT, cut_record, cut_rows, text_key
from dsenv.splits import Ints as Ints
from dsenv.tables import SUFFIXES, as_columns, is_table, read_table

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
ALSO = {"validation": ("valid", "val", "dev")}  # other names of a split's file
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
INSTRUCTIONS = ("prompt", "response")  # columns of instruction data, where nothing else is said


class _Meta(TypedDict, total=False):
    """What is read of a dataset's meta; it may hold more."""

    title: str
    sources: list[dict[str, Any]]
    licence: str


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in the order of their file.

    Attributes:
        texts: n strings, none empty.
        labels: (n,) class ids.
        pairs: n second texts (inference data), or None.
        sources: n names of where a row comes from, or None.
        responses: n responses to the texts, which are prompts then (instruction data: all have the class 0), or None.
        numbers: (n,) row ids, in the table that the split was cut from say; None: 0 to n - 1.
    """

    texts: list[str]
    labels: Ints
    pairs: list[str] | None = None
    sources: list[str] | None = None
    responses: list[str] | None = None
    numbers: Ints | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def strata(self) -> Ints:
        """(n,) ids of the groups that share label and source: what every stratified draw is stratified by."""
        if self.sources is None:
            return self.labels
        names = {name: number for number, name in enumerate(sorted(set(self.sources)))}
        return self.labels * len(names) + np.array([names[name] for name in self.sources], np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 over every row; its number is left out."""
        found = hashlib.sha256()
        self.add_to(found)
        return found.hexdigest()

    def add_to(self, digest: Any) -> None:
        """Update a hash with every row."""
        for column in (self.texts, self.pairs, self.sources, self.responses):
            for text in column or ():
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(4, "little"))
                digest.update(data)
        digest.update(self.labels.astype("<i8").tobytes())

    @property
    def ids(self) -> Ints:
        """(n,) the row ids by which a selection names rows."""
        return np.arange(len(self)) if self.numbers is None else self.numbers

    def take(self, places: Sequence[int] | Ints) -> Rows:
        """Return the rows at these places 0 to n - 1, in the order given."""
        chosen = [int(i) for i in places]

        def pick(column: list[str] | None) -> list[str] | None:
            return None if column is None else [column[i] for i in chosen]

        return Rows(
            [self.texts[i] for i in chosen],
            self.labels[chosen],
            pick(self.pairs),
            pick(self.sources),
            pick(self.responses),
            self.ids[chosen],
        )

    def places(self, ids: Sequence[int] | Ints) -> Ints:
        """Return where the rows with these ids stand.

        Raises:
            InputError: for an id that no row has.
        """
        asked, known = np.asarray(ids, np.int64), self.ids
        order = np.argsort(known, kind="stable")
        found = order[np.minimum(np.searchsorted(known, asked, sorter=order), len(known) - 1)]
        missing = asked[known[found] != asked]
        if len(missing):
            allowed = f"0 to {len(known) - 1}" if self.numbers is None else "those that were not held out"
            raise InputError(f"row id {missing[0]} is not in the train split: allowed are {allowed}")
        return found


@dataclass(frozen=True)
class TextDataset:
    """Labelled texts, or prompts with responses, with a train, a validation and a test split.

    Attributes:
        name: a short name; it becomes the task's name.
        train: the pool that rows are selected from.
        validation: cut into the reward and the selection half by a task.
        test: read once, by the final result.
        class_names: one name a class, in the order of the class ids.
        meta: what is known of the dataset (title, sources, licences); JSON-able.
        derivation: how it was made from another dataset (label noise, target source); JSON-able.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows
    class_names: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    derivation: dict[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Rows]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every row of every split: what a selection is bound to."""
        digest = hashlib.sha256()
        for split, rows in self.splits.items():
            digest.update(f"{split}:{len(rows)};".encode())
            rows.add_to(digest)
        return digest.hexdigest()

    def with_label_noise(self, share: float, seed: int = 0) -> TextDataset:
        """Give a share of the training rows another class, drawn uniformly from the other classes.

        Args:
            share: of the training rows, 0 to 1; the rows are drawn uniformly.
            seed: of the draw.

        Raises:
            InputError: for a share outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise InputError(f"label noise {share!r} is not a share: allowed are 0 to 1")
        if len(self.class_names) < 2:
            raise InputError(f"label noise needs classes, and the rows of {self.name!r} have none")
        rng = generator(seed, "label noise")
        labels = self.train.labels.copy()
        flipped = rng.permutation(len(labels))[: round(share * len(labels))]
        classes = len(self.class_names)
        labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
        how = {"label_noise": share, "label_noise_seed": seed}
        return replace(self, train=replace(self.train, labels=labels), derivation={**self.derivation, **how})

    def with_target_source(self, source: str) -> TextDataset:
        """Keep only one source's rows in validation and test: the pool is then not the target.

        Raises:
            InputError: where the dataset has no sources, or none of this name in a split.
        """
        kept = {}
        for split in ("validation", "test"):
            rows = self.splits[split]
            if rows.sources is None:
                raise InputError(f"dataset {self.name!r} has no 'source' column, so no target source can be chosen")
            ids = [i for i, name in enumerate(rows.sources) if name == source]
            if not ids:
                known = ", ".join(sorted(set(rows.sources)))
                raise InputError(f"no {split} row has the source {source!r}; sources: {known}")
            kept[split] = rows.take(ids)
        how = {"target_source": source}
        return replace(self, validation=kept["validation"], test=kept["test"], derivation={**self.derivation, **how})

    def derive(self, derivation: Mapping[str, Any]) -> TextDataset:
        """Apply what another dataset of the same rows was derived by (its ``derivation``)."""
        derived = self
        if "label_noise" in derivation:
            derived = derived.with_label_noise(derivation["label_noise"], derivation["label_noise_seed"])
        if "target_source" in derivation:
            derived = derived.with_target_source(derivation["target_source"])
        return derived

    @property
    def is_instructions(self) -> bool:
        """Whether rows are prompts with responses, without classes."""
        return self.train.responses is not None

    @classmethod
    def from_table(cls, table: Any, **options: Any) -> TextDataset:
        """Make a dataset from one table; validation and test, a tenth each, are cut out of it.

        Args:
            table: a file (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``), a dict of lists, a pandas DataFrame or a
                ``datasets.Dataset``. A row's id is its number in it, from 0.
            options: as in ``from_columns``.

        Raises:
            InputError: for a file that cannot be read, or anything ``from_columns`` refuses.
        """
        if isinstance(table, (str, Path)):
            options = {"name": Path(table).stem, **options}
            table = read_table(table)
        meta = {**_label_names(table, options.get("label", "label")), **(options.pop("meta", None) or {})}
        return cls.from_columns({"train": table}, meta=meta, **options)

    @classmethod
    def from_columns(
        cls,
        splits: Mapping[str, Any],
        *,
        name: str = "own",
        text: str | None = None,
        label: str = "label",
        text_pair: str = "text_pair",
        source: str = "source",
        response: str | None = None,
        meta: Mapping[str, Any] | None = None,
        split_seed: int = 0,
    ) -> TextDataset:
        """Make a dataset from columns: lists, arrays, or a pandas / datasets table for each split.

        A split that is missing is cut out of the training rows: a tenth, seeded, stratified by class and source, with
        duplicate texts kept together. ``meta["split"]`` records it.

        Args:
            splits: ``{"train": table, "validation": table, "test": table}``; a table maps column names to sequences
                of equal length (a dict of lists, a pandas DataFrame, a ``datasets.Dataset``).
            name: of the dataset.
            text: name of the column of texts, or of prompts; default: ``text``.
            label: name of the column of labels; it must be there, but for instruction data.
            text_pair: name of the column of second texts; it may be there.
            source: name of the column of sources; it may be there.
            response: name of the column of responses: the rows are instruction data then, without labels. Default:
                ``response``, where there are columns ``prompt`` and ``response`` and neither text nor label.
            meta: what is known of the dataset; ``label_names`` in it names the classes 0, 1, ...
            split_seed: of the cut.

        Raises:
            InputError: for no training rows, a missing column, an empty text, fewer than two classes in training, a label
                that training does not have, or too few rows to cut.
        """
        info = {key: value for key, value in dict(meta or {}).items() if key != "split"}  # which is said below
        name = SURROGATE.sub("?", name)  # of a file whose name is not UTF-8
        try:
            convert({key: info[key] for key in _Meta.__annotations__ if key in info}, _Meta)
        except ValueError as error:
            raise InputError(f"what is known of {name!r} cannot be used: {error}") from error
        check_whole("split_seed", split_seed, 0)
        if "train" not in splits:
            raise InputError(f"dataset {name!r} has no 'train' split; found: {', '.join(map(str, splits)) or 'none'}")
        tables = {split: as_columns(splits[split]) for split in SPLITS if split in splits}
        plain = text is None and response is None
        if plain and not {"text", label} & set(tables["train"]) and set(INSTRUCTIONS) <= set(tables["train"]):
            text, response = INSTRUCTIONS
        text = text or "text"
        asked = {"text": text, "pairs": text_pair, "sources": source, "responses": response}
        rows = {split: _read_rows(table, asked, label, f"split {split!r} of {name!r}") for split, table in tables.items()}
        for column in ("pairs", "sources"):
            if len({getattr(found, column) is None for found in rows.values()}) > 1:
                raise InputError(f"column {asked[column]!r} of {name!r} is in some splits and not in others")
        names: tuple[str, ...] = ("response",)
        if response is None:
            labels = {split: list(table[label]) for split, table in tables.items()}
            names, ids = read_classes(info.get("label_names"), labels, name, label)
            rows = {split: replace(found, labels=ids[split]) for split, found in rows.items()}
        cut = [split for split in SPLITS if split not in rows]
        if cut:
            found = _cut(rows["train"], cut, split_seed)
            rows = {**rows, **{split: rows["train"].take(places) for split, places in found.items()}}
            info["split"] = cut_record(cut, split_seed)
            sizes = ", ".join(f"{split} {len(part)}" for split, part in rows.items())
            log.info(
                "%s: no %s split: cut out of the training rows with seed %d: %s", name, " and ".join(cut), split_seed, sizes
            )
        return cls(name, rows["train"], rows["validation"], rows["test"], names, info)

    @classmethod
    def from_folder(cls, folder: str | Path, **columns: Any) -> TextDataset:
        """Read the files ``train``, ``validation`` (``valid``, ``val``, ``dev``), ``test``, and ``meta.json`` if it is there.

        A missing ``validation`` or ``test`` is cut out of ``train``.

        Args:
            folder: the folder; its name becomes the dataset's.
            columns: ``text=``, ``label=`` and others where the columns have other names, as in ``from_columns``.

        Raises:
            InputError: for a missing folder, no training rows, an unreadable file, or anything ``from_columns`` refuses.
        """
        folder = Path(folder)
        tables = {split: read_split(folder, split) for split in SPLITS if split == "train" or split_files(folder, split)}
        meta_file = folder / "meta.json"
        meta: dict[str, Any] = {}
        if meta_file.is_file():
            meta = read_json(meta_file, dict[str, Any], "JSON object")
        return cls.from_columns(tables, name=folder.resolve().name, meta=meta, **columns)

    @classmethod
    def from_hub(cls, path: str, *, subset: str | None = None, revision: str | None = None, **columns: Any) -> TextDataset:
        """Load a dataset with the ``datasets`` library: a name on the Hugging Face hub, or a local folder of its layout.

        A missing ``validation`` or ``test`` is cut out of ``train``.

        Args:
            path: hub name (``owner/name``) or folder.
            subset: the configuration's name, where the dataset has several.
            revision: a commit, tag or branch of the hub repository.
            columns: as in ``from_columns``.

        Raises:
            InputError: where the hub or the dataset cannot be read, or ``from_columns`` refuses it.
            MissingExtraError: without the extra ``build``.
        """
        loaded = read_hub(path, subset, revision)
        label = columns.get("label", "label")
        meta: dict[str, Any] = {"hub_id": path, "hub_revision": revision}
        meta |= _label_names(loaded["train"], label) if "train" in loaded else {}
        return cls.from_columns(dict(loaded), name=Path(path).name, meta=meta, **columns)


def as_dataset(data: TextDataset | Any, labels: Sequence[Any] | npt.NDArray[Any] | None = None, **columns: Any) -> TextDataset:
    """Return a dataset of what a user has: itself, texts with labels, or a table, whose splits are cut.

    Args:
        data: a ``TextDataset``; n texts; a table as in ``TextDataset.from_table``; or tables by split, ``{"train": ...}``.
        labels: one a text.
        columns: names of a table's columns, as in ``TextDataset.from_columns``.

    Raises:
        InputError: for what ``TextDataset.from_columns`` refuses, or labels beside a dataset or a table.
    """
    table = isinstance(data, (str, Path, Mapping)) or hasattr(data, "columns") or hasattr(data, "column_names")
    if isinstance(data, Mapping) and "train" in data and not isinstance(data["train"], (list, tuple, np.ndarray)):
        meta = {**_label_names(data["train"], columns.get("label", "label")), **(columns.pop("meta", None) or {})}
        return TextDataset.from_columns(data, meta=meta, **columns)
    if labels is not None:
        if table or isinstance(data, TextDataset):
            raise InputError(f"labels= goes with texts; a {type(data).__name__} has its own (label= names a table's column)")
        return TextDataset.from_table({"text": list(data), "label": list(labels)}, **columns)
    if isinstance(data, TextDataset):
        if columns:
            raise InputError(f"{', '.join(columns)}: a TextDataset has its columns already")
        return data
    if not table:
        raise InputError("texts come with labels: build_task(texts, labels); prompts with responses are a table of both")
    return TextDataset.from_table(data, **columns)


def load_dataset(name: str | Path, data_dir: str | Path | None = None, **columns: Any) -> TextDataset:
    """Load a dataset by file, by folder, by its name below a data folder, or by its name on the Hugging Face hub.

    Args:
        name: a table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) or a folder; else a folder's name below ``data_dir``;
            else a hub name.
        data_dir: default: the environment variable ``DSENV_DATA_DIR``, where it is set.
        columns: as in ``TextDataset.from_columns``.

    Raises:
        InputError: where nothing of that name is found or it cannot be used.
    """
    if is_table(name):
        return TextDataset.from_table(name, **columns)
    folder = find_folder(name, data_dir)
    return TextDataset.from_hub(str(name), **columns) if folder is None else TextDataset.from_folder(folder, **columns)


def find_folder(name: str | Path, data_dir: str | Path | None = None) -> Path | None:
    """Return the folder of a dataset: itself, or below ``data_dir`` or ``DSENV_DATA_DIR``; None where it is a hub name.

    Raises:
        InputError: where nothing of that name is found and it is no hub name.
    """
    if _is_folder(name):
        return Path(name)
    base = data_dir or os.environ.get("DSENV_DATA_DIR")
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts  # a name leads to no folder elsewhere
    if base and inside and _is_folder(Path(base) / name):
        return Path(base) / name
    if not HUB_NAME.fullmatch(str(name)) or not inside:
        where = f"{str(base)!r} has no such folder" if base else "DSENV_DATA_DIR and data_dir are not set"
        raise InputError(f"no dataset {str(name)!r}: it is not a folder, {where}, and a hub name reads 'owner/name'")
    return None


def _is_folder(path: str | Path) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a name that is too long
        return False


def read_split(folder: Path, split: str) -> dict[str, list[Any]]:
    """Read the one file of a split in a folder as columns.

    Raises:
        InputError: where the folder has no or several files of that name, or the file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder")
    found = split_files(folder, split)
    if len(found) != 1:
        have = ", ".join(path.name for path in found) or "none of them"
        raise InputError(f"folder {str(folder)!r} must hold one of {split}{{{','.join(SUFFIXES)}}}; found {have}")
    return read_table(found[0])


def read_hub(path: str, subset: str | None = None, revision: str | None = None) -> Any:
    """Load all splits with the ``datasets`` library; no code of the dataset is run.

    Raises:
        InputError: where the hub or the dataset cannot be read.
        MissingExtraError: without the extra ``build``.
    """
    library = require("datasets", "build")
    try:
        return library.load_dataset(path, subset, revision=revision)
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        raise InputError(f"dataset {path!r} could not be loaded: {error}") from error


def stratified_sample(groups: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Draw ``size`` of the row ids 0..n-1 with each group at its share (largest remainder, at least one row a group).

    Args:
        groups: (n,) group id of each row.
        size: rows to draw, at most n.
        rng: where the draw comes from.

    Returns:
        (size,) row ids in ascending order.
    """
    values, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if not len(values) <= size <= len(groups):
        raise InputError(f"cannot draw {size} rows in {len(values)} groups from {len(groups)} rows")
    share = np.maximum(largest_remainder(counts.astype(np.float64), size), 1)
    while share.sum() > size:
        share[np.argmax(share)] -= 1
    order = rng.permutation(len(groups))
    chosen = [order[inverse[order] == group][: share[group]] for group in range(len(values))]
    drawn: Ints = np.sort(np.concatenate(chosen))
    return drawn


def largest_remainder(weights: npt.NDArray[np.float64], total: int) -> Ints:
    """Split ``total`` into whole parts proportional to ``weights`` (ties go to the first)."""
    exact = weights * total / weights.sum()
    parts = np.floor(exact).astype(np.int64)
    parts[np.argsort(-(exact - parts), kind="stable")[: total - parts.sum()]] += 1
    return np.asarray(parts)


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a folder that are named as a split."""
    names = (split, *ALSO.get(split, ()))
    return [path for name in names for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]


def _label_names(table: Any, label: str) -> dict[str, list[str]]:
    """The names that a ``datasets.Dataset`` gives the classes 0, 1, ... of a column, if it does."""
    names = getattr((getattr(table, "features", None) or {}).get(label), "names", None)
    return {"label_names": list(names)} if names else {}


def _read_rows(table: Mapping[str, list[Any]], asked: Mapping[str, str | None], label: str, where: str) -> Rows:
    """Return the rows of a table, of class 0 all, by the names of its columns."""
    for what, column in (
        ("text", asked["text"]),
        ("response", asked["responses"]) if asked["responses"] else ("label", label),
    ):
        if column not in table:
            near = difflib.get_close_matches(str(column).lower(), [name.lower() for name in table], n=1)
            hint = next((f" Did you mean {name!r}?" for name in table if near and name.lower() == near[0]), "")
            known = ", ".join(map(repr, table))
            raise InputError(
                f"{where} has no column {column!r}.{hint} Name the {what} column ({what}=, --{what}); found: {known}"
            )
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the columns of {where} have different lengths: {lengths}")

    def texts(name: str) -> list[str] | None:
        column = asked[name]
        if column is None or column not in table:
            return None
        values = [plain_cell(value) for value in table[column]]
        if name == "sources":
            values = [value if value is None else str(value) for value in values]
        return _texts(values, f"column {column!r} of {where}")

    found = texts("text") or []
    if not found:
        raise InputError(f"{where} has no rows")
    return Rows(found, np.zeros(len(found), np.int64), texts("pairs"), texts("sources"), texts("responses"))


def _cut(rows: Rows, cut: Sequence[str], seed: int) -> dict[str, Ints]:
    """Return the places of the training rows that stay and of those that are cut out of them."""
    seconds = rows.pairs or [""] * len(rows)
    keys = [(text_key(text), text_key(second)) for text, second in zip(rows.texts, seconds, strict=True)]
    strata = rows.strata
    if len(rows) * HELD_OUT < len(np.unique(strata)):  # sources of a few rows each have no tenth
        strata = rows.labels
    return cut_rows(keys, strata.tolist(), cut, seed)


def _texts(values: Sequence[Any], where: str) -> list[str]:
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"row {number} of {where} is {value!r}, not a text")
        if not value.strip():
            raise InputError(f"row {number} of {where} is empty")
        if not value.isascii() and SURROGATE.search(value):
            raise InputError(f"row {number} of {where} holds half a character (a lone surrogate), which no file can hold")
    return list(values)
