"""The store of scores: what is remembered, by whom it can be shared, and what damage costs."""

import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from dsenv.errors import InputError, StoreError
from dsenv.picks import plan_picks
from dsenv.proxies import RowSample
from dsenv.proxies import store as store_module
from dsenv.proxies.entries import Description, Entry, Key, pack_counts, unpack_counts
from dsenv.proxies.ridge import RidgeProxy, fit_ridge
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.proxies.trained import TrainedProxy
from dsenv.synthetic import synthetic_task

ROOT = Path(__file__).parent.parent


class TinyProxy(TrainedProxy):
    """A ridge that counts what it trains, and can take its time."""

    def __init__(self, metric="brier_skill", *, instance=0, seed=0, seconds=0.0):
        task = synthetic_task().at_instance(instance)
        super().__init__(task, plan_picks(task.clustering("stratified")), metric, seed)
        self.seconds, self.trained = seconds, 0

    @property
    def recipe(self):
        return {"name": "tiny", "seed": self.seed}

    def train(self, counts):
        self.trained += 1
        time.sleep(self.seconds)
        rows = self.plan.rows(counts)
        return fit_ridge(self.task.train.features[rows], self.task.train.labels[rows], self.task.classes, 1e-3)

    def class_scores(self, model, rows):
        return self.task.reward.features[rows].astype(np.float64) @ model


