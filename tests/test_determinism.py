"""The same seed gives the same numbers: in other processes, however they start, with more threads, with an older Gymnasium."""

import json
import multiprocessing
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from benchmarks import determinism
from benchmarks.determinism import BASE, CHANGES, LIGHT, OLDEST_GYMNASIUM, ROOT, STARTS, compare, computed, measure, summarise
from benchmarks.records import RESULTS
from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.task import load_bundled

EXACT = ("process", *STARTS, f"Gymnasium {OLDEST_GYMNASIUM}")  # change nothing at all
THREADED = (
    "proxy finetune: Φ",
    "RLVR training: weights",
    "RLVR training: pass rates",
    "RLVR training: rollouts and steps",
    "target: probabilities",
    "target: classes",
    "agents: weights",
    "agents: picks",
    "task from texts, tfidf: vectors",
    "task from texts, minilm: vectors",
    "ridge float64, 128 dimensions: Φ",
    "ridge float32, 128 dimensions: Φ",
)  # fmt: skip  what two threads may change


@pytest.fixture(scope="module")
def base():
    return measure(list(LIGHT), True)


def fingerprint(queue):
    queue.put({name: array.tobytes() for name, array in measure(list(LIGHT), True).items()})


@pytest.mark.parametrize("start", STARTS)
def test_no_way_to_start_a_process_changes_a_bit(start, base):
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12 warns of any fork with threads
        process = context.Process(target=fingerprint, args=(queue,))
        process.start()
    found = queue.get(timeout=120)
    process.join()
    assert found == {name: array.tobytes() for name, array in base.items()}


def test_neither_the_hash_seed_nor_threads_change_a_bit(base, monkeypatch):
    monkeypatch.setitem(CHANGES, "both", {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"})
    found = computed(list(LIGHT), True, "both")
    assert {name: array.tobytes() for name, array in found.items()} == {name: array.tobytes() for name, array in base.items()}


def test_neither_batches_nor_workers_change_a_bit():
    for pairs in determinism.batches(True).values():
        assert pairs and all(compare(*pair)["identical"] for pair in pairs.values())


def test_clusters_do_not_depend_on_threads():
    """With two threads faiss put thousands of these rows into other clusters, with these seeds."""
    import faiss

    task = load_bundled("googleplay")
    rows, threads = task.train.features[:, :-1], faiss.omp_get_max_threads()
    found = []
    for count in (1, 2):
        faiss.omp_set_num_threads(count)
        found.append((cluster_kmeans(rows, 64, 5).cluster, cluster_stratified(rows, task.train_labels, 64, 1).cluster))
        assert faiss.omp_get_max_threads() == count
    faiss.omp_set_num_threads(threads)
    assert all(map(np.array_equal, *found))


def test_scores_do_not_depend_on_threads():
    """The sums over reward rows are the same bits; of enough rows a matrix product's are not."""
    code = (
        "import numpy as np\nfrom benchmarks.determinism import _env, _random\n"
        "env = _env('DataSelect-HateUnion-v0')\n"
        "print(env.proxy.score(_random(env, 16)).tobytes().hex(), env.proxy._scorer.gram.tobytes().hex()[:4000])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout
        for threads in (1, 2)
    ]  # fmt: skip
    assert found[0] == found[1] and len(found[0]) > 1000


def test_differences_are_seen():
    one = np.array([0.5, 0.25])
    near = compare(one, np.array([0.5, 0.25 + 1e-9]))
    assert not near["identical"] and near["differ"] == 1 and near["largest"] == pytest.approx(1e-9)
    assert compare(np.array([1, 2, 3]), np.array([1, 2, 4])) == {
        "identical": False,
        "numbers": 3,
        "differ": 1,
        "largest": None,
    }
    assert compare(one, one[:1])["differ"] == 2 and compare(one, one.astype(np.float32))["differ"] == 2
    zeros = np.array([0.0, -0.0])
    assert compare(zeros, zeros)["identical"] and not compare(zeros, -zeros)["identical"]
    whole = summarise({"a: b: x": (one, one), "a: b: y": (one, one + 1e-3), "a: c: ": (one, one)})
    assert whole["a: b"]["where"] == ["y"] and whole["a: b"]["numbers"] == 4 and whole["a: c"]["identical"]
    shown = determinism.table({"changes": {"threads": whole, "workers": {"a: c": whole["a: c"]}}})
    assert shown.splitlines()[2:] == ["| a: b | 1e-03 |  |", "| a: c | = | = |"]


def test_the_committed_record_is_complete_and_as_the_page_says():
    record = json.loads((RESULTS / "determinism.json").read_text())
    assert set(record["changes"]) == {*CHANGES, "batches", "workers"} and record["base"] == BASE
    for change in EXACT:
        assert all(found["identical"] for found in record["changes"][change].values())
    changed = {name for name, found in record["changes"]["two threads"].items() if not found["identical"]}
    assert changed <= set(THREADED)
    for name, found in record["changes"]["batches"].items():
        assert found["identical"] or name.startswith(("task from texts", "target"))
    assert all(found["identical"] for found in record["changes"]["workers"].values())
    assert determinism.table(record) in (ROOT / "docs" / "determinism.md").read_text()


@pytest.mark.slow
def test_what_needs_the_core_alone_again(tmp_path):
    """Anew, with the oldest Gymnasium from the package index: what must be equal is. All of it takes ten minutes."""
    determinism.main(["--quick", "--json", str(tmp_path / "determinism.json")])
    record = json.loads((tmp_path / "determinism.json").read_text())
    for change in EXACT:
        assert record["changes"][change] and all(found["identical"] for found in record["changes"][change].values()), change
    for name, found in record["changes"]["two threads"].items():
        assert found["identical"] or name in THREADED, name
