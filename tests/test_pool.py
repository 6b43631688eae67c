"""The pool: the same scores whoever computes them, and none lost with a worker."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dsenv.errors import DsenvError, InputError, MissingExtraError
from dsenv.picks import plan_picks
from dsenv.proxies import RowSample, recipe_digest
from dsenv.proxies.entries import name_selection
from dsenv.proxies.pool import PooledProxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.synthetic import synthetic_task
from tests.test_store import ROOT, TinyProxy, selections


class FragileProxy(TinyProxy):
    """Kills its process, or fails, where it meets a certain selection; once, if there is a marker file to leave."""

    def __init__(self, deadly=None, marker=None, wrong=None, **settings):
        super().__init__(**settings)
        self.deadly, self.marker, self.wrong = deadly, marker, wrong

    def train(self, counts):
        if self.wrong is not None and (counts == self.wrong).all():
            raise ValueError(f"no rows of their kind in {int(counts.sum())} picks")
        if self.deadly is not None and (counts == self.deadly).all() and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(counts)


class WorkerFacts(TinyProxy):
    """Says what a worker sees of the machine."""

    def train(self, counts):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return os.getpid(), os.environ.get("OMP_NUM_THREADS"), seen

    def _score(self, counts, sample):
        pid, threads, seen = self.train(counts)
        time.sleep(0.05)
        return float(f"{pid}.{threads}{len(seen)}{seen.replace(',', '')}")


class NotLoadable(TinyProxy):
    def __setstate__(self, state):
        raise RuntimeError("no such file on this machine")


def test_workers_give_the_same_scores_in_order(tmp_path):
    counts, proxy = selections(40), TinyProxy(seconds=0.003)
    expected = TinyProxy().score(counts)
    samples = [RowSample(0.5, n % 3) for n in range(40)]
    for executor in ("local", "process"):
        with PooledProxy(proxy, executor, workers=2) as pool:
            np.testing.assert_array_equal(pool.score(counts), expected)
            np.testing.assert_array_equal(pool.score(counts, samples=samples), TinyProxy().score(counts, samples=samples))
            found = list(pool.score_each(counts[:9], samples[:9]))
            assert sorted(number for number, _ in found) == list(range(9))
            assert pool.score(counts[:0]).shape == (0,) and recipe_digest(pool) == recipe_digest(proxy)
            with ScoreStore(tmp_path / f"{executor}.db") as store:
                stored = StoredProxy(pool, store)
                np.testing.assert_array_equal(stored.score(counts[[0, 5, 5, 7]]), expected[[0, 5, 5, 7]])
                np.testing.assert_array_equal(stored.score(counts[:9]), expected[:9])
                assert (stored.hits, stored.misses) == (4, 9)
            with pytest.raises(InputError, match="2 samples for 3 selections"):
                pool.score(counts[:3], samples=samples[:2])
            copy = pickle.loads(pickle.dumps(pool))
            assert copy._team is None and copy.retries == pool.retries
            # One sweep at a time, and one that is given up is no harm to the next.
            started = pool.score_each(counts)
            next(started)
            if executor == "process":
                with pytest.raises(InputError, match="another sweep of this pool"):
                    pool.score(counts)
            started.close()
            np.testing.assert_array_equal(pool.score(counts), expected)


def test_a_proxy_without_score_each():
    task = synthetic_task()
    ridge = RidgeProxy(task, plan_picks(task.clustering("stratified")), "brier_skill")
    counts = selections(5)
    found = list(PooledProxy(ridge).score_each(counts))
    assert found == list(enumerate(ridge.score(counts).tolist()))


def test_a_killed_worker_is_replaced(tmp_path):
    counts = selections(12)
    proxy = FragileProxy(counts[4], tmp_path / "killed", seconds=0.02)
    with PooledProxy(proxy, "process", workers=2) as pool:
        found = list(pool.score_each(counts))
        assert sorted(number for number, _ in found) == list(range(12)) and (tmp_path / "killed").exists()
        expected = TinyProxy().score(counts)
        assert all(expected[number] == value for number, value in found)
        # Also one that has nothing to do when it is killed.
        os.kill(pool._team._workers[0].loaded.result(), signal.SIGKILL)
        time.sleep(0.2)
        np.testing.assert_array_equal(pool.score(counts), expected)


def test_a_selection_that_kills_every_worker_is_named():
    counts = selections(6)
    with PooledProxy(FragileProxy(counts[1]), "process", workers=2, retries=1) as pool:
        with pytest.raises(DsenvError) as raised:
            pool.score(counts)
        assert str(raised.value).startswith(f"{name_selection(counts[1])} lost its worker 2 times")
        np.testing.assert_array_equal(pool.score(counts[2:]), TinyProxy().score(counts[2:]))


def test_an_error_of_the_proxy_is_its_own():
    counts = selections(6)
    for executor in ("local", "process"):
        with PooledProxy(FragileProxy(wrong=counts[2]), executor, workers=1) as pool:
            with pytest.raises(ValueError, match=f"no rows of their kind in {counts[2].sum()} picks"):
                pool.score(counts)
            np.testing.assert_array_equal(pool.score(counts[3:]), TinyProxy().score(counts[3:]))


def test_a_proxy_that_cannot_be_copied():
    proxy = TinyProxy()
    proxy.file = lambda: None
    with PooledProxy(proxy, "process", workers=1) as pool, pytest.raises(InputError, match="cannot be pickled"):
        pool.score(selections(1))
    with PooledProxy(NotLoadable(), "process", workers=1) as pool, pytest.raises(RuntimeError, match="no such file on this"):
        pool.score(selections(1))


def test_workers_share_processors_and_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("dsenv.proxies.pool._processors", lambda: 6)
    with PooledProxy(WorkerFacts(), "process", workers=2, gpus_per_worker=2) as pool:
        seen = {f"{value:.9f}".rstrip("0").partition(".")[2] for value in pool.score(selections(20)).tolist()}
    assert seen == {"3345", "3364"}  # 3 threads; the GPUs 4 and 5; 6 and, around the corner, 4
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6" and "OMP_NUM_THREADS" not in os.environ
    with PooledProxy(WorkerFacts(), "process", gpus_per_worker=4) as pool, pytest.raises(InputError, match="3 GPUs can be"):
        pool.score(selections(1))


def sweep(folder):
    counts = selections(40)
    with PooledProxy(TinyProxy(seconds=0.1), "process", workers=2) as pool, ScoreStore(folder / "s.db") as store:
        for n, _ in enumerate(StoredProxy(pool, store).score_each(counts)):
            if n == 4:
                pids = [worker.loaded.result() for worker in pool._team._workers]
                (folder / "pids").write_text(" ".join(map(str, pids)))


def test_a_killed_sweep_leaves_its_scores_and_no_workers(tmp_path):
    code = f"from pathlib import Path; from tests.test_pool import sweep; sweep(Path({str(tmp_path)!r}))"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    child.kill()
    child.wait()
    pids = (tmp_path / "pids").read_text().split()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)
    with ScoreStore(tmp_path / "s.db") as store:
        done = store.info().scores
        proxy = TinyProxy()
        np.testing.assert_array_equal(StoredProxy(proxy, store).score(selections(40)), TinyProxy().score(selections(40)))
        assert 5 <= done < 40 and proxy.trained == 40 - done


def alive(pid):
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.version_info < (3, 11, 5), reason="older CPython waits for ever for workers that die at their start")
def test_a_script_without_a_guard_gets_a_hint(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.test_store import TinyProxy, selections\n"
        "from dsenv.proxies.pool import PooledProxy\n"
        "PooledProxy(TinyProxy(), 'process', workers=1, retries=0).score(selections(2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "DsenvError: workers died 1 times while they started" in done.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"executor": "proces"}, "unknown executor 'proces'. Did you mean 'process'"),
        ({"workers": 0}, "workers 0: allowed are whole numbers from 1"),
        ({"retries": -1}, "retries -1: allowed are whole numbers from 0"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker 1.5: allowed are whole numbers from 0 and shares of one GPU"),
    ],
)
def test_what_is_not_allowed(settings, says):
    with pytest.raises(InputError, match=says):
        PooledProxy(TinyProxy(), **settings)


def test_ray_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"dsenv-gym\[ray\]"):
        PooledProxy(TinyProxy(), "ray")