def selections(number, seed=0):
    """(number, K) different selections of up to 6 picks, none of them empty."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((number, 48), np.int64)
    for place, row in enumerate(counts):
        np.add.at(row, rng.integers(0, 48, 1 + place % 6), 1)
    assert len(np.unique(counts, axis=0)) == number
    return counts


@pytest.fixture
def dsenv(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in the test's folder."""

    from dsenv import cli  # not at the top: every process that is started here imports this file

    def run(*arguments, ok=True):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["dsenv", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert (ended.value.code == 0) == ok, shown
        return " ".join((shown.out if ok else shown.err).split())

    return run


def keys(number):
    rng = np.random.default_rng(0)
    return [Key("ab" * 32, "cd" * 32, "", pack_counts(rng.integers(0, 9, 48))) for _ in range(number)]


def filled(path, number=400):
    """A store of ``number`` entries, closed."""
    with ScoreStore(path) as store:
        store.describe(Description("ab" * 32, "cd" * 32, {"task": "made up", "metric": "accuracy"}))
        store.put([Entry(key, n / 7, 0.5) for n, key in enumerate(keys(number))])
    return path


def edit(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_scores_come_back_and_are_computed_once(tmp_path):
    proxy, counts = TinyProxy(), selections(10)
    expected = TinyProxy().score(counts)
    with ScoreStore(tmp_path / "new folder" / "scores.db") as store:
        stored = StoredProxy(proxy, store)
        asked = counts[[3, 0, 3, 1, 3]]
        np.testing.assert_array_equal(stored.score(asked), expected[[3, 0, 3, 1, 3]])
        assert (stored.hits, stored.misses, proxy.trained) == (2, 3, 3)
        np.testing.assert_array_equal(stored.score(counts), expected)
        assert (stored.hits, stored.misses, proxy.trained) == (5, 10, 10)
        assert sorted(stored.score_each(counts)) == list(enumerate(expected))
        assert stored.score(counts[:0]).shape == (0,)
        assert stored.recipe == proxy.recipe and stored.metric == proxy.metric and proxy.trained == 10
        (held,) = store.info().recipes
        assert (held.scores, held.samples, held.task) == (10, 0, proxy.task.digest) and held.seconds > 0
        assert held.facts["recipe"] == {"name": "tiny", "seed": 0} and held.facts["task"] == "synthetic"
        assert stored.seconds_per_score == held.seconds / 10
        assert np.isnan(StoredProxy(TinyProxy(seed=1), store).seconds_per_score)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["scores.db"]


def test_a_proxy_that_scores_whole_batches(tmp_path):
    task = synthetic_task()
    ridge = RidgeProxy(task, plan_picks(task.clustering("stratified")), "brier_skill")
    counts = selections(20)
    with ScoreStore(tmp_path / "s.db") as store:
        stored = StoredProxy(ridge, store)
        np.testing.assert_array_equal(stored.score(counts[:9]), ridge.score(counts[:9]))
        np.testing.assert_allclose(stored.score(counts), ridge.score(counts), atol=1e-12)
        assert (stored.hits, stored.misses) == (9, 20)


def test_what_decides_a_score_keeps_scores_apart(tmp_path):
    counts = selections(4)
    proxies = [TinyProxy(), TinyProxy(seed=1), TinyProxy("accuracy"), TinyProxy(instance=1)]
    samples = [[RowSample(0.5, seed)] * 4 for seed in (0, 2**70)] + [[RowSample(0.25, 0)] * 4]
    with ScoreStore(tmp_path / "s.db") as store:
        for proxy in proxies:
            stored = StoredProxy(proxy, store)
            np.testing.assert_array_equal(stored.score(counts), proxy.score(counts))
            assert (stored.hits, stored.misses) == (0, 4)
        for drawn in samples:
            stored = StoredProxy(proxies[0], store)
            np.testing.assert_array_equal(stored.score(counts, samples=drawn), proxies[0].score(counts, samples=drawn))
            assert stored.score(counts, samples=drawn).shape == (4,) and (stored.hits, stored.misses) == (4, 4)
        info = store.info()
        assert info.scores == 28 and sorted((held.scores, held.samples) for held in info.recipes) == [(4, 0)] * 3 + [(16, 3)]
        with pytest.raises(InputError, match="3 samples for 4 selections"):
            StoredProxy(proxies[0], store).score(counts, samples=samples[0][:3])


def test_replay_computes_nothing_and_says_what_there_is(tmp_path):
    counts = selections(4)
    path = tmp_path / "s.db"
    with ScoreStore(path) as store:
        expected = StoredProxy(TinyProxy(), store).score(counts[:3])
    replayed = StoredProxy(TinyProxy(), path, compute=False)
    np.testing.assert_array_equal(replayed.score(counts[:3]), expected)
    with pytest.raises(InputError, match=r"no score of selection \{.*compute=False computes none. It holds: 3 scores of"):
        replayed.score(counts)
    other = StoredProxy(TinyProxy(seed=5), path, compute=False)
    with pytest.raises(InputError, match=r'"seed": 5.*"seed": 0'):
        other.score(counts[:1])
    with pytest.raises(InputError, match=r"on the sample 0.5/3 of the reward rows"):
        replayed.score(counts[:1], samples=[RowSample(0.5, 3)])
    for proxy in (replayed, other):
        assert proxy.proxy.trained == 0
        proxy.store.close()


def test_counts_and_numbers_survive(tmp_path):
    for counts in (np.array([0, 3, 255]), np.array([70_000, 0]), np.zeros(0, np.int64)):
        np.testing.assert_array_equal(unpack_counts(pack_counts(counts)), counts)
    key = keys(3)
    with ScoreStore(tmp_path / "s.db") as store:
        store.put([Entry(key[0], -0.0, 0), Entry(key[1], 0.1 + 0.2, 1e-9), Entry(key[2], np.float64(2.0), 3)])
        assert store.get(key) == {key[0]: 0.0, key[1]: 0.1 + 0.2, key[2]: 2.0} and store.info().damaged == 0
        store.put([Entry(key[0], 5.0, 0)])
        assert store.get(key[:1]) == {key[0]: 0.0}  # the first stays
        with pytest.raises(InputError, match="nan of selection .* is not finite"):
            store.put([Entry(keys(4)[3], float("nan"), 0)])


def test_copies_open_their_own(tmp_path):
    with ScoreStore(tmp_path / "s.db") as store:
        stored = StoredProxy(TinyProxy(), store)
        value = stored.score(selections(1))
        for copy in (pickle.loads(pickle.dumps(stored)), deepcopy(stored)):
            assert copy.score(selections(1)) == value and copy.proxy.trained == 1
            copy.store.close()


def write_many(path, worker):
    with ScoreStore(path) as store:
        for n, key in enumerate(keys(200)):
            if n % 3 != worker:
                store.put([Entry(key, float(n), 0.0)])


def test_processes_write_at_once(tmp_path):
    path = tmp_path / "s.db"
    context = multiprocessing.get_context("fork")
    with ScoreStore(path) as store:
        store.get(keys(1))
        children = [context.Process(target=write_many, args=(path, worker)) for worker in (0, 1)]
        for child in children:
            child.start()
        write_many(path, 2)
        for child in children:
            child.join()
            assert child.exitcode == 0
            child.close()
        assert store.get(keys(200)) == {key: float(n) for n, key in enumerate(keys(200))}
        assert store.info().scores == 200


def test_processes_make_the_file_at_once(tmp_path):
    path = tmp_path / "s.db"
    codes = [f"from tests.test_store import *; write_many({str(path)!r}, {worker})" for worker in (0, 1)]
    children = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for code in codes]
    assert [child.wait(60) for child in children] == [0, 0]
    with ScoreStore(path) as store:
        assert store.info().scores == 200


def sweep(path):
    with ScoreStore(path) as store:
        StoredProxy(TinyProxy(seconds=0.1), store).score(selections(30))


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    path = tmp_path / "s.db"
    code = f"from tests.test_store import sweep; sweep({str(path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until = time.monotonic() + 60
    with ScoreStore(path) as store:
        while store.info().scores < 5:
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        done = store.info().scores
        proxy = TinyProxy()
        stored = StoredProxy(proxy, store)
        np.testing.assert_array_equal(stored.score(selections(30)), TinyProxy().score(selections(30)))
        assert 5 <= done < 30 and stored.hits == done and proxy.trained == stored.misses == 30 - done
        assert store.info().damaged == 0


def test_damaged_entries_are_left_out_and_computed_again(tmp_path, dsenv):
    counts = selections(6)
    path = tmp_path / "s.db"
    with ScoreStore(path) as store:
        expected = StoredProxy(TinyProxy(), store).score(counts)
    edit(
        path,
        "UPDATE scores SET score = score + 0.1 WHERE id = 2",
        "UPDATE scores SET counts = x'00ff' WHERE id = 4",
        "UPDATE scores SET score = 'text', sample = CAST(x'ff' AS TEXT) WHERE id = 5",
        "UPDATE recipes SET facts = 'torn'",
    )
    assert dsenv("store", "info", path).count("3 damaged") == 1
    assert "3 scores" in dsenv("store", "export", path, "--out", "e.jsonl")
    proxy = TinyProxy()
    with ScoreStore(path) as store:
        assert (store.info().scores, store.info().damaged) == (3, 3)
        stored = StoredProxy(proxy, store)
        np.testing.assert_array_equal(stored.score(counts), expected)
        assert (stored.hits, stored.misses, proxy.trained) == (3, 3, 3)
        assert (store.info().scores, store.info().damaged) == (6, 0)
        assert store.info().recipes[0].facts["recipe"]["name"] == "tiny"


@pytest.mark.parametrize("page", ["first", "index", "rows", "last", "cut", "garbage in rows"])
def test_damaged_pages_are_named_and_the_rest_is_saved(tmp_path, page):
    path = filled(tmp_path / "s.db")
    content = bytearray(path.read_bytes())
    leaves = {kind: [at for at in range(4096, len(content), 4096) if content[at] == kind] for kind in (10, 13)}
    rows, index = leaves[13][1:], leaves[10][1:]  # a leaf of the recipes and of their index come first
    at = {"first": 0, "index": index[1], "last": rows[-1]}.get(page, rows[2])
    if page == "cut":
        content = content[: len(content) // 2]
    elif page == "garbage in rows":
        content[at + 2000 : at + 4096] = np.random.default_rng(0).bytes(2096)
    else:
        content[at : at + 4096] = bytes(4096)
    path.write_bytes(content)
    out = tmp_path / "saved.jsonl"
    if page == "first":
        with pytest.raises(StoreError, match="s.db' is not a store of scores, or its beginning is damaged"):
            ScoreStore(path)
        return
    with (
        pytest.raises(StoreError, match=r"s.db' is damaged: save .* `dsenv store export .*s.db --out"),
        ScoreStore(path) as store,
    ):
        store.get(keys(400))
        store.info()
    with ScoreStore(path, write=False) as store:
        saved = store.export(out)
    assert saved == 400 if page == "index" else (170 if page == "cut" else 370) < saved < 400
    with ScoreStore(tmp_path / "again.db") as again:
        assert again.merge(out) == saved
        held = again.get(keys(400))
        assert len(held) == saved and all(held.get(key, n / 7) == n / 7 for n, key in enumerate(keys(400)))
        assert again.info().recipes[0].facts == {"task": "made up", "metric": "accuracy"}


def not_a_store(path):
    path.write_bytes(b"just some text, longer than a header is" * 40)


def too_short(path):
    path.write_bytes(filled(path).read_bytes()[:60])


def another_database(path):
    edit(path, "CREATE TABLE shopping (item)")


def another_version(path):
    edit(filled(path), "PRAGMA user_version = 7")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (not_a_store, "is not a store of scores, or its beginning is damaged: give another path"),
        (too_short, "is damaged: save what can be read"),
        (another_database, "is not a store of scores: give another path"),
        (another_version, "has format version 7; this dsenv reads version 1"),
        (Path.mkdir, "s.db' cannot be opened: the folder must exist"),
    ],
)
def test_what_is_no_store(make, says, tmp_path):
    path = tmp_path / "s.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=says):
        ScoreStore(path)
    with pytest.raises(StoreError, match="s.db'"):
        ScoreStore(path, write=False)
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"] and (before is None or path.read_bytes() == before)


