"""Building, saving, loading and comparing tasks; what must not leak; what must not be read."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsenv.building import build_task, compare_tasks
from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.dataset import TextDataset, stratified_sample
from dsenv.encoders import TfidfEncoder
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, TaskFileError
from dsenv.selectors import select
from dsenv.task import BUNDLED, SelectionTask, bundled_tasks, load_bundled
from tests.conftest import tiny_splits


def random_vectors(dataset, width=10, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(dataset.class_names), width))
    return {
        split: (centres[rows.labels] + rng.normal(size=(len(rows), width))).astype(np.float32)
        for split, rows in dataset.splits.items()
    }


def test_the_same_build_has_the_same_digest_and_survives_the_file(tiny, tiny_task, tmp_path):
    again = build_task(tiny, encoder="tfidf", clusters=12, dimensions=64, cache_dir=tmp_path)
    assert again.digest == tiny_task.digest
    path = again.save(tmp_path / "a.npz")
    loaded = SelectionTask.load(path)
    assert loaded.digest == again.digest and loaded.metadata == again.metadata
    assert np.array_equal(loaded.train.features, again.train.features)
    report = compare_tasks(loaded, again)
    assert report == {
        "same_digest": True,
        "same_cluster_stratified": 1.0,
        "same_cluster_kmeans": 1.0,
        "largest_difference": 0.0,
    }
    other = build_task(tiny, encoder="tfidf", clusters=12, dimensions=64, seed=1, cache_dir=tmp_path)
    assert compare_tasks(other, again)["same_cluster_stratified"] < 1


def test_a_task_is_what_the_design_says(tiny, tiny_task):
    train = tiny_task.train
    assert train.features.shape == (240, 65) and (train.features[:, -1] == 1).all()
    assert train.features[:, 0].std() == pytest.approx(1, abs=0.02)
    assert len(tiny_task.reward) + len(tiny_task.selection) == len(tiny.validation)
    difference = np.bincount(tiny_task.reward.labels) - np.bincount(tiny_task.selection.labels)
    assert np.abs(difference).max() <= 2
    stratified = tiny_task.clustering("stratified")
    assert all(len(np.unique(train.labels[stratified.cluster == k])) == 1 for k in range(stratified.clusters))
    for k in range(stratified.clusters):
        assert sorted(stratified.position[stratified.cluster == k]) == list(range(stratified.sizes[k]))
    assert tiny_task.facts["fingerprint"] == tiny.fingerprint
    text = json.dumps(tiny_task.metadata)
    assert not any(row in text for row in tiny.train.texts)


def test_reduction_and_clusters_are_fitted_on_training_rows_only(tiny):
    vectors = random_vectors(tiny)
    changed = {**vectors, "validation": vectors["validation"] * 5 + 3, "test": -vectors["test"]}
    first, second = build_task(tiny, vectors=vectors, clusters=9), build_task(tiny, vectors=changed, clusters=9)
    assert np.array_equal(first.train.features, second.train.features)
    assert np.array_equal(first.clustering("kmeans").cluster, second.clustering("kmeans").cluster)


@pytest.mark.parametrize("change", ["labels", "rows"])
def test_test_rows_reach_no_observation_reward_or_selection(tiny, change):
    vectors = random_vectors(tiny)
    other, swapped = tiny, dict(vectors)
    if change == "labels":
        labels = (tiny.test.labels + 1) % 3
        other = TextDataset(
            tiny.name,
            tiny.train,
            tiny.validation,
            type(tiny.test)(tiny.test.texts, labels, None, tiny.test.sources),
            tiny.class_names,
        )
    else:
        swapped["test"] = np.random.default_rng(9).normal(size=vectors["test"].shape).astype(np.float32) * 3
    envs = [
        DataSelectEnv(build_task(d, vectors=v, clusters=9), budget=0.2, picks=8, observation="dict")
        for d, v in ((tiny, vectors), (other, swapped))
    ]
    assert not np.array_equal(envs[0].task.test.labels, envs[1].task.test.labels) or change == "rows"
    traces = []
    for env in envs:
        observation, info = env.reset(seed=0)
        trace = [*observation.values(), info["score"]]
        for action in (0, 3, 3, 5, 1, 2, 7, 7):
            observation, reward, *_, info = env.step(action)
            trace += [*observation.values(), reward, info["score"]]
        traces.append(trace)
    assert all(np.array_equal(a, b) for a, b in zip(*traces, strict=True))
    for method in ("best_of", "greedy", "swap"):
        chosen = [select(env.task, method=method, budget=0.2, picks=8, evaluations=200).rows for env in envs]
        assert chosen[0] == chosen[1]


def test_large_pools_are_cut_by_a_stratified_sample(tiny):
    task = build_task(tiny, vectors=random_vectors(tiny), clusters=5, max_rows=60)
    assert len(task.train) == 60 and len(set(task.train_rows.tolist())) == 60
    assert np.array_equal(task.train.labels, tiny.train.labels[task.train_rows])
    shares = np.bincount(task.train.labels) / 60 - np.bincount(tiny.train.labels) / len(tiny.train)
    assert np.abs(shares).max() < 0.05
    drawn = stratified_sample(np.array([0] * 90 + [1] * 10), 20, np.random.default_rng(0))
    assert np.bincount(np.array([0] * 90 + [1] * 10)[drawn]).tolist() == [18, 2]


def test_clusterings():
    vectors = np.concatenate([np.random.default_rng(0).normal(c, 0.1, (30, 2)) for c in (0, 5, 10)])
    labels = np.repeat([0, 1, 1], 30)
    plain = cluster_kmeans(vectors[30:], 2, 0)
    assert plain.sizes.tolist() == [30, 30] and len(np.unique(plain.cluster[:30])) == 1
    stratified = cluster_stratified(vectors, labels, 3, 0)
    assert stratified.clusters == 3 and set(labels[stratified.cluster == 0]) == {0}
    rare = cluster_stratified(vectors, np.array([1] + [0] * 89), 4, 0)
    assert 1 in rare.sizes
    for wrong in (0, 91):
        with pytest.raises(InputError, match="allowed are 1 to 90"):
            cluster_kmeans(vectors, wrong, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"clusters": 0}, "allowed are 1 to 240"),
        ({"clusters": 241}, "allowed are 1 to 240"),
        ({"reported": "f1"}, "macro_f1"),
        ({"dimensions": 0}, "dimensions 0"),
        ({"max_rows": 2}, "max_rows 2"),
    ],
)
def test_bad_build_arguments(tiny, arguments, says):
    with pytest.raises(InputError, match=says):
        build_task(tiny, **{"vectors": random_vectors(tiny), **arguments})


def test_bad_vectors(tiny):
    good = random_vectors(tiny)
    broken = {split: array.copy() for split, array in good.items()}
    broken["train"][17, 2] = np.nan
    with pytest.raises(InputError, match="NaN or infinity, first in row 17"):
        build_task(tiny, vectors=broken)
    with pytest.raises(InputError, match=r"allowed is \(60, d\)"):
        build_task(tiny, vectors={**good, "test": good["test"][:5]})
    with pytest.raises(InputError, match="no 'test' split"):
        build_task(tiny, vectors={"train": good["train"], "validation": good["validation"]})
    with pytest.raises(InputError, match="different widths"):
        build_task(tiny, vectors={**good, "test": good["test"][:, :4]})
    with pytest.raises(InputError, match="are the same"):
        build_task(tiny, vectors={split: np.ones_like(array) for split, array in good.items()})


def test_damaged_files_are_refused(own_task_file, tmp_path):
    data = Path(own_task_file).read_bytes()
    np.save(tmp_path / "raw.npy", np.arange(5))
    raw = (tmp_path / "raw.npy").read_bytes()
    for number, wrong in enumerate(
        (
            data[: len(data) // 2],
            b"",
            b"not a zip",
            raw,
            data[:-60] + b"\xff" + data[-59:],
            data[:200] + bytes([data[200] ^ 1]) + data[201:],
        )
    ):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(wrong)
        with pytest.raises(TaskFileError):
            SelectionTask.load(path)
    with np.load(own_task_file) as stored:
        arrays = dict(stored)
    altered = {**arrays, "labels": arrays["labels"][::-1].copy()}
    np.savez(tmp_path / "altered.npz", **altered)
    with pytest.raises(TaskFileError, match="was altered"):
        SelectionTask.load(tmp_path / "altered.npz")
    metadata = json.loads(arrays["metadata"].tobytes())
    metadata["format"] = 99
    np.savez(tmp_path / "new.npz", **{**arrays, "metadata": np.frombuffer(json.dumps(metadata).encode(), np.uint8)})
    with pytest.raises(TaskFileError, match="format version 99"):
        SelectionTask.load(tmp_path / "new.npz")
    np.savez(tmp_path / "pickled.npz", **{**arrays, "metadata": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(TaskFileError):
        SelectionTask.load(tmp_path / "pickled.npz")
    with pytest.raises(InputError, match="ends in .npz"):
        SelectionTask.load(own_task_file).save(tmp_path / "task.zip")


def test_a_failed_write_leaves_nothing(tiny_task, tmp_path, monkeypatch):
    def fail(*args, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny_task.save(tmp_path / "task.npz")
    assert list(tmp_path.iterdir()) == []


def test_bundled_files_are_small_digested_and_without_text():
    files = bundled_tasks()
    assert set(files) == {"googleplay", "hateunion", "banking77", "infotabs", "goemotions"}
    assert sum(path.stat().st_size for path in files.values()) <= 20e6
    for name, path in files.items():
        task = load_bundled(name)
        assert path.stat().st_size <= 7e6 and path.name == f"{name}-{task.digest[:12]}.npz" and path.parent == BUNDLED
        assert task.metadata["sources"] and task.metadata["licences"] and task.facts["reference"]["random_rows"]
        assert all(array.dtype.kind in "iuf" for array in task.arrays.values())
        assert len(task.train) <= 60_000


@pytest.mark.slow
def test_bundled_tasks_belong_to_the_real_datasets(data_dir):
    from dsenv.dataset import load_dataset

    for name in bundled_tasks():
        dataset = load_dataset(name, data_dir)
        assert load_bundled(name).facts["fingerprint"] == dataset.fingerprint
    noisy = load_dataset("googleplay", data_dir).with_label_noise(0.4)
    task = load_bundled("googleplay:noisy")
    assert task.facts["fingerprint"] == noisy.fingerprint
    assert np.array_equal(task.train.labels, noisy.train.labels[task.train_rows])
    target = load_dataset("hateunion", data_dir).with_target_source("hatexplain2020")
    assert load_bundled("hateunion:target").facts["fingerprint"] == target.fingerprint


def test_noise_stays_in_the_training_rows():
    clean, noisy = load_bundled("googleplay"), load_bundled("googleplay:noisy")
    flipped = clean.train.labels != noisy.train.labels
    assert flipped.mean() == pytest.approx(0.4, abs=1e-4)
    for split in ("reward", "selection", "test"):
        assert np.array_equal(getattr(clean, split).labels, getattr(noisy, split).labels)
    # Drawn apart from the row order: a cluster's first rows are no cleaner than its last.
    order = noisy.clustering("kmeans")
    first = order.position < order.sizes[order.cluster] / 2
    assert abs(flipped[first].mean() - flipped[~first].mean()) < 0.02


def test_a_target_source_is_all_that_is_scored():
    task = load_bundled("hateunion:target")
    wanted = task.source_names.index("hatexplain2020")
    for split in (task.reward, task.selection, task.test):
        assert (split.sources == wanted).all() and len(split) > 500
    assert len(np.unique(task.train.sources)) > 5


def test_pairs_become_four_parts(tmp_path):
    from dsenv.encoders import encode

    dataset = TextDataset.from_columns(tiny_splits(pairs=True), name="pairs")
    encoder = TfidfEncoder([*dataset.train.texts, *(dataset.train.pairs or [])])
    found = encode(dataset, encoder, cache_dir=tmp_path)["test"]
    u, v = encoder.encode(dataset.test.texts), encoder.encode(dataset.test.pairs)
    assert np.allclose(found, np.concatenate([u, v, np.abs(u - v), u * v], 1), atol=1e-6)
