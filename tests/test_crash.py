"""Kills, full disks, folders that cannot be written, and several writers at once: nothing is half-written, nothing is lost."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmarks import crash, leaderboard
from benchmarks.crash_writers import MINE, WRITERS, Writer, held
from dsenv import encoders
from dsenv.checkpoints import save_checkpoint
from dsenv.errors import DsenvError, InputError
from dsenv.evaluation import load_rows, save_results
from dsenv.files import atomic_write, locked
from dsenv.finalists import select_finalist
from dsenv.finetuning import TargetResult, fine_tune
from dsenv.proxies import store as store_module
from dsenv.proxies.entries import Entry, Key, pack_counts
from dsenv.proxies.store import ScoreStore
from dsenv.run_folder import RunFolder
from dsenv.selection import Selection
from dsenv.synthetic import synthetic_task, synthetic_texts
from dsenv.tables import write_table
from dsenv.task import SelectionTask
from tests.crash_programs import begins_anew, hold, writes_in_place
from tests.test_cli import dsenv
from tests.test_finetuning import save_encoder
from tests.test_leaderboard import row

ROOT = Path(__file__).parent.parent
LIMIT = 64 * 1024  # bytes of a full disk
ID = "DataSelect-Synthetic-v0"


def names(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file() or MINE.fullmatch(path.name))


def run_crashes(tmp_path, kills, *writers):
    path = tmp_path / "crash.json"
    command = [sys.executable, "-m", "benchmarks.crash", "--kills", str(kills), "--json", str(path), "--writers", *writers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())


@pytest.mark.slow
def test_nothing_is_lost_when_writers_are_killed(tmp_path):
    record = run_crashes(tmp_path, 8, "leaderboard", "evaluate")
    total = record["total"]
    assert total["kills"] == 8 and total["acknowledged"] > 100 and total["runs"] == total["same"] > 0
    assert total["lost"] == total["half_written"] == total["stuck"] == 0


@pytest.mark.slow
def test_nothing_is_lost_when_any_writer_is_killed(tmp_path):
    record = run_crashes(tmp_path, 21, *(writer.name for writer in WRITERS))
    assert record["total"]["kills"] == 21 and record["total"]["kills_in_a_write"] > 3
    assert min(count["kills"] for count in record["writers"].values()) >= 1


def test_the_committed_record_lost_nothing():
    record = json.loads((crash.RESULTS / "crash.json").read_text())
    total = record["total"]
    assert set(record["writers"]) == {writer.name for writer in WRITERS} and total["kills"] >= 200
    assert total["lost"] == total["half_written"] == total["stuck"] == 0 and total["same"] == total["runs"]


@pytest.mark.parametrize(("careless", "counted"), [(begins_anew, "lost"), (writes_in_place, "half_written")])
def test_careless_writers_are_found_out(tmp_path, careless, counted):
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.crash_writers"])
    crashes = crash.Crashes(Writer("careless", careless, 1), tmp_path, random.Random(0))
    crashes.run(4)
    assert crashes.count.kills == 4 and getattr(crashes.count, counted) > 0 and crashes.count.wrong > 0


def test_a_write_reaches_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, told = tmp_path / "a.json", []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: told.append((path.exists(), os.fstat(file).st_size)) or real(file))
    with atomic_write(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert told[0] == (False, 5) and len(told) == 2 and told[1][0]


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    path, old = tmp_path / "a[1].json", (time.time() - 90_000,) * 2
    left = {
        name: tmp_path / name
        for name in (".a[1].json.0123abcd.tmp", ".a[1].json.4567abcd.tmp", ".a[1].json.89ababcd.tmp", ".a1.json.0123abcd.tmp",
                     ".a[1].json.mine.tmp")
    }  # fmt: skip
    for name, folder in left.items():
        folder.mkdir()
        (folder / "content").write_text("half", encoding="utf-8")
        if "89ab" not in name:  # a writer is at work
            os.utime(folder / "content", old)
        if "4567" not in name:  # it has just begun
            os.utime(folder, old)
    with atomic_write(path) as temporary:
        assert MINE.fullmatch(temporary.parent.name)
        temporary.write_text("{}", encoding="utf-8")
    assert {one.name for one in tmp_path.iterdir()} == {path.name, *left} - {".a[1].json.0123abcd.tmp"}


def test_files_are_as_readable_as_others(tmp_path):
    """Also those of libraries that write files for their owner alone."""
    (tmp_path / "usual").touch()
    some_checkpoint(tmp_path / "a.checkpoint", 2)
    _write(tmp_path / "bytes.bin", b"1")
    assert len({(tmp_path / name).stat().st_mode for name in ("usual", "a.checkpoint", "bytes.bin")}) == 1


# ---- full disks


@contextlib.contextmanager
def limited():
    """No file of this process may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["largest file", "disk"])
