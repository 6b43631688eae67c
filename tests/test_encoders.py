"""Texts to vectors: the packaged weights are checked, the cache resumes, TF-IDF sees training texts only."""

import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsenv import encoders
from dsenv.dataset import TextDataset
from dsenv.encoders import SentenceEncoder, TfidfEncoder, encode, minilm_folder
from dsenv.errors import InputError, MissingExtraError
from tests.conftest import tiny_splits


class CountingEncoder:
    identity = "counting"

    def __init__(self, fail_after=None):
        self.seen, self.fail_after = [], fail_after

    def encode(self, texts):
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += texts
        return np.array([[len(text), text.count("a")] for text in texts], np.float32)


def test_a_stopped_run_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "RANGE_ROWS", 50)
    stopped = CountingEncoder(fail_after=100)
    with pytest.raises(KeyboardInterrupt):
        encode(tiny, stopped, cache_dir=tmp_path)
    assert len(stopped.seen) == 100
    resumed = CountingEncoder()
    found = encode(tiny, resumed, cache_dir=tmp_path)
    assert len(resumed.seen) == 240 + 80 + 60 - 100 and not set(resumed.seen) & set(stopped.seen)
    assert found["train"][:, 0].tolist() == [len(text) for text in tiny.train.texts]
    third = CountingEncoder()
    assert np.array_equal(encode(tiny, third, cache_dir=tmp_path)["test"], found["test"]) and third.seen == []
    damaged = next(tmp_path.rglob("*.npz"))
    damaged.write_bytes(b"broken")
    assert np.array_equal(encode(tiny, CountingEncoder(), cache_dir=tmp_path)["train"], found["train"])


def test_repeated_texts_are_encoded_once(tmp_path):
    splits = tiny_splits()
    splits["train"]["text"][:100] = ["the same text"] * 100
    counting = CountingEncoder()
    found = encode(TextDataset.from_columns(splits), counting, cache_dir=tmp_path)
    assert counting.seen.count("the same text") == 1 and (found["train"][:100] == found["train"][0]).all()


def test_the_cache_folder_is_created_on_first_write_only(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("DSENV_CACHE_DIR", str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    encode(tiny, CountingEncoder())
    assert list((tmp_path / "cache").rglob("*.npz"))


def test_vectors_must_be_finite(tiny, tmp_path):
    class Broken(CountingEncoder):
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(InputError, match="not finite"):
        encode(tiny, Broken(), cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_tfidf_sees_training_texts_only(tiny):
    one = TfidfEncoder(tiny.train.texts)
    assert one.identity == TfidfEncoder(tiny.train.texts).identity
    assert one.identity != TfidfEncoder(tiny.train.texts[:100]).identity
    assert np.abs(one.encode(["words never seen before"])).max() == 0
    with pytest.raises(InputError, match="no word"):
        TfidfEncoder(["alpha", "beta"])


def test_minilm_is_the_real_one_and_runs_none_of_the_packages_code():
    import sys

    encoder = SentenceEncoder("minilm", device="cpu")
    vectors = encoder.encode(["The app crashes all the time.", "It keeps crashing.", "A recipe for apple pie."])
    assert vectors.shape == (3, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert encoders.MINILM_PACKAGE not in sys.modules


@pytest.mark.slow
def test_minilm_gives_the_same_digest_twice(texts, tmp_path):
    from dsenv.building import build_task

    first, second = (build_task(texts, cache_dir=tmp_path / name) for name in ("one", "two"))
    assert first.digest == second.digest


def test_other_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    spec = importlib.util.find_spec(encoders.MINILM_PACKAGE)
    spec.submodule_search_locations[:] = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match="have the SHA-256 .*; allowed is 53aa51172d14"):
        minilm_folder()
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="are missing"):
        minilm_folder()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"dsenv-gym\[minilm\]"):
        minilm_folder()


class Ran:
    """What a pickle could hold: a call that leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("where", ["", "2_Dense", "code"])
def test_no_code_of_a_model_is_run(where, tmp_path):
    """Weights that are a pickle, of the transformer or of a layer beside it, and a class that the folder brings."""
    folder, trace = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(minilm_folder(), folder)
    modules = json.loads((folder / "modules.json").read_text())
    if where == "code":
        (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Evil:\n    pass\n")
        modules[-1]["type"] = "evil.Evil"
    elif where:
        modules[-1] = {"idx": 2, "name": "2", "path": where, "type": "sentence_transformers.models.Dense"}
        (folder / where).mkdir()
        sizes = {
            "in_features": 384,
            "out_features": 8,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        (folder / where / "config.json").write_text(json.dumps(sizes))
    else:
        (folder / "model.safetensors").unlink()
    (folder / "modules.json").write_text(json.dumps(modules))
    layer = folder / where if where == "2_Dense" else folder
    (layer / "pytorch_model.bin").write_bytes(pickle.dumps(Ran(str(trace)), 2))
    with pytest.raises(InputError, match="cannot be read"):
        SentenceEncoder(str(folder))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Ran(str(trace))))
    assert trace.exists()  # the pickle does run where it is read as one


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        SentenceEncoder(str(tmp_path / "no-model"))