def test_an_empty_file_becomes_a_store_but_is_none_to_read(tmp_path):
    path = tmp_path / "s.db"
    path.touch()
    with pytest.raises(StoreError, match="is not a store"):
        ScoreStore(path, write=False)
    with ScoreStore(path) as store:
        assert store.info().scores == 0


def test_where_nothing_can_be_written(tmp_path):
    path = filled(tmp_path / "s.db")
    for wrong in (path / "below a file" / "s.db", path / "s.db"):
        with pytest.raises(StoreError, match="s.db' cannot be made: .*you may write"):
            ScoreStore(wrong)
    with pytest.raises(StoreError, match="no store of scores"):
        ScoreStore(tmp_path / "none.db", write=False)
    with ScoreStore(path, write=False) as store, pytest.raises(StoreError, match="s.db' cannot be written: give yourself"):
        store.put([Entry(keys(401)[400], 1.0, 0)])
    with ScoreStore(path) as store, pytest.raises(StoreError, match="e.jsonl' cannot be written"):
        store.export(path / "e.jsonl")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users here")
def test_a_folder_of_somebody_else():
    """Root may write everywhere, so nobody tries."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = filled(Path(folder) / "s.db")
        Path(folder).chmod(0o555)
        path.chmod(0o444)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(StoreError, match="s.db' cannot be (written|opened)"):
                ScoreStore(path)
            with pytest.raises(StoreError, match="cannot be (made|opened)"):
                ScoreStore(Path(folder) / "deeper" / "s.db")
            with pytest.raises(StoreError, match="other.db' cannot be opened"):
                ScoreStore(Path(folder) / "other.db")
            with ScoreStore(path, write=False) as store:
                assert len(store.get(keys(400))) == store.info().scores == 400
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_a_full_disk_keeps_what_there_is(tmp_path):
    with ScoreStore(filled(tmp_path / "s.db", 100)) as store:
        with store._transaction() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match="s.db' cannot grow, the disk is full: free some space"):
            store.put([Entry(key, 1.0, 0) for key in keys(1000)])
        assert store.info().scores == 100


def test_a_lock_held_too_long(tmp_path, monkeypatch):
    path = filled(tmp_path / "s.db", 10)
    monkeypatch.setattr(store_module, "WAIT_SECONDS", 0.1)
    with ScoreStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="s.db' was locked by another process"):
            store.put([Entry(keys(11)[10], 1.0, 0)])
        assert len(store.get(keys(10))) == 10
        other.close()
        store.put([Entry(keys(11)[10], 1.0, 0)])


def test_merge_takes_all_or_nothing(tmp_path, dsenv):
    one, two, three = (tmp_path / f"{name}.db" for name in ("one", "two", "three"))
    key = keys(6)
    for path, entries in {
        one: [Entry(key[0], 0.1, 1), Entry(key[1], 0.2, 1)],
        two: [Entry(key[1], 0.2 + 1e-12, 9), Entry(key[2], 0.3, 1)],
        three: [Entry(key[3], 0.4, 1), Entry(key[0], 0.11, 1)],
    }.items():
        with ScoreStore(path) as store:
            store.put(entries)
    assert "3 scores added" in dsenv("store", "merge", "all.db", one, two)
    with ScoreStore(tmp_path / "all.db") as store:
        expected = {key[0]: 0.1, key[1]: 0.2, key[2]: 0.3}
        assert store.get(key) == expected and store.merge(one, two, tmp_path / "all.db") == 0
    said = dsenv("store", "merge", "all.db", three, ok=False)
    assert "hold different scores of one key: 0.1 and 0.11 of selection {" in said and "three.db" in said
    with ScoreStore(tmp_path / "all.db") as store:
        assert store.get(key) == expected


def test_export_is_lines_that_merge_reads(tmp_path, dsenv):
    filled(tmp_path / "s.db", 5)
    assert "5 scores" in dsenv("store", "export", "s.db", "--out", "e.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert lines[0] == {"task": "ab" * 32, "recipe": "cd" * 32, "facts": {"task": "made up", "metric": "accuracy"}}
    assert lines[1].keys() == {"task", "recipe", "sample", "counts", "score", "seconds"} and len(lines) == 6
    assert "5 scores added" in dsenv("store", "merge", "new.db", "e.jsonl")
    shown = dsenv("store", "info", "new.db")
    assert "made up" in shown and "new.db: 5 scores, 0 damaged entries" in shown
    for line in ("{}", "no json", '{"task": "zz", "recipe": "cd"}', "[]", json.dumps({**lines[1], "score": None})):
        (tmp_path / "bad.jsonl").write_text(json.dumps(lines[0]) + "\n" + line)
        with ScoreStore(tmp_path / "new.db") as store, pytest.raises(StoreError, match="bad.jsonl', line 2 is not"):
            store.merge(tmp_path / "bad.jsonl")
    for content in (None, b"\xff\xfe"):
        if content:
            (tmp_path / "none.jsonl").write_bytes(content)
        with ScoreStore(tmp_path / "new.db") as store, pytest.raises(StoreError, match="cannot be read as exported scores"):
            store.merge(tmp_path / "none.jsonl")


@pytest.mark.parametrize("command", [("info", "none.db"), ("merge", "out.db", "none.db"), ("export", "none.db")])
def test_commands_on_nothing_leave_nothing(command, tmp_path, dsenv):
    assert "no store of scores" in dsenv("store", *command, ok=False)
    assert list(tmp_path.iterdir()) == []
