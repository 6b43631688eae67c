"""Small data of every schema, made here; real data only where DSENV_DATA_DIR names it."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small problems: threads of BLAS and torch only wait for each other

import numpy as np
import pytest

from dsenv.building import build_task
from dsenv.dataset import TextDataset
from dsenv.llama2c import convert_llama2c
from dsenv.synthetic import synthetic_texts
from dsenv.task import SelectionTask
from tests.llama2c_files import write_tiny

WORDS = {
    "good": ["lovely", "superb", "kind", "bright"],
    "bad": ["awful", "broken", "rude", "dull"],
    "so": ["plain", "usual", "grey", "common"],
}


def tiny_columns(rows: int, seed: int, pairs: bool = False) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(WORDS), rows, p=[0.5, 0.3, 0.2]).tolist()
    labels[:3] = list(WORDS)
    texts = [" ".join(rng.choice(WORDS[label] + ["the", "app", "is"], 6)) + f" {i} {seed}" for i, label in enumerate(labels)]
    columns = {"text": texts, "label": labels, "source": rng.choice(["web", "shop"], rows).tolist()}
    if pairs:
        columns["text_pair"] = [" ".join(rng.choice(WORDS[label], 3)) for label in labels]
    return columns


def tiny_splits(pairs: bool = False, rows: int = 240) -> dict[str, dict[str, list]]:
    return {
        "train": tiny_columns(rows, 1, pairs),
        "validation": tiny_columns(80, 2, pairs),
        "test": tiny_columns(60, 3, pairs),
    }


@pytest.fixture(scope="session")
def tiny() -> TextDataset:
    return TextDataset.from_columns(tiny_splits(), name="tiny")


@pytest.fixture(scope="session")
def tiny_task(tiny, tmp_path_factory) -> SelectionTask:
    return build_task(tiny, encoder="tfidf", clusters=12, dimensions=64, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def own_task_file(tiny_task, tmp_path_factory) -> str:
    return str(tiny_task.save(tmp_path_factory.mktemp("task") / "tiny.npz"))


@pytest.fixture(scope="session")
def texts() -> TextDataset:
    return synthetic_texts(rows=300, held_out=60)


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> str:
    """Folder of a random causal checkpoint of a few thousand weights."""
    folder = tmp_path_factory.mktemp("llama")
    return str(convert_llama2c(write_tiny(folder / "source", seq_len=512), folder / "model"))


@pytest.fixture(scope="session")
def stories(tmp_path_factory) -> tuple[Path, Path]:
    """The real llama2.c checkpoint stories260K, and the folder it was converted to."""
    if "DSENV_MODEL_DIR" not in os.environ:
        pytest.skip("DSENV_MODEL_DIR is not set: no stories260K here")
    source = Path(os.environ["DSENV_MODEL_DIR"]) / "stories260K"
    return source, convert_llama2c(source, tmp_path_factory.mktemp("stories") / "model")


@pytest.fixture
def data_dir() -> Path:
    if "DSENV_DATA_DIR" not in os.environ:
        pytest.skip("DSENV_DATA_DIR is not set: no real datasets here")
    return Path(os.environ["DSENV_DATA_DIR"])