def small_disk(request, tmp_path):
    """A folder, and a context in which little fits into it."""
    if request.param == "largest file":
        yield tmp_path, limited
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")

    @contextlib.contextmanager
    def full():
        filler = folder / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(folder).free - LIMIT))
        yield
        filler.unlink()

    try:
        yield folder, full
    finally:
        subprocess.run(["umount", folder], check=True)


def big_selection(rows):
    return Selection(rows=tuple(range(rows)), method="random", task="t", task_digest="d", fingerprint="f", pool=10**6)


def some_entries(number):
    keys = [Key("ab" * 32, "cd" * 32, "", pack_counts(np.array([n, n // 7] + [1] * 200))) for n in range(number)]
    return [Entry(key, 0.5, 0.1) for key in keys]


def some_checkpoint(path, width):
    layer = torch.nn.Linear(width, width)
    optimizer = torch.optim.AdamW(layer.parameters())
    facts = {"run": "", "steps": 1, "tokens": 1, "losses": [1.0], "seconds": 1.0}
    save_checkpoint(path, list(layer.parameters()), optimizer, "cpu", facts)


WRITES = {
    "bytes.bin": lambda path, big: _write(path, bytes(10**6 if big else 10)),
    "selection.json": lambda path, big: big_selection(40_000 if big else 10).save(path),
    "results.jsonl": lambda path, big: save_results([row("x", seed, 0.5) for seed in range(2_000 if big else 1)], path),
    "rows.csv": lambda path, big: write_table({"text": ["x" * 1_000] * (1_000 if big else 1)}, path),
    "rows.parquet": lambda path, big: write_table({"text": [f"{n:099d}{n * n}" for n in range(90_000 if big else 1)]}, path),
    "target.json": lambda path, big: TargetResult("x", 1, (0.5,) * (90_000 if big else 1), {}, ()).save(path),
    "a.checkpoint": lambda path, big: some_checkpoint(path, 400 if big else 4),
}


def _write(path, content):
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_leaves_the_old_file(small_disk, name):
    (folder, full), write = small_disk, WRITES[name]
    path = folder / name
    write(path, False)
    old = path.read_bytes()
    with full(), pytest.raises(OSError, match=name.replace(".", r"\.")):
        write(path, True)
    assert path.read_bytes() == old and names(folder) == [name]
    write(path, True)
    assert len(path.read_bytes()) > 3 * LIMIT and names(folder) == [name]


def test_a_full_disk_and_the_task_of_a_run(small_disk):
    folder, full = small_disk
    run, task = RunFolder(folder / "run"), synthetic_task()
    with full(), pytest.raises(OSError, match=r"run/task\.npz"):
        run.keep_task(task)
    assert names(folder) == []
    run.keep_task(task)
    with full(), pytest.raises(OSError, match=r"selections/random-0\.json"):
        run.keep_selection(big_selection(40_000))
    assert run.task.digest == task.digest and run.selections == {} and names(folder) == ["task.npz"]
    run.keep_selection(big_selection(40_000))
    assert list(run.selections) == ["random-0"]


class WideEncoder:
    identity = "wide"

    def encode(self, texts):
        return np.ones((len(texts), 400), np.float32)


def test_a_full_disk_and_the_cache(small_disk, monkeypatch):
    folder, full = small_disk
    monkeypatch.setattr(encoders, "RANGE_ROWS", 100)
    texts = synthetic_texts(rows=300, held_out=60)
    with full(), pytest.raises(OSError, match=r"vectors/.*\.npz"):
        encoders.encode(texts, WideEncoder(), cache_dir=folder)
    assert not any(MINE.fullmatch(name) for name in names(folder))
    assert encoders.encode(texts, WideEncoder(), cache_dir=folder)["train"].shape == (300, 400)
    assert len(held(folder)) == len(names(folder)) >= 5


def test_a_full_disk_and_a_store(small_disk):
    folder, full = small_disk
    path, entries = folder / "scores.db", some_entries(2_000)
    with ScoreStore(path) as store:
        store.put(entries[:20])
    kept = 20
    with full(), pytest.raises(DsenvError, match=r"scores\.db.* disk is full"), ScoreStore(path) as store:
        for entry in entries[20:]:
            store.put([entry])
            kept += 1
    with ScoreStore(path) as store:
        assert store.info().scores == kept and store.info().damaged == 0
        store.put(entries)
        assert store.info().scores == len(entries)


@pytest.mark.slow
def test_commands_on_a_full_disk_end_with_a_line(small_disk, tmp_path_factory):
    (folder, full), inputs = small_disk, tmp_path_factory.mktemp("inputs")
    rows = synthetic_texts(rows=900, held_out=90).train
    table = write_table({"text": rows.texts, "label": rows.labels.tolist()}, inputs / "rows.csv")
    save_encoder(inputs)
    task = synthetic_task().save(inputs / "task.npz")
    commands = {
        "build": ("build", table, "--encoder", "tfidf", "--clusters", 8, "--cache-dir", "cache", "--out", "task.npz"),
        "select": ("select", task, "--method", "random", "--budget", 1.0, "--run", "run", "--out", "selection.json"),
        "finetune": ("finetune", "all", table, "--target", inputs, "--epochs", 2, "--max-length", 8, "--out", "t.json"),
    }
    for name, words in commands.items():
        with full():
            told = dsenv("--quiet", *words, cwd=folder, ok=False).splitlines()
        assert told[-1].startswith("error: ") and len([line for line in told if "rror" in line]) == 1, (name, told)
        assert not [left for left in names(folder) if MINE.fullmatch(left)]
    dsenv("--quiet", *commands["select"], cwd=folder)
    assert set(names(folder)) > {"selection.json", "commands.txt"}


# ---- folders that cannot be written


@pytest.fixture
def read_only():
    """A folder that this process may read; root, who may write anywhere, is somebody else for that long."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "here").mkdir()
        (folder / "here" / "selection.json").write_text("old", encoding="utf-8")
        for path in (folder, folder / "here"):
            path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder / "here"
        finally:
            if root:
                os.seteuid(0)
            for path in (folder, folder / "here"):
                path.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_named(read_only):
    path = read_only / "selection.json"
    with pytest.raises(PermissionError) as failed:
        big_selection(3).save(path)
    assert str(failed.value) == f"[Errno 13] Permission denied: {str(path)!r}"
    for kept in (lambda run: run.keep_task(synthetic_task()), lambda run: run.keep_command(["x"])):
        with pytest.raises(PermissionError, match=str(read_only)):
            kept(RunFolder(read_only / "run"))
    with pytest.raises(PermissionError, match=str(read_only)):
        encoders.encode(synthetic_texts(60, 30), WideEncoder(), cache_dir=read_only)
    with pytest.raises(DsenvError, match=f"{read_only}/s.db"):
        ScoreStore(read_only / "s.db")
    assert names(read_only) == ["selection.json"] and path.read_text() == "old"


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for path in (tmp_path / "file" / "a.json", tmp_path / "file" / "b" / "a.json"):
        for write in (big_selection(3).save, lambda path: RunFolder(path.parent).keep_command(["x"])):
            with pytest.raises(NotADirectoryError, match=r"Not a directory: '.*/file"):
                write(path)
    told = dsenv("select", "synthetic", "--method", "random", "--out", "file/a.json", cwd=tmp_path, ok=False)
    assert told.splitlines()[-1] == "error: [Errno 20] Not a directory: 'file'"
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == ["file"]


# ---- several writers at once


def test_a_killed_holder_of_a_lock_lets_the_next_in(tmp_path):
    path, context = tmp_path / "results.jsonl", multiprocessing.get_context("spawn")
    taken = context.Event()
    holder = context.Process(target=hold, args=(path, taken))
    holder.start()
    assert taken.wait(60)
    with pytest.raises(InputError, match=r"results\.jsonl' is being written by another process: wait until"), locked(path, 0):
        pass
    holder.kill()
    holder.join()
    assert names(tmp_path) == [".results.jsonl.lock"]
    with locked(path, 0):
        pass
    assert names(tmp_path) == []


def test_one_at_a_time_in_a_lock(tmp_path):
    inside, seen = [], []

    def enter(number):
        with locked(tmp_path / "x"):
            inside.append(number)
            seen.append(len(inside))
            time.sleep(0.001)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(64)))
    assert seen == [1] * 64 and names(tmp_path) == []


def test_what_several_keep_in_a_run_is_all_there(tmp_path):
    """Selections of one method and seed with other rows, and command lines, from eight threads."""
    run = RunFolder(tmp_path / "run")

    def keep(number):
        run.keep_selection(big_selection(number + 1))
        run.keep_command(["dsenv", "select", str(number)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, range(16)))
    assert sorted(len(found.rows) for found in run.selections.values()) == list(range(1, 17))
    assert sorted(int(line.split()[-1]) for line in run.commands) == list(range(16))


def test_two_tasks_do_not_share_a_run(tmp_path):
    run, errors = RunFolder(tmp_path / "run"), []
    tasks = [synthetic_task(seed=seed) for seed in range(4)]

    def keep(task):
        try:
            run.keep_task(task)
        except InputError as error:
            errors.append(error)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, tasks))
    assert len(errors) == 3 and run.task.digest in {task.digest for task in tasks}


def at_once(tmp_path, commands):
    """Start commands in processes of their own at the same moment; return their output."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in commands
    ]
    told = [process.communicate(timeout=300)[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * len(begun), told
    return told


def test_two_commands_keep_in_one_run(tmp_path):
    select = ("dsenv.cli", "select", "synthetic", "--method", "random", "--run", "run")
    at_once(tmp_path, [(*select, "--seed", seed, "--out", f"{seed}.json") for seed in range(3)])
    run = RunFolder(tmp_path / "run")
    assert set(run.selections) == {"random-0", "random-1", "random-2"} and len(run.commands) == 3
    assert not [name for name in names(tmp_path) if MINE.fullmatch(name)]


@pytest.mark.slow
def test_two_leaderboards_in_one_folder(tmp_path):
    common = ("--ids", ID, "--evaluations", 64, "--seeds", 8, "--json", "leaderboard.json")
    agents = [("greedy", "swap"), ("best_of", "swap")]
    at_once(tmp_path, [("benchmarks.leaderboard", "--agents", *two, *common) for two in agents])
    found = load_rows(tmp_path / "leaderboard" / f"{ID}.jsonl")
    assert [(one.agent, one.seed) for one in found] == [(a, s) for a in ("best_of", "greedy", "swap") for s in range(8)]
    assert names(tmp_path) == [f"{ID}.jsonl", "leaderboard.json"]


def test_rows_of_several_leaderboards_are_all_stored(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: leaderboard.store_run(tmp_path, (ID, "x", seed), [row("x", seed, 0.5)]), range(32)))
    assert [one.seed for one in load_rows(tmp_path / f"{ID}.jsonl")] == list(range(32))


def test_a_file_of_results_has_one_writer(tmp_path, tiny, texts, tiny_task):
    """evaluate, fine_tune and the deciding fine-tunes refuse at once, before they do any work."""
    (tmp_path / "bert").mkdir()
    save_encoder(tmp_path / "bert")
    paths = [tmp_path / name for name in ("results.jsonl", "target.json", "scores.json")]
    with contextlib.ExitStack() as held_locks:
        for path in paths:
            held_locks.enter_context(locked(path))
        told = dsenv("evaluate", "greedy", "--id", ID, "--evaluations", 8, "--out", paths[0], cwd=tmp_path, ok=False)
        assert "results.jsonl' is being written by another process" in told and told.startswith("error: ")
        with pytest.raises(InputError, match=r"target\.json' is being written by another process"):
            fine_tune(None, texts, str(tmp_path / "bert"), seeds=[0], path=paths[1])
        with pytest.raises(InputError, match=r"scores\.json' is being written by another process"):
            select_finalist(tiny_task, tiny, str(tmp_path / "bert"), budget=0.2, count=2, evaluations=20, path=paths[2])
    assert not any(path.exists() for path in paths)
    dsenv("evaluate", "greedy", "--id", ID, "--evaluations", 8, "--out", paths[0], cwd=tmp_path)
    assert len(load_rows(paths[0])) == 3


@pytest.mark.slow
def test_builds_at_once_in_one_cache(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        rows = synthetic_texts(rows=900, held_out=90, seed=seed).train
        write_table({"text": rows.texts, "label": rows.labels.tolist()}, tmp_path / f"{name}.csv")

    def build(name, cache, out):
        where = ("--cache-dir", cache, "--out", out)
        return ("dsenv.cli", "build", f"{name}.csv", "--encoder", "minilm-fast", "--clusters", 8, *where)

    for name in ("one", "two"):
        at_once(tmp_path, [build(name, f"cache-{name}", f"{name}.npz")])
    at_once(tmp_path, [build(name, "shared", f"{name}{n}.npz") for n, name in enumerate(("one", "one", "two", "one"))])
    digests = [SelectionTask.load(tmp_path / f"{name}.npz").digest for name in ("one", "two", "one0", "one1", "two2", "one3")]
    assert digests[2] == digests[3] == digests[5] == digests[0] != digests[1] == digests[4]
    vectors = {path.name: path.read_bytes() for name in ("one", "two") for path in (tmp_path / f"cache-{name}").rglob("*.npz")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file()} == vectors


# ---- what the kills have found


def test_a_resumed_evaluation_keeps_what_it_has_not_come_to(tmp_path, monkeypatch):
    command = ("evaluate", "greedy", "--id", ID, "--evaluations", 8, "--seeds", 4)
    dsenv(*command, cwd=tmp_path)
    (tmp_path / "results.jsonl").rename(tmp_path / "results.jsonl.partial")
    stored = []

    def save(rows, path):
        stored.append(len(rows))
        save_results(rows, path)

    monkeypatch.setattr("dsenv.evaluation.save_results", save)
    dsenv(*command, cwd=tmp_path)
    assert set(stored) == {4}
    assert [one.seed for one in load_rows(tmp_path / "results.jsonl")] == [0, 1, 2, 3]


def test_a_store_that_another_is_making_is_a_store(tmp_path, monkeypatch):
    """Between two looks at the header, another process makes the tables."""
    path, making = tmp_path / "s.db", []

    class Interrupted(store_module.sqlite3.Connection):
        def execute(self, statement, *values):
            found = super().execute(statement, *values)
            if statement == "PRAGMA application_id" and not making:
                making.append(threading.Thread(target=lambda: ScoreStore(path).close()))
                making[0].start()
                making[0].join(1)
            return found

    connect = store_module.sqlite3.connect
    monkeypatch.setattr(store_module.sqlite3, "connect", lambda *a, **k: connect(*a, factory=Interrupted, **k))
    with ScoreStore(path) as store:
        making[0].join()
        store.put(some_entries(3))
        assert store.info().scores == 3


def test_the_model_is_written_before_its_result(tmp_path, texts, llama, monkeypatch):
    """A kill while the model is written leaves no result that says it is done; the same call goes on."""
    path, model = tmp_path / "target.json", tmp_path / "model"
    call = {"seeds": [0], "epochs": 2, "max_length": 16, "path": path, "out": model}
    rows = list(range(60))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("transformers.PreTrainedModel.save_pretrained", Mock(side_effect=KeyboardInterrupt))
        fine_tune(rows, texts, llama, **call)
    assert not path.exists() and Path(f"{path}.seed0.checkpoint").exists()
    found = fine_tune(rows, texts, llama, **call)
    assert (model / "model.safetensors").is_file() and path.is_file() and not Path(f"{path}.seed0.checkpoint").exists()
    Path(f"{path}.seed0.checkpoint").write_bytes(b"of a process that was killed before it removed this")
    assert fine_tune(rows, texts, llama, **{**call, "out": None}) == found
    assert not Path(f"{path}.seed0.checkpoint").exists()


WORKERS = """
import os, sys, time
from concurrent.futures import wait
from benchmarks.workers import worker_processes
from dsenv.errors import ending_cleanly
if __name__ == "__main__":
    with ending_cleanly(), worker_processes(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(8)}, flush=True)
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.parametrize("killed", ["program", "worker"])
def test_workers_of_benchmarks_end_with_them(tmp_path, killed):
    (tmp_path / "program.py").write_text(WORKERS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen([sys.executable, tmp_path / "program.py"], env=environment, text=True, **pipes)
    workers = [int(word) for word in program.stdout.readline().split()]
    assert workers
    os.kill(workers[0] if killed == "worker" else program.pid, 9)
    _, errors = program.communicate(timeout=60)  # which ends when nobody has the pipes any more
    if killed == "worker":
        assert program.returncode == 2 and errors.splitlines()[-1].startswith("error: a worker process was killed")
    for worker in workers:
        until = time.monotonic() + 20
        while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{worker}").exists()
