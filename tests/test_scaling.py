"""Building in bounded memory, rows without materialised features, faster encoders, and the benchmark that measures them."""

import json
import tracemalloc

import numpy as np
import pytest

from benchmarks import scaling
from dsenv import blocks, clustering, encoders
from dsenv.building import build_task, build_task_from_vectors, fingerprint_vectors
from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.encoders import PACKAGED, SentenceEncoder, encode
from dsenv.errors import InputError
from tests.test_encoders import CountingEncoder
from tests.test_task import random_vectors

SPLIT_ROWS = {"train": 600, "validation": 80, "test": 60}


def small_blocks(monkeypatch, one_block, block):
    monkeypatch.setattr(blocks, "ONE_BLOCK_ROWS", one_block)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", block)


def own_vectors(rows=SPLIT_ROWS, width=12, classes=3, dtype=np.float32):
    rng = np.random.default_rng(0)
    labels = {split: np.arange(count) % classes for split, count in rows.items()}
    vectors = {
        split: (rng.normal(size=(count, width)) + labels[split][:, None]).astype(dtype) for split, count in rows.items()
    }
    return vectors, labels


class Streamed:
    """Rows that can be read by slices alone, and never all at once."""

    def __init__(self, rows, most):
        self.rows, self.most, self.shape = rows, most, rows.shape

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        found = self.rows[rows]
        assert len(found) <= self.most
        return found


def test_blocks_give_the_default_task_but_for_the_last_bits(tiny, monkeypatch):
    vectors = random_vectors(tiny)
    whole = build_task(tiny, vectors=vectors, clusters=9)
    small_blocks(monkeypatch, 50, 32)
    streamed = build_task(tiny, vectors={split: Streamed(array, 32) for split, array in vectors.items()}, clusters=9)
    assert streamed.arrays.keys() == whole.arrays.keys()
    for name in ("labels", "sources", "split", "train_rows"):
        assert np.array_equal(streamed.arrays[name], whole.arrays[name])
    assert np.allclose(streamed.arrays["column_scale"], whole.arrays["column_scale"], rtol=1e-6)
    difference = np.abs(streamed.arrays["vectors"].astype(int) - whole.arrays["vectors"])
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    for name in ("stratified", "kmeans"):
        assert (streamed.clustering(name).cluster == whole.clustering(name).cluster).mean() > 0.98
    assert streamed.metadata["explained_variance"] == pytest.approx(whole.metadata["explained_variance"], abs=1e-6)


def test_memory_is_bounded_by_blocks(tmp_path, monkeypatch):
    rows, width = 150_000, 64
    small_blocks(monkeypatch, 2**12, 2**12)
    monkeypatch.setattr(clustering, "SAMPLE_ROWS", 2**12)
    path = tmp_path / "train.f16"
    np.random.default_rng(0).standard_normal((rows, width), np.float32).astype(np.float16).tofile(path)
    vectors, labels = own_vectors({"train": 3, "validation": 80, "test": 60}, width)
    vectors["train"] = np.memmap(path, np.float16, "r", shape=(rows, width))
    labels["train"] = np.arange(rows, dtype=np.int16) % 3
    tracemalloc.start()
    task = build_task_from_vectors(vectors, labels, clusters=12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(task.train_labels) == rows and task.clustering("stratified").clusters == 12
    stored = sum(array.nbytes for array in task.arrays.values())
    assert peak < stored + 8 * 8 * rows + 16e6  # a few ids a row and the blocks: 4-byte copies alone would be 38 MB more


def test_clusters_fitted_on_a_sample_hold_every_row(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [500, 80, 20]))
    vectors = (labels[:, None] * 8 + rng.normal(size=(600, 3))).astype(np.float32)
    whole = cluster_kmeans(vectors, 9, 0)
    monkeypatch.setattr(clustering, "SAMPLE_ROWS", 120)
    sampled, again = cluster_kmeans(vectors, 9, 0), cluster_kmeans(vectors, 9, 0)
    assert np.array_equal(sampled.cluster, again.cluster) and np.array_equal(sampled.position, again.position)
    assert sampled.sizes.sum() == 600 and not np.array_equal(sampled.cluster, whole.cluster)
    assert scaling.inertia(vectors, sampled.cluster) < 1.1 * scaling.inertia(vectors, whole.cluster)
    stratified = cluster_stratified(vectors, labels, 12, 0)
    assert all(len(np.unique(labels[stratified.cluster == k])) == 1 for k in range(stratified.clusters))
    assert stratified.clusters == 13 and stratified.sizes.sum() == 600


def test_train_features_are_those_of_the_split_without_the_rest(tiny_task):
    for task in (tiny_task.at_instance(0), tiny_task.at_instance(3)):
        task.__dict__.pop("train", None)
        rows = np.random.default_rng(0).permutation(240)[:70]
        found, labels = task.train_features(rows), task.train_labels
        assert task.class_shares.sum() == pytest.approx(1) and "train" not in task.__dict__
        assert found.dtype == np.float32 and found.tobytes() == task.train.features[rows].tobytes()
        assert np.array_equal(labels, task.train.labels)
        assert task.train_features(np.arange(240)).tobytes() == task.train.features.tobytes()
        assert task.train_features(np.arange(0)).shape == (0, 65)


def test_labels_and_vectors_are_enough(tiny):
    vectors = random_vectors(tiny)
    labels = {split: rows.labels for split, rows in tiny.splits.items()}
    sources = {split: rows.sources for split, rows in tiny.splits.items()}
    arguments = {"class_names": tiny.class_names, "sources": sources, "clusters": 9, "max_rows": 200}
    ours = build_task_from_vectors(vectors, labels, name="mine", **arguments)
    theirs = build_task(tiny, vectors=vectors, clusters=9, max_rows=200)
    assert all(np.array_equal(array, theirs.arrays[name]) for name, array in ours.arrays.items())
    assert ours.name == "mine" and ours.metadata.keys() == theirs.metadata.keys()
    assert ours.metadata["rows"] == {"train": 240, "pool": 200, "validation": 80, "test": 60}
    assert ours.metadata["fingerprint"] == fingerprint_vectors(vectors, labels)
    json.dumps(ours.metadata)
    changed = {**vectors, "test": vectors["test"] + 1}
    assert fingerprint_vectors(changed, labels) != fingerprint_vectors(vectors, labels)
    assert fingerprint_vectors(vectors, {**labels, "test": 1 - labels["test"]}) != fingerprint_vectors(vectors, labels)
    plain = build_task_from_vectors(vectors, labels)
    assert plain.class_names == ["0", "1", "2"] and plain.source_names == [] and len(plain.train) == 240


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": {"train": np.zeros(600, int)}}, "one class only"),
        ({"labels": {"train": np.full(600, 0.5)}}, "whole numbers"),
        ({"labels": {"test": np.full(60, -1)}}, "start at 0"),
        ({"labels": {"test": np.full(60, 3)}}, "has the label 3; allowed are 0 to 2"),
        ({"labels": {"train": np.arange(599) % 3}}, r"allowed is \(599, d\)"),
        ({"class_names": ["a", "b"]}, "has the label 2; allowed are 0 to 1"),
        ({"sources": {"train": ["a"] * 600, "validation": ["a"] * 80}}, "'test' has no sources"),
        ({"sources": {"train": ["a"] * 5}}, "'train' has 5 sources"),
        ({"max_rows": 2}, "max_rows 2: allowed are whole numbers from 3"),
        ({"clusters": 601}, "allowed are 1 to 600"),
        ({"reported": "f1"}, "macro_f1"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    vectors, labels = own_vectors()
    with pytest.raises(InputError, match=says):
        build_task_from_vectors(vectors, {**labels, **change.pop("labels", {})}, **change)


def test_a_vector_that_is_not_finite_is_found_in_any_block(monkeypatch):
    small_blocks(monkeypatch, 50, 32)
    for split, row in (("train", 333), ("test", 59)):
        vectors, labels = own_vectors(dtype=np.float16)
        vectors[split][row, 2] = np.inf
        with pytest.raises(InputError, match=f"vectors of {split!r} hold NaN or infinity, first in row {row}"):
            build_task_from_vectors(vectors, labels, clusters=4)


@pytest.fixture(scope="module")
def packaged():
    return {name: SentenceEncoder("minilm", device="cpu", **settings) for name, settings in PACKAGED.items()}


def test_faster_encoders_are_as_close_as_they_say(packaged, texts):
    rows = [*dict.fromkeys(texts.train.texts)][:24]
    rows[7] = " ".join(rows[10:20])  # longer than a batch of the others
    found = {name: encoder.encode(rows).astype(np.float64) for name, encoder in packaged.items()}
    assert np.allclose(found["minilm-fast"], found["minilm"], atol=1e-6)
    error = 1 - (found["minilm-int8"] * found["minilm"]).sum(1)
    assert 1e-5 < error.max() < 0.2 and error.mean() < 0.06
    assert len({encoder.identity for encoder in packaged.values()}) == 3


def test_encoders_have_names_and_caches_of_their_own(tiny, tmp_path, monkeypatch):
    built = []

    class Named(CountingEncoder):
        def __init__(self, name, **settings):
            super().__init__()
            built.append((name, settings))
            self.identity = str(settings)

    monkeypatch.setattr(encoders, "SentenceEncoder", Named)
    for name in PACKAGED:
        encode(tiny, name, cache_dir=tmp_path)
    assert built == [("minilm", settings) for settings in PACKAGED.values()]
    assert len(list((tmp_path / "vectors").iterdir())) == 3


def test_encoder_settings_that_cannot_be():
    with pytest.raises(InputError, match="float32, int8"):
        SentenceEncoder("minilm", precision="int4")
    with pytest.raises(InputError, match="rows, tokens"):
        SentenceEncoder("minilm", batching="token")
    with pytest.raises(InputError, match="does not run int8"):
        SentenceEncoder("minilm", device="cuda", precision="int8")


def test_a_file_of_vectors_reads_as_the_array(tmp_path):
    blocks = [*scaling.draw_blocks(40, 6, 3, 0)]
    labels = scaling.write_vectors(tmp_path / "v.f32", 40, 6, 3)
    rows = scaling.FileRows(tmp_path / "v.f32", (40, 6))
    assert np.array_equal(rows[:], blocks[0][0]) and np.array_equal(rows[33:50], blocks[0][0][33:])
    assert np.array_equal(labels, blocks[0][1])
    with pytest.raises(InputError, match="GiB free"):
        scaling.write_vectors(tmp_path / "v.f32", 10**15, 64, 3)


def test_each_size_is_varied_alone_and_inertia_is_what_it_is():
    along = scaling.points(scaling.BASE, scaling.VALUES)
    assert [point["rows"] for point in along["rows"]] == [10_000, 100_000, 1_000_000, 10_000_000]
    assert {scaling.point_key(scaling.BASE)} == set.intersection(
        *({scaling.point_key(point) for point in varied} for varied in along.values())
    )
    vectors = np.array([[0.0, 0], [2, 0], [5, 5]], np.float32)
    assert scaling.inertia(vectors, np.array([0, 0, 1])) == pytest.approx(2)


def check_point(block):
    assert set(block["seconds"]) == {"fingerprint", "reduce", "cluster", "assemble", "build", "sums", "write"}
    assert set(block["memory_mib"]) == {"build", "all", "stored"} and block["memory_mib"]["all"] >= 0
    assert all(block["scores_per_second"][kind] > 0 for kind in ("batch", "episode"))
    assert block["plan"]["clusters"] >= 4 and len(block["task_digest"]) == 64


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    base = {"rows": 400, "clusters": 4, "dimensions": 4, "width": 4, "classes": 2, "budget": 0.1}
    monkeypatch.setattr(scaling, "QUICK_BASE", base)
    monkeypatch.setattr(scaling, "QUICK_VALUES", {"rows": (400, 800)})
    monkeypatch.setattr(scaling, "REWARD_ROWS", 50)
    done = []

    def here(work):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(work)
        return scaling.child(work)

    monkeypatch.setattr(scaling, "in_child", here)
    path = tmp_path / "scaling.json"
    with pytest.raises(KeyboardInterrupt):
        scaling.run(["rows"], quick=True, most_rows=800, path=path)
    monkeypatch.setattr(scaling, "in_child", scaling.child)
    scaling.run(["rows"], quick=True, most_rows=800, path=path)
    assert "1 of 2 measurements to go" in capsys.readouterr().out and len(done) == 1
    record = json.loads(path.read_text())
    for rows in (400, 800):
        check_point(record[scaling.point_key({**base, "rows": rows})])
    assert record["summary"]["rows"] == [400, 800]
    assert set(record["summary"]["score_cost_ratio"]) == {"of_rows", "batch", "episode"}


@pytest.mark.slow
def test_quick_has_every_field(tmp_path):
    path = tmp_path / "quick.json"
    scaling.main(["--quick", "--json", str(path)])
    record = json.loads(path.read_text())
    sizes = scaling.points(scaling.QUICK_BASE, scaling.QUICK_VALUES)
    keys = {scaling.point_key(point) for varied in sizes.values() for point in varied}
    assert set(record) == keys | {"clustering", "encoding", "summary"}
    for key in keys:
        check_point(record[key])
    assert record["clustering"]["dsenv"]["inertia_ratio"] < 1.1 and record["clustering"]["speedup"] > 0
    for name in PACKAGED:
        assert record["encoding"][name]["texts_per_processor_second"] > 0
    assert record["encoding"]["minilm"]["largest_difference"] == 0
    assert record["encoding"]["minilm-fast"]["cosine_error"]["largest"] < 1e-6
    assert 0 < record["encoding"]["minilm-int8"]["cosine_error"]["largest"] < 0.3
